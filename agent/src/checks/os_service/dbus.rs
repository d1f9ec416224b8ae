//! As much of D-Bus as one question takes: greeting, a call with a list of names, the answer.
//!
//! Messages are little endian on both sides (the bus is on the same machine); alignment is to the
//! start of the message, and all headers end at a multiple of 8, so that bodies can be read by
//! themselves.

use std::fmt::Write as _;
use std::path::Path;

use nix::unistd::Uid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::Unit;

/// Bytes of one message; an answer about one unit has a few hundred.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Messages that are passed over while an answer is waited for (signals to everybody).
const FOREIGN_MAX: usize = 64;
/// Bytes of a line of the greeting.
const LINE_BYTES_MAX: u64 = 1024;

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;

/// Destination of a call.
struct To {
    destination: &'static str,
    path: &'static str,
    interface: &'static str,
    member: &'static str,
}

const HELLO: To = To {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    member: "Hello",
};
const LIST: To = To {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "ListUnitsByNames",
};

/// Asks systemd for the state of one unit. The error is a text for people.
pub(super) async fn unit(socket: &Path, name: &str) -> Result<Unit, String> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| format!("no bus at {}: {error}", socket.display()))?;
    let mut stream = BufReader::new(stream);
    let broken = |error: std::io::Error| format!("the bus broke off: {error}");
    let mut user = String::new();
    for digit in Uid::effective().to_string().bytes() {
        let _ = write!(user, "{digit:02x}");
    }
    stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes()).await.map_err(broken)?;
    let mut line = String::new();
    (&mut stream).take(LINE_BYTES_MAX).read_line(&mut line).await.map_err(broken)?;
    if !line.starts_with("OK ") {
        return Err(format!("the bus refused this user: {}", line.trim_end()));
    }
    stream.write_all(b"BEGIN\r\n").await.map_err(broken)?;
    call(&mut stream, 1, &HELLO, None).await?;
    let body = call(&mut stream, 2, &LIST, Some(name)).await?;
    parse_unit(&body).ok_or_else(|| "its answer cannot be read".to_owned())
}

/// Sends one call and waits for its answer's body.
async fn call(
    stream: &mut BufReader<UnixStream>,
    serial: u32,
    to: &To,
    name: Option<&str>,
) -> Result<Vec<u8>, String> {
    let broken = |error: std::io::Error| format!("the bus broke off: {error}");
    stream.write_all(&message(serial, to, name)).await.map_err(broken)?;
    for _ in 0..FOREIGN_MAX {
        let mut fixed = [0; 16];
        stream.read_exact(&mut fixed).await.map_err(broken)?;
        let number = |at: usize| {
            u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let size = |at: usize| usize::try_from(number(at)).unwrap_or(usize::MAX);
        let (body_bytes, field_bytes) = (size(4), size(12));
        if fixed[0] != b'l' || body_bytes.max(field_bytes) > MESSAGE_BYTES_MAX {
            return Err("the bus speaks in a way that is not understood".to_owned());
        }
        let mut fields = vec![0; field_bytes.next_multiple_of(8)];
        stream.read_exact(&mut fields).await.map_err(broken)?;
        let mut body = vec![0; body_bytes];
        stream.read_exact(&mut body).await.map_err(broken)?;
        let Some((answers, error)) = parse_fields(&fields[..field_bytes]) else {
            return Err("the bus speaks in a way that is not understood".to_owned());
        };
        match fixed[1] {
            _ if answers != Some(serial) => {}
            ANSWER => return Ok(body),
            ERROR => {
                let text = Reader::new(&body).text().unwrap_or_default();
                return Err(format!("{}: {text}", error.unwrap_or_default()));
            }
            _ => {}
        }
    }
    Err("the bus does not answer".to_owned())
}

/// A call; its only argument is a list with one text.
fn message(serial: u32, to: &To, name: Option<&str>) -> Vec<u8> {
    let mut body = Writer::default();
    if let Some(name) = name {
        let mut list = Writer::default();
        list.text(name);
        body.number(u32::try_from(list.0.len()).unwrap_or(u32::MAX));
        body.0.extend(list.0);
    }
    let mut fields = Writer::default();
    fields.field(1, "o", to.path);
    fields.field(2, "s", to.interface);
    fields.field(3, "s", to.member);
    fields.field(6, "s", to.destination);
    if name.is_some() {
        fields.pad(8);
        fields.0.push(8);
        fields.signature("g");
        fields.signature("as");
    }
    let mut out = Writer(vec![b'l', CALL, 0, 1]);
    out.number(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    out.number(serial);
    // The list of fields starts at 16, so that its own alignment is the message's.
    out.number(u32::try_from(fields.0.len()).unwrap_or(u32::MAX));
    out.0.extend(fields.0);
    out.pad(8);
    out.0.extend(body.0);
    out.0
}

/// The call that a message answers, and the name of its error.
fn parse_fields(bytes: &[u8]) -> Option<(Option<u32>, Option<String>)> {
    let mut reader = Reader::new(bytes);
    let (mut answers, mut error) = (None, None);
    while reader.at < bytes.len() {
        reader.align(8)?;
        if reader.at == bytes.len() {
            break;
        }
        let code = reader.byte()?;
        let signature = reader.signature()?;
        match signature.as_str() {
            "u" => {
                let number = reader.number()?;
                if code == 5 {
                    answers = Some(number);
                }
            }
            "s" | "o" => {
                let text = reader.text()?;
                if code == 4 {
                    error = Some(text);
                }
            }
            "g" => {
                reader.signature()?;
            }
            _ => return None,
        }
    }
    Some((answers, error))
}

/// The first of the units in an answer: `a(ssssssouso)`.
fn parse_unit(body: &[u8]) -> Option<Unit> {
    let mut reader = Reader::new(body);
    if reader.number()? == 0 {
        return None;
    }
    reader.align(8)?;
    let (_name, _description) = (reader.text()?, reader.text()?);
    Some(Unit { load: reader.text()?, active: reader.text()?, sub: reader.text()? })
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.pad(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, kind: &str, text: &str) {
        self.pad(8);
        self.0.push(code);
        self.signature(kind);
        self.text(text);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(|_| ())
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes = self.take(4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn string(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        self.string(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.string(length)
    }
}
