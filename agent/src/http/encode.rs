//! Bytes of an answer: JSON exactly as the API's clients know it, and its gzip form.
//!
//! The reference is written in Go, and clients compare bytes (hashes of bodies, golden files), so
//! the encoder follows Go's `encoding/json`: `<`, `>`, `&` and the two line separators of Unicode are
//! escaped, the short forms `\b` and `\f` are not used, and the readable form is indented by four
//! blanks and ends with a new line. Keys come in the order of the row types in `rows.rs`.

use std::cell::RefCell;
use std::io::{self, Write};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// Layout of the JSON of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Layout {
    /// On one line, nothing behind it.
    #[default]
    Compact,
    /// Indented by four blanks, with a new line at the end (`?pretty`, and always in `-dev`).
    Pretty,
}

/// Encodes a value. The types encoded here are maps with text keys, lists, text and numbers, for
/// which encoding cannot fail.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T, layout: Layout) -> Vec<u8> {
    json_of(value, layout, 128)
}

/// The same for a value whose length is known, about.
pub(crate) fn json_of<T: Serialize + ?Sized>(value: &T, layout: Layout, about: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(about);
    let encoded = match layout {
        Layout::Compact => {
            value.serialize(&mut Serializer::with_formatter(&mut out, Go(CompactFormatter)))
        }
        Layout::Pretty => value.serialize(&mut Serializer::with_formatter(
            &mut out,
            Go(PrettyFormatter::with_indent(b"    ")),
        )),
    };
    encoded.expect("rows have text keys and are written to memory");
    if layout == Layout::Pretty {
        out.push(b'\n');
    }
    out
}

/// Up to here a body is put into its gzip form as it is: it goes out in one packet either way, and looking for
/// repetitions in it takes longer than all the rest of the request. Clients written in Go accept gzip always.
const STORED_BYTES_MAX: usize = 1200;

thread_local! {
    /// A compressor is a third of a megabyte: made once, not for each answer.
    static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

/// The gzip form of a body, at the fastest level: answers are short-lived and mostly small.
pub(crate) fn gzip(body: &[u8]) -> Bytes {
    // No time, no name; "fastest", "made by an unknown system" (RFC 1952).
    const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
    let is_stored = body.len() <= STORED_BYTES_MAX;
    let about = if is_stored { body.len() } else { body.len() / 4 };
    let mut out = Vec::with_capacity(about + 64);
    out.extend_from_slice(&HEAD);
    match u16::try_from(body.len()) {
        Ok(length) if is_stored => {
            // The last block, stored: its length, the same inverted, the bytes (RFC 1951).
            out.push(1);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(body);
        }
        _ => COMPRESS.with_borrow_mut(|compress| deflate(compress, body, &mut out)),
    }
    out.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    // Of the length, the format keeps the lowest 32 bits.
    out.extend_from_slice(&body.len().to_le_bytes()[..4]);
    Bytes::from(out)
}

fn deflate(compress: &mut Compress, body: &[u8], out: &mut Vec<u8>) {
    compress.reset();
    loop {
        let done = usize::try_from(compress.total_in()).expect("no more than the body has");
        let status = compress.compress_vec(&body[done..], out, FlushCompress::Finish);
        if status.expect("a compressor that was reset takes anything") == Status::StreamEnd {
            return;
        }
        out.reserve(out.len().max(1024));
    }
}

/// Is there nothing that Go escapes and others do not? Looks at many bytes at once, without a jump among them.
fn is_plain(bytes: &[u8]) -> bool {
    let special = |byte: &u8| matches!(*byte, b'<' | b'>' | b'&' | 0xE2);
    let any = |bytes: &[u8]| bytes.iter().fold(false, |found, byte| found | special(byte));
    let mut wide = bytes.chunks_exact(32);
    wide.all(|bytes| !any(bytes)) && !any(wide.remainder())
}

/// A layout with Go's escapes.
struct Go<F>(F);

impl<F: Formatter> Formatter for Go<F> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let bytes = fragment.as_bytes();
        if is_plain(bytes) {
            return writer.write_all(bytes);
        }
        let mut done = 0;
        let mut at = 0;
        while at < bytes.len() {
            let (escaped, width): (&[u8], usize) = match bytes[at] {
                b'<' => (b"\\u003c", 1),
                b'>' => (b"\\u003e", 1),
                b'&' => (b"\\u0026", 1),
                // U+2028 and U+2029 are E2 80 A8 and E2 80 A9.
                0xE2 if bytes[at + 1..].starts_with(&[0x80, 0xA8]) => (b"\\u2028", 3),
                0xE2 if bytes[at + 1..].starts_with(&[0x80, 0xA9]) => (b"\\u2029", 3),
                _ => {
                    at += 1;
                    continue;
                }
            };
            writer.write_all(&bytes[done..at])?;
            writer.write_all(escaped)?;
            at += width;
            done = at;
        }
        writer.write_all(&bytes[done..])
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Backspace => writer.write_all(b"\\u0008"),
            CharEscape::FormFeed => writer.write_all(b"\\u000c"),
            other => self.0.write_char_escape(writer, other),
        }
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }
    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }
    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }
    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }
    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }
    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }
    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
    fn write_raw_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        self.0.write_raw_fragment(writer, fragment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_as_go_does() {
        let rows = [
            ("a<b>&c", r#""a\u003cb\u003e\u0026c""#),
            ("\u{2028}x\u{2029}", r#""\u2028x\u2029""#),
            ("\u{8}\u{c}\n\r\t\u{1}", r#""\u0008\u000c\n\r\t\u0001""#),
            ("âé\"\\/", r#""âé\"\\/""#),
            ("\u{2027}\u{202a}", "\"\u{2027}\u{202a}\""),
            ("01234567890123456789012345678901>", r#""01234567890123456789012345678901\u003e""#),
            ("0123456789012345678901234567890&1", r#""0123456789012345678901234567890\u00261""#),
        ];
        for (text, expected) in rows {
            assert_eq!(String::from_utf8(json(text, Layout::Compact)).unwrap(), expected);
        }
    }

    #[test]
    fn the_gzip_form_unpacks_to_the_body() {
        use std::io::Read as _;
        let noise = |n: usize| (n * n * 31).to_le_bytes()[1];
        for length in [0, 1, 100, STORED_BYTES_MAX, STORED_BYTES_MAX + 1, 5_000, 70_000, 300_000] {
            let bodies: [Vec<u8>; 3] = [
                vec![b'x'; length],
                (0..length).map(noise).collect(),
                b"{\"Node\":\"n\"}".iter().copied().cycle().take(length).collect(),
            ];
            for body in bodies {
                let zipped = gzip(&body);
                let mut unpacked = Vec::new();
                flate2::read::GzDecoder::new(&zipped[..]).read_to_end(&mut unpacked).unwrap();
                assert!(unpacked == body, "{length} bytes");
                assert!(zipped.len() <= body.len() + body.len() / 1000 + 64, "{length} bytes grew");
            }
        }
        assert!(gzip(&vec![b'x'; 70_000]).len() < 1_000);
    }

    #[test]
    fn the_readable_form_ends_with_a_new_line() {
        let value = serde_json::json!({"a": [1], "b": [], "c": {}});
        assert_eq!(
            String::from_utf8(json(&value, Layout::Pretty)).unwrap(),
            "{\n    \"a\": [\n        1\n    ],\n    \"b\": [],\n    \"c\": {}\n}\n"
        );
    }
}
