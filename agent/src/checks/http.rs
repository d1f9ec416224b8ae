//! Checks that ask: 2xx is passing, 429 is warning, everything else critical.
//!
//! Every run opens a connection of its own and closes it: a check that passes over a kept connection
//! says nothing about whether the next client gets one.

mod url;

use std::collections::BTreeMap;
use std::time::Duration;

use ::http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, LOCATION, USER_AGENT};
use ::http::{HeaderName, HeaderValue, Method, Request, Response};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::{Outcome, Status, Tail, tcp};
use url::Url;

/// Time for a run when the definition says nothing.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;
/// Said to the checked program, unless the definition has its own. Programs are configured to know
/// this name (to leave its requests out of their logs, for one), so it stays the reference's.
const AGENT: &str = "Consul Health Check";

/// Does the URL ask for an encrypted connection?
pub(super) fn is_tls(url: &str) -> bool {
    url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// `http://...`.
    pub url: String,
    /// As written; any token is a method.
    pub method: String,
    /// Values by name.
    pub headers: BTreeMap<String, Vec<String>>,
    /// May be empty.
    pub body: String,
    /// Verify the certificate of an `https` target.
    pub tls_verify: bool,
    /// Time for the whole run, redirects and body included.
    pub timeout: Duration,
    /// Bytes of the body that are kept, from its end.
    pub output_bytes_max: usize,
}

/// One run.
pub async fn probe(target: &Target) -> Outcome {
    let mut tail = Tail::new(target.output_bytes_max);
    let mut head = None;
    let run = async {
        let response = ask(target).await?;
        head = Some((response.status(), status_line(&response)));
        let mut body = response.into_body();
        // A body that breaks off is still an answer.
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(bytes) = frame.data_ref() {
                tail.push(bytes);
            }
        }
        Ok::<(), String>(())
    };
    let result = tokio::time::timeout(target.timeout, run).await;
    let Some((status, line)) = head else {
        return Outcome::critical(match result {
            Ok(Err(error)) => error,
            _ => format!(
                "{} {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                operation(&target.method),
                target.url
            ),
        });
    };
    let output = format!("HTTP {} {}: {line} Output: {}", target.method, target.url, tail.text());
    Outcome::new(
        match status.as_u16() {
            200..=299 => Status::Passing,
            429 => Status::Warning,
            _ => Status::Critical,
        },
        output,
    )
}

/// The answer at the end of all redirects.
async fn ask(target: &Target) -> Result<Response<Incoming>, String> {
    let method = Method::from_bytes(target.method.as_bytes())
        .map_err(|_| format!("net/http: invalid method {:?}", target.method))?;
    let mut url = Url::parse(&target.url)?;
    let mut method = method;
    let mut body = Bytes::from(target.body.clone());
    for hop in 0..=REDIRECTS_MAX {
        let failed =
            |what: String| format!("{} {:?}: {what}", operation(method.as_str()), url.to_string());
        url.supported().map_err(failed)?;
        let request = request(target, &method, &url, body.clone(), hop).map_err(failed)?;
        let response = send(&url, request).await.map_err(failed)?;
        let Some(next) = redirect(&response, &url) else { return Ok(response) };
        // 307 and 308 repeat the request; the others ask for the new place.
        if !matches!(response.status().as_u16(), 307 | 308) {
            if method != Method::HEAD {
                method = Method::GET;
            }
            body = Bytes::new();
        }
        url = next;
    }
    Err(format!(
        "{} {:?}: stopped after {REDIRECTS_MAX} redirects",
        operation(method.as_str()),
        url.to_string()
    ))
}

fn redirect(response: &Response<Incoming>, from: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    from.join(response.headers().get(LOCATION)?.to_str().ok()?)
}

