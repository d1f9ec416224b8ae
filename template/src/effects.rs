//! What a change really does to the world: commands, the child, requests.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::child::{Handle, State};
use crate::processes;
use crate::transaction::{Told, World};

/// The most that is kept of a command's output; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 16 * 1024;

/// The most that is read of an answer; a version is 16 bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long one look at a URL may take. A reload is waited for by looking often, not by waiting long.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// The real world.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    /// The supervised child, if there is one.
    pub child: Option<Handle>,
}

#[async_trait]
impl World for Effects {
    async fn run(
        &self,
        command: &[String],
        environment: &[(String, String)],
        timeout: Duration,
    ) -> Result<(), String> {
        let Some((program, arguments)) = command.split_first() else { return Ok(()) };
        let mut started = Command::new(program);
        started.args(arguments).envs(environment.iter().cloned());
        started.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process =
            processes::spawn(&mut started).map_err(|error| format!("`{program}`: {error}"))?;
        let (stdout, stderr) = process.streams();
        let ended = tokio::time::timeout(timeout, async {
            let (out, err, code) = tokio::join!(collect(stdout), collect(stderr), process.wait());
            (out + &err, code)
        });
        match ended.await {
            Ok((_, Ok(0))) => Ok(()),
            Ok((output, Ok(code))) => Err(complaint(program, code, &output)),
            Ok((_, Err(error))) => Err(format!("`{program}`: {error}")),
            // Dropping the process kills it and all it started.
            Err(_) => Err(format!("`{program}` did not end within {timeout:?}")),
        }
    }

    async fn reload_child(&self) -> Result<Told, String> {
        match &self.child {
            None => Err("there is no child to reload".to_owned()),
            Some(child) => Ok(if child.reload().await? { Told::Yes } else { Told::NotRunning }),
        }
    }

    fn child_is_down(&self) -> bool {
        let state = self.child.as_ref().map(Handle::state);
        matches!(state, Some(State::Waiting | State::Pausing { .. }))
    }

    fn workers(&self) -> BTreeSet<i32> {
        match self.child.as_ref().map(Handle::state) {
            Some(State::Running { pid, .. }) => processes::children(pid),
            _ => BTreeSet::new(),
        }
    }

    async fn get(&self, url: &str) -> Result<String, String> {
        let answered = tokio::time::timeout(LOOK_TIMEOUT, get(url)).await;
        answered
            .unwrap_or_else(|_| Err("no answer".to_owned()))
            .map_err(|error| format!("`{url}`: {error}"))
    }
}

/// Reads a stream to its end, keeping the first part.
async fn collect(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// What a failed command says: nginx's own `[emerg]` lines if there are any, else all it wrote.
fn complaint(program: &str, code: i32, output: &str) -> String {
    let told: Vec<_> = output.lines().filter(|line| line.contains("[emerg]")).collect();
    let told = if told.is_empty() { output.trim().to_owned() } else { told.join("\n") };
    if told.is_empty() { format!("`{program}` ended with code {code}") } else { told }
}

/// One GET on a connection of its own: a kept connection would be answered by the worker it was made to, which may be
/// the old one.
async fn get(url: &str) -> Result<String, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().ok_or("no host")?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80)))
        .await
        .map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends with the sender.
    tokio::spawn(connection);
    let authority = uri.authority().map_or(host, http::uri::Authority::as_str);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request =
        http::Request::get(path).header(http::header::HOST, authority).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    if status.is_success() {
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    } else {
        Err(format!("answers {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn commands() {
        let world = Effects::default();
        let sh = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
        let environment = [("WORD".to_owned(), "hello".to_owned())];
        for (script, expected) in [
            ("exit 0", Ok(())),
            ("exit 2", Err("`sh` ended with code 2")),
            ("echo $WORD; echo wrong >&2; exit 1", Err("hello\nwrong")),
            (
                "echo noise; echo 'nginx: [emerg] unknown directive' >&2; exit 1",
                Err("nginx: [emerg] unknown directive"),
            ),
            ("sleep 60", Err("`sh` did not end within 1s")),
        ] {
            let result = world.run(&sh(script), &environment, Duration::from_secs(1)).await;
            assert_eq!(result, expected.map_err(str::to_owned), "{script}");
        }
        let result = world.run(&["/nope".to_owned()], &[], Duration::from_secs(1)).await;
        assert_eq!(result.unwrap_err(), "`/nope`: No such file or directory (os error 2)");
    }

    #[tokio::test]
    async fn much_output_is_read_but_not_kept() {
        let world = Effects::default();
        let script = "yes | head -c 1000000; exit 1";
        let command = ["sh", "-c", script].map(str::to_owned);
        let error = world.run(&command, &[], Duration::from_secs(10)).await.unwrap_err();
        assert!(error.len() <= OUTPUT_BYTES_MAX, "{}", error.len());
    }

    #[tokio::test]
    async fn a_url_nobody_serves() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = Effects::default().get(&format!("http://{address}/v")).await.unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }
}
