use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::net::tls::tests::Authority;

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
        verify: Verify::default(),
        follow: true,
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
        answer(line, if line.starts_with("204") || line.starts_with("304") { "" } else { "body" })
    });
    let (address, thread) = server(texts.collect());
    let url = format!("http://{address}/health");
    for (line, status) in rows {
        let outcome = probe(&target(&url), &Tls::default()).await;
        let body = if line.starts_with("204") || line.starts_with("304") { "" } else { "body" };
        assert_eq!(
            outcome,
            CheckResult::new(status, format!("HTTP GET {url}: {line} Output: {body}"))
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
    let outcome = probe(&target, &Tls::default()).await;
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
    let outcome = probe(&first, &Tls::default()).await;
    assert_eq!(outcome.output, format!("HTTP POST http://{address}/: 200 OK Output: there"));
    let requests = thread.join().unwrap();
    assert!(requests[1].starts_with("GET /next "), "{}", requests[1]);

    let circle = "HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_owned();
    let (address, _thread) = server(vec![circle; 11]);
    let outcome = probe(&target(&format!("http://{address}/")), &Tls::default()).await;
    assert_eq!(outcome, CheckResult::critical("Get \"/\": stopped after 10 redirects"));
}

#[tokio::test]
async fn headers_go_along_by_the_rules_of_the_reference_s_library() {
    let redirect =
        |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    let (elsewhere, other) = server(vec![redirect("/last"), answer("200 OK", "there")]);
    let (address, first) = server(vec![
        redirect("/health/"),
        redirect("again?x=1"),
        redirect(&format!("http://{elsewhere}/away")),
    ]);
    let mut target = target(&format!("http://u:pw@{address}/start"));
    for (name, value) in
        [("Host", "web.example"), ("Cookie", "c=1"), ("X-A", "1"), ("authorization", "mine")]
    {
        target.headers.insert(name.into(), vec![value.into()]);
    }
    let outcome = probe(&target, &Tls::default()).await;
    assert_eq!(outcome.status, Status::Passing, "{}", outcome.output);
    let lower = |requests: Vec<String>| -> Vec<String> {
        requests.iter().map(|request| request.to_lowercase()).collect()
    };
    let (here, there) = (lower(first.join().unwrap()), lower(other.join().unwrap()));
    let paths = ["get /start ", "get /health/ ", "get /health/again?x=1 "];
    for (request, path) in here.iter().zip(paths) {
        assert!(request.starts_with(path), "{request}");
        // A relative place is the same place.
        for header in
            ["host: web.example\r\n", "cookie: c=1\r\n", "x-a: 1\r\n", "authorization: mine\r\n"]
        {
            assert!(request.contains(header), "{header} in {request}");
        }
    }
    assert!(!here[0].contains("referer"), "{}", here[0]);
    assert!(here[2].contains(&format!("referer: http://{address}/health/\r\n")), "{}", here[2]);
    for (request, path) in there.iter().zip(["get /away ", "get /last "]) {
        assert!(request.starts_with(path), "{request}");
        assert!(request.contains(&format!("host: {elsewhere}\r\n")), "{request}");
        assert!(request.contains("x-a: 1\r\n"), "{request}");
        // Neither shown to another place, nor to the one after it.
        assert!(!request.contains("cookie") && !request.contains("mine"), "{request}");
    }
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
        assert_eq!(probe(&target(&url), &Tls::default()).await, CheckResult::critical(expected));
    }
    let mut odd = target("http://127.0.0.1:1/");
    odd.method = "b ad".into();
    assert_eq!(probe(&odd, &Tls::default()).await.output, "net/http: invalid method \"b ad\"");
}

#[tokio::test]
async fn a_server_that_hangs_is_a_timeout_and_one_that_breaks_off_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut slow = target(&url);
    slow.timeout = Duration::from_millis(100);
    assert_eq!(
        probe(&slow, &Tls::default()).await.output,
        format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )
    );
    drop(listener);
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned();
    let (address, _thread) = server(vec![cut]);
    let outcome = probe(&target(&format!("http://{address}/")), &Tls::default()).await;
    assert_eq!(outcome.status, Status::Passing);
    assert!(outcome.output.ends_with("Output: half"));

    let (address, _thread) = server(vec![String::new()]);
    let outcome = probe(&target(&format!("http://{address}/")), &Tls::default()).await;
    assert_eq!(outcome, CheckResult::critical(format!("Get \"http://{address}/\": EOF")));
}