/// The request of one hop. The first goes out with all that the definition says; later ones do
/// without its `Host`, which was meant for the first address.
fn request(
    target: &Target,
    method: &Method,
    url: &Url,
    body: Bytes,
    hop: usize,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    *request.uri_mut() = url.target().parse().map_err(|_| "invalid URL".to_owned())?;
    let headers = request.headers_mut();
    for (name, values) in &target.headers {
        let field = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("net/http: invalid header field name {name:?}"))?;
        if field == HOST && hop > 0 {
            continue;
        }
        for value in values {
            let value = HeaderValue::from_str(value).map_err(|_| {
                format!("net/http: invalid header field value {value:?} for key {name}")
            })?;
            headers.append(field.clone(), value);
        }
    }
    let host = HeaderValue::from_str(url.authority()).map_err(|_| "invalid host".to_owned())?;
    headers.entry(HOST).or_insert(host);
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("text/plain, text/*, */*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(user) = url.user() {
        let secret = base64::engine::general_purpose::STANDARD.encode(user);
        if let Ok(value) = HeaderValue::from_str(&format!("Basic {secret}")) {
            headers.entry(AUTHORIZATION).or_insert(value);
        }
    }
    Ok(request)
}

/// Sends one request over a connection of its own.
async fn send(url: &Url, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
    let stream = tcp::connect(&url.address()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends with the response: when its body was read or dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| {
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            "EOF".to_owned()
        } else {
            error.to_string()
        }
    })
}

/// Code and reason, as the server wrote them.
fn status_line(response: &Response<Incoming>) -> String {
    let code = response.status();
    let reason = match response.extensions().get::<hyper::ext::ReasonPhrase>() {
        Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
        None => code.canonical_reason().unwrap_or_default().to_owned(),
    };
    format!("{} {reason}", code.as_str())
}

