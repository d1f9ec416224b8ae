use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::*;

/// A text as D-Bus writes it, at the next multiple of 4.
fn put(out: &mut Vec<u8>, text: &str) {
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}

/// An answer to the call `serial`, or an error of that name.
fn answer(serial: u32, error: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut fields = vec![5, 1, b'u', 0];
    fields.extend(serial.to_le_bytes());
    if let Some(error) = error {
        fields.extend([4, 1, b's', 0]);
        put(&mut fields, error);
    }
    let mut out = vec![b'l', if error.is_some() { 3 } else { 2 }, 0, 1];
    out.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    out.extend(99_u32.to_le_bytes());
    out.extend(u32::try_from(fields.len()).unwrap().to_le_bytes());
    out.extend(fields);
    out.resize(out.len().next_multiple_of(8), 0);
    out.extend(body);
    out
}

fn unit(load: &str, active: &str, sub: &str) -> Vec<u8> {
    let mut entry = Vec::new();
    for text in ["web.service", "A web server", load, active, sub, ""] {
        put(&mut entry, text);
    }
    let mut body = u32::try_from(entry.len()).unwrap().to_le_bytes().to_vec();
    body.extend([0; 4]);
    body.extend(entry);
    body
}

async fn call(stream: &mut UnixStream) -> String {
    let mut fixed = [0; 16];
    stream.read_exact(&mut fixed).await.unwrap();
    let number = |at: usize| {
        usize::try_from(u32::from_le_bytes(fixed[at..at + 4].try_into().unwrap())).unwrap()
    };
    let mut rest = vec![0; number(12).next_multiple_of(8) + number(4)];
    stream.read_exact(&mut rest).await.unwrap();
    String::from_utf8_lossy(&rest).into_owned()
}

/// A bus with a service manager that gives one answer.
fn bus(folder: &tempfile::TempDir, said: Vec<u8>) -> Bus {
    let path = folder.path().join("bus");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut greeting = [0; 256];
        let count = stream.read(&mut greeting).await.unwrap();
        assert!(greeting[..count].starts_with(b"\0AUTH EXTERNAL 3"), "{greeting:?}");
        stream.write_all(b"OK 1234deadbeef\r\n").await.unwrap();
        let mut begin = [0; 7];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"BEGIN\r\n");
        assert!(call(&mut stream).await.contains("Hello"));
        let mut name = Vec::new();
        put(&mut name, ":1.7");
        stream.write_all(&answer(1, None, &name)).await.unwrap();
        // A signal to everybody comes in between.
        let mut signal = answer(2, None, &name);
        (signal[1], signal[16]) = (4, 9);
        stream.write_all(&signal).await.unwrap();
        let asked = call(&mut stream).await;
        assert!(asked.contains("ListUnitsByNames") && asked.contains("web.service"), "{asked}");
        stream.write_all(&said).await.unwrap();
    });
    Bus::new(path)
}

async fn run(name: &str, bus: &Bus) -> CheckResult {
    probe(&Target { unit: name.to_owned(), timeout: Duration::from_secs(20) }, bus).await
}

#[tokio::test]
async fn the_state_of_a_unit_is_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let mut denied = Vec::new();
    put(&mut denied, "no");
    let shown = |state: &str| format!("systemd unit web.service: {state}");
    let rows = [
        (
            "web",
            answer(2, None, &unit("loaded", "active", "running")),
            Status::Passing,
            shown("active (running)"),
        ),
        (
            "web.service",
            answer(2, None, &unit("loaded", "reloading", "reload")),
            Status::Passing,
            shown("reloading (reload)"),
        ),
        (
            "web",
            answer(2, None, &unit("loaded", "activating", "start")),
            Status::Warning,
            shown("activating (start)"),
        ),
        (
            "web",
            answer(2, None, &unit("loaded", "inactive", "dead")),
            Status::Critical,
            shown("inactive (dead)"),
        ),
        (
            "web",
            answer(2, None, &unit("loaded", "failed", "failed")),
            Status::Critical,
            shown("failed (failed)"),
        ),
        (
            "web",
            answer(2, None, &unit("not-found", "inactive", "dead")),
            Status::Critical,
            shown("not found"),
        ),
        (
            "web",
            answer(2, Some("org.freedesktop.DBus.Error.AccessDenied"), &denied),
            Status::Critical,
            "systemd could not be asked: org.freedesktop.DBus.Error.AccessDenied: no".to_owned(),
        ),
        (
            "web",
            answer(2, None, &[1, 0, 0]),
            Status::Critical,
            "systemd could not be asked: its answer cannot be read".to_owned(),
        ),
        (
            "web",
            vec![b'B'; 16],
            Status::Critical,
            "systemd could not be asked: the bus speaks in a way that is not understood".to_owned(),
        ),
    ];
    for (name, said, status, output) in rows {
        let bus = bus(&folder, said);
        assert_eq!(run(name, &bus).await, CheckResult::new(status, output));
    }
}

#[tokio::test]
async fn without_a_bus_it_is_critical_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nowhere");
    let outcome = run("web", &Bus::new(&path)).await;
    let expected = format!(
        "systemd could not be asked: no bus at {}: No such file or directory (os error 2)",
        path.display()
    );
    assert_eq!(outcome, CheckResult::critical(expected));

    let silent = folder.path().join("silent");
    let _listener = UnixListener::bind(&silent).unwrap();
    let target = Target { unit: "web".into(), timeout: Duration::from_millis(50) };
    assert_eq!(
        probe(&target, &Bus::new(silent)).await,
        CheckResult::critical("systemd could not be asked: no answer in time")
    );
}