/// Serves one request over an encrypted connection.
async fn https(stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = stream;
    let mut request = [0; 4096];
    let count = stream.read(&mut request).await.unwrap();
    let line = String::from_utf8_lossy(&request[..count]);
    let body = line.split(' ').nth(1).unwrap_or_default().to_owned();
    stream.write_all(answer("200 OK", &body).as_bytes()).await.unwrap();
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn over_tls_the_certificate_counts() {
    let authority = Authority::new();
    let (address, _serving) = authority.serve(&["localhost"], https).await;
    let (port, known) = (address.port(), authority.tls());
    let good = format!("https://localhost:{port}/ok");
    let by_ip = format!("https://127.0.0.1:{port}/ok");
    let unseen = Verify { certificate: false, ..Verify::default() };
    let renamed = Verify { name: "localhost".into(), ..Verify::default() };
    let passed = |url: &str| Ok(format!("HTTP GET {url}: 200 OK Output: /ok"));
    let failed = |url: &str, what: &str| Err(format!("Get \"{url}\": {what}"));
    let rows = [
        (&good, Verify::default(), known.clone(), passed(&good)),
        (
            &good,
            Verify::default(),
            Tls::default(),
            failed(&good, "x509: certificate signed by unknown authority"),
        ),
        (&good, unseen.clone(), Tls::default(), passed(&good)),
        (
            &by_ip,
            Verify::default(),
            known.clone(),
            failed(
                &by_ip,
                "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs",
            ),
        ),
        (&by_ip, unseen, known.clone(), passed(&by_ip)),
        (&by_ip, renamed, known.clone(), passed(&by_ip)),
    ];
    for (url, verify, tls, expected) in rows {
        let mut target = target(url);
        target.verify = verify;
        let outcome = probe(&target, &tls).await;
        let found = match outcome.status {
            Status::Passing => Ok(outcome.output),
            _ => Err(outcome.output),
        };
        assert_eq!(found, expected);
    }

    // A redirect leads there; without redirects it is the answer itself.
    let moved = format!("HTTP/1.1 302 Found\r\nLocation: {good}\r\nContent-Length: 0\r\n\r\n");
    let (plain, _thread) = server(vec![moved.clone(), moved]);
    let mut from = target(&format!("http://{plain}/"));
    let outcome = probe(&from, &known).await;
    assert_eq!(outcome.output, format!("HTTP GET http://{plain}/: 200 OK Output: /ok"));
    from.follow = false;
    let outcome = probe(&from, &known).await;
    assert_eq!(
        outcome,
        CheckResult::critical(format!("HTTP GET http://{plain}/: 302 Found Output: "))
    );
}

#[tokio::test]
async fn a_plain_server_behind_an_encrypted_url_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(answer("400 Bad Request", "").as_bytes()).unwrap();
        // Until the client goes.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let outcome = probe(&target(&url), &Tls::default()).await;
    let expected = format!("Get \"{url}\": http: server gave HTTP response to HTTPS client");
    assert_eq!(outcome, CheckResult::critical(expected));
    thread.join().unwrap();
}

#[tokio::test]
async fn a_proxy_is_asked_instead() {
    let (address, thread) = server(vec![answer("200 OK", "by proxy")]);
    let proxies =
        Proxies::new(|name| (name == "HTTP_PROXY").then(|| format!("http://me:pw@{address}")));
    let outcome = probe_through(&target("http://web.example/x"), &Tls::default(), &proxies).await;
    assert_eq!(outcome.output, "HTTP GET http://web.example/x: 200 OK Output: by proxy");
    let request = thread.join().unwrap().remove(0).to_lowercase();
    assert!(request.starts_with("get http://web.example/x http/1.1\r\n"), "{request}");
    assert!(request.contains("host: web.example\r\n"), "{request}");
    assert!(request.contains("proxy-authorization: basic bwu6chc=\r\n"), "{request}");

    let (address, thread) = server(vec!["HTTP/1.1 403 Forbidden\r\n\r\n".to_owned()]);
    let proxies = Proxies::new(|name| (name == "HTTPS_PROXY").then(|| address.clone()));
    let outcome = probe_through(&target("https://web.example/x"), &Tls::default(), &proxies).await;
    assert_eq!(outcome, CheckResult::critical("Get \"https://web.example/x\": 403 Forbidden"));
    let request = thread.join().unwrap().remove(0);
    assert!(request.starts_with("CONNECT web.example:443 HTTP/1.1\r\n"), "{request}");
}
