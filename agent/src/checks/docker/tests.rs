use std::path::PathBuf;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;

use super::*;

/// A line of a request, and its body.
type Requests = Arc<Mutex<Vec<String>>>;

/// An engine whose containers are named after what a program in them does: `exits-1`, `floods`,
/// `hangs`, `gone`, `paused`, `broken`.
struct Fake {
    _folder: tempfile::TempDir,
    path: PathBuf,
    requests: Requests,
}

impl Fake {
    fn start() -> Fake {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine");
        let listener = UnixListener::bind(&path).unwrap();
        let requests = Requests::default();
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&seen)));
            }
        });
        Fake { _folder: folder, path, requests }
    }

    fn engine(&self) -> Engine {
        Engine::new(&format!("unix://{}", self.path.display()))
    }
}

fn json(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nApi-Version: 1.40\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn serve(stream: tokio::net::UnixStream, seen: Requests) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header).await.unwrap() <= 2 {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (_, path) = path
        .split_once("/v1.")
        .map_or(("", &*path), |(_, rest)| rest.split_once('/').unwrap_or_default());
    let path = path.trim_start_matches('/').split('?').next().unwrap_or_default().to_owned();
    seen.lock().push(format!("{path} {}", String::from_utf8_lossy(&body)));
    let steps: Vec<&str> = path.split('/').collect();
    let answer = match *steps {
        ["version"] => json(200, r#"{"ApiVersion":"1.40","MinAPIVersion":"1.12"}"#),
        ["containers", "gone", _] => json(404, r#"{"message":"No such container: gone"}"#),
        ["containers", "paused", _] => json(409, r#"{"message":"is paused"}"#),
        ["containers", "broken", _] => json(500, r#"{"message":"oops"}"#),
        ["containers", name, _] => json(201, &format!(r#"{{"Id":"{name}"}}"#)),
        ["exec", name, "start"] => {
            stream
                .write_all(
                    b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n",
                )
                .await
                .unwrap();
            let text = if name == "floods" { "x".repeat(9000) } else { format!("out of {name}\n") };
            for (channel, text) in [(1, text), (2, "err\n".to_owned())] {
                let mut frame = vec![channel, 0, 0, 0];
                frame.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                frame.extend(text.as_bytes());
                stream.write_all(&frame).await.unwrap();
            }
            if name == "hangs" {
                std::future::pending::<()>().await;
            }
            let _ = stream.shutdown().await;
            return;
        }
        ["exec", "hangs", "json"] => json(200, r#"{"Running":true,"ExitCode":null}"#),
        ["exec", name, "json"] => {
            let code = name.strip_prefix("exits-").unwrap_or("0");
            json(200, &format!(r#"{{"Running":false,"ExitCode":{code}}}"#))
        }
        _ => json(404, r#"{"message":"page not found"}"#),
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn command(container: &str, timeout: Duration) -> Command {
    Command {
        container: container.to_owned(),
        shell: String::new(),
        args: vec!["/check".into(), "a b".into()],
        timeout,
        output_bytes_max: 4096,
    }
}

#[tokio::test]
async fn exit_codes_output_and_refusals() {
    let fake = Fake::start();
    let engine = fake.engine();
    let flood = format!("Captured 4096 of 9004 bytes\n...\n{}err\n", "x".repeat(4092));
    let rows = [
        ("exits-0", Status::Passing, "out of exits-0\nerr\n"),
        ("exits-1", Status::Warning, "out of exits-1\nerr\n"),
        ("exits-2", Status::Critical, "out of exits-2\nerr\n"),
        ("exits-137", Status::Critical, "out of exits-137\nerr\n"),
        ("floods", Status::Passing, &flood),
        ("gone", Status::Critical, "create exec failed for unknown container gone"),
        (
            "paused",
            Status::Critical,
            "create exec failed since container paused is paused or stopped",
        ),
        (
            "broken",
            Status::Critical,
            "create exec failed for container broken with status 500: oops",
        ),
    ];
    for (container, status, output) in rows {
        let outcome = probe(&command(container, Duration::from_secs(20)), &engine).await;
        assert_eq!(outcome, CheckResult::new(status, output), "{container}");
    }
    let requests = fake.requests.lock().clone();
    let created = requests.iter().find(|r| r.starts_with("containers/exits-0/exec ")).unwrap();
    let body: serde_json::Value = serde_json::from_str(created.split_once(' ').unwrap().1).unwrap();
    assert_eq!(body["Cmd"], serde_json::json!(["/check", "a b"]));
    assert_eq!((&body["AttachStdout"], &body["AttachStderr"]), (&true.into(), &true.into()));
    assert_eq!(requests.iter().filter(|r| r.starts_with("version")).count(), 1, "asked once");
}

#[tokio::test]
async fn a_program_that_hangs_is_not_started_again() {
    let fake = Fake::start();
    let engine = fake.engine();
    let hanging = command("hangs", Duration::from_secs(2));
    assert_eq!(
        probe(&hanging, &engine).await,
        CheckResult::critical("Timed out (2s) running check\n\nout of hangs\nerr\n").decisive()
    );
    assert_eq!(
        probe(&hanging, &engine).await,
        CheckResult::critical(
            "the previous run in container hangs has not ended; no other is started"
        )
    );
    let requests = fake.requests.lock().clone();
    let started = requests.iter().filter(|r| r.starts_with("exec/hangs/start")).count();
    assert_eq!(started, 1, "{requests:?}");
}

#[tokio::test]
async fn without_an_engine_it_is_critical_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::new(&format!("unix://{}/nowhere", folder.path().display()));
    let outcome = probe(&command("c", Duration::from_secs(20)), &engine).await;
    assert_eq!(outcome.status, Status::Critical);
    let begin = "create exec failed for container c: cannot reach the engine at unix://";
    assert!(outcome.output.starts_with(begin), "{}", outcome.output);
    let odd = Engine::new("carrier-pigeon://x");
    let outcome = probe(&command("c", Duration::from_secs(20)), &odd).await;
    assert!(outcome.output.contains("carrier-pigeon"), "{}", outcome.output);
}

#[test]
fn a_shell_runs_a_line_or_words_that_stay_apart() {
    let rows: [(&str, &[&str], &[&str]); 3] = [
        ("", &["a", "b c"], &["a", "b c"]),
        ("/bin/bash", &["a | b"], &["/bin/bash", "-c", "a | b"]),
        ("sh", &["a", "b c", "it's"], &["sh", "-c", r"'a' 'b c' 'it'\''s'"]),
    ];
    for (shell, args, expected) in rows {
        let command = Command {
            shell: shell.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..command("c", TIMEOUT)
        };
        assert_eq!(command.line(), expected);
    }
}

#[test]
fn containers_have_names_as_the_engine_gives_them() {
    let id = "0123456789abcdef".repeat(4);
    for (text, name) in
        [("web", "web"), ("/web", "web"), ("A_b.c-9", "A_b.c-9"), ("7", "7"), (&*id, &*id)]
    {
        assert_eq!(container(text).as_deref(), Ok(name));
    }
    let long = "x".repeat(300);
    for text in [
        "../../images/create?fromImage=evil&x=",
        "web/exec",
        "web/../db",
        "..",
        ".web",
        "/",
        "//web",
        "",
        "web?x",
        "web#x",
        "web%2f..",
        "web\\x",
        "we b",
        "web\n",
        "w\u{e4}b",
        &*long,
    ] {
        let error = container(text).unwrap_err();
        assert!(error.starts_with("DockerContainerID: `") && error.len() < 600, "{error}");
    }
}