/// The method as errors spell it: `Get`, `Put`.
fn operation(method: &str) -> String {
    let mut letters = method.chars();
    match letters.next() {
        Some(first) => first.to_string() + &letters.as_str().to_lowercase(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// A server that answers one connection after the other with fixed texts and gives back what
    /// it was sent.
    fn server(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            answers
                .into_iter()
                .map(|answer| {
                    let (stream, _) = listener.accept().unwrap();
                    let mut reader = BufReader::new(&stream);
                    let mut request = String::new();
                    let mut length = 0;
                    loop {
                        let mut line = String::new();
                        reader.read_line(&mut line).unwrap();
                        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        if line.trim().is_empty() {
                            break;
                        }
                        request.push_str(&line);
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    request.push_str(&String::from_utf8(body).unwrap());
                    (&stream).write_all(answer.as_bytes()).unwrap();
                    request
                })
                .collect()
        });
        (address, thread)
    }

    fn target(url: &str) -> Target {
        Target {
            url: url.to_owned(),
            method: "GET".into(),
            headers: BTreeMap::new(),
            body: String::new(),
            tls_verify: true,
            timeout: Duration::from_secs(5),
            output_bytes_max: 4096,
        }
    }

    fn answer(line: &str, body: &str) -> String {
        format!("HTTP/1.1 {line}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn every_class_of_status() {
        let rows = [
            ("200 OK", Status::Passing),
            ("204 No Content", Status::Passing),
            ("299 Odd But Fine", Status::Passing),
            ("304 Not Modified", Status::Critical),
            ("301 Moved Permanently", Status::Critical),
            ("404 Not Found", Status::Critical),
            ("429 Too Many Requests", Status::Warning),
            ("500 Internal Server Error", Status::Critical),
            ("503 Service Unavailable", Status::Critical),
        ];
        let texts = rows.iter().map(|(line, _)| {
            answer(
                line,
                if line.starts_with("204") || line.starts_with("304") { "" } else { "body" },
            )
        });
        let (address, thread) = server(texts.collect());
        let url = format!("http://{address}/health");
        for (line, status) in rows {
            let outcome = probe(&target(&url)).await;
            let body = if line.starts_with("204") || line.starts_with("304") { "" } else { "body" };
            assert_eq!(
                outcome,
                Outcome::new(status, format!("HTTP GET {url}: {line} Output: {body}"))
            );
        }
        let requests = thread.join().unwrap();
        assert!(requests.iter().all(|request| request.starts_with("GET /health HTTP/1.1\r\n")));
        let first = requests[0].to_lowercase();
        for header in [
            &format!("host: {address}\r\n"),
            "user-agent: consul health check\r\n",
            "accept: text/plain, text/*, */*\r\n",
            "connection: close\r\n",
        ] {
            assert!(first.contains(header), "{header} in {first}");
        }
    }

    #[tokio::test]
    async fn what_the_definition_says_is_sent() {
        let (address, thread) = server(vec![answer("200 OK", "0123456789")]);
        let mut target = target(&format!("http://user:pw@{address}/a b?c=d"));
        target.method = "PUT".into();
        target.body = "hello".into();
        target.output_bytes_max = 3;
        target.headers.insert("Host".into(), vec!["web.example".into()]);
        target.headers.insert("X-A".into(), vec!["1".into(), "2".into()]);
        target.headers.insert("User-Agent".into(), vec!["mine".into()]);
        let outcome = probe(&target).await;
        assert!(outcome.output.ends_with("200 OK Output: 789"), "{}", outcome.output);
        let request = thread.join().unwrap().remove(0).to_lowercase();
        assert!(request.starts_with("put /a%20b?c=d http/1.1\r\n"), "{request}");
        for part in [
            "host: web.example\r\n",
            "x-a: 1\r\n",
            "x-a: 2\r\n",
            "user-agent: mine\r\n",
            "authorization: basic dxnlcjpwdw==\r\n",
        ] {
            assert!(request.contains(part), "{part} in {request}");
        }
        assert!(request.ends_with("hello"), "{request}");
    }

    #[tokio::test]
    async fn redirects_are_followed_to_their_end() {
        let (address, thread) = server(vec![
            "HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n".into(),
            answer("200 OK", "there"),
        ]);
        let mut first = target(&format!("http://{address}/"));
        first.method = "POST".into();
        let outcome = probe(&first).await;
        assert_eq!(outcome.output, format!("HTTP POST http://{address}/: 200 OK Output: there"));
        let requests = thread.join().unwrap();
        assert!(requests[1].starts_with("GET /next "), "{}", requests[1]);

        let circle = "HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_owned();
        let (address, _thread) = server(vec![circle; 11]);
        let outcome = probe(&target(&format!("http://{address}/"))).await;
        assert_eq!(
            outcome,
            Outcome::critical(format!("Get \"http://{address}/\": stopped after 10 redirects"))
        );
    }

    #[tokio::test]
    async fn what_is_no_answer_is_critical() {
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let refused =
            format!("Get \"http://{closed}/\": dial tcp {closed}: connect: connection refused");
        let rows = [
            (format!("http://{closed}/"), refused),
            ("://x".into(), "parse \"://x\": missing protocol scheme".into()),
            (
                "127.0.0.1:80".into(),
                "parse \"127.0.0.1:80\": first path segment in URL cannot contain colon".into(),
            ),
            ("/x".into(), "Get \"/x\": unsupported protocol scheme \"\"".into()),
            ("ftp://x/".into(), "Get \"ftp://x/\": unsupported protocol scheme \"ftp\"".into()),
        ];
        for (url, expected) in rows {
            assert_eq!(probe(&target(&url)).await, Outcome::critical(expected));
        }
        let mut odd = target("http://127.0.0.1:1/");
        odd.method = "b ad".into();
        assert_eq!(probe(&odd).await.output, "net/http: invalid method \"b ad\"");
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_a_timeout_and_one_that_breaks_off_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let mut slow = target(&url);
        slow.timeout = Duration::from_millis(100);
        assert_eq!(
            probe(&slow).await.output,
            format!(
                "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            )
        );
        drop(listener);
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned();
        let (address, _thread) = server(vec![cut]);
        let outcome = probe(&target(&format!("http://{address}/"))).await;
        assert_eq!(outcome.status, Status::Passing);
        assert!(outcome.output.ends_with("Output: half"));

        let (address, _thread) = server(vec![String::new()]);
        let outcome = probe(&target(&format!("http://{address}/"))).await;
        assert_eq!(outcome, Outcome::critical(format!("Get \"http://{address}/\": EOF")));
    }
}
