//! Every kind of check against the real thing: what status, in which words, and when.
//!
//! The rows are also run against the reference: `MUSTER_CONFORMANCE_SERVER=127.0.0.1:8500` names one
//! that runs with `enable_script_checks` and `check_update_interval=0s`. Where it is meant to differ, the row says so.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use muster_agent::http::Settings;
use muster_agent::local;
use regex::Regex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, Server, ask};

/// One row of the table of kinds.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// What it shows.
    pub(crate) name: &'static str,
    /// The definition; `{http}`, `{v6}` and such stand for the ports of the stubs.
    pub(crate) definition: &'static str,
    /// How the check is after its first run.
    pub(crate) status: &'static str,
    /// What it says, with `<any>` and `<n>` for what differs from run to run.
    pub(crate) output: &'static str,
    /// How long a run takes.
    pub(crate) takes: Takes,
    /// What the reference makes of it, where that is meant to be something else.
    pub(crate) reference: Option<(&'static str, &'static str)>,
}

/// How long a run takes; see `check_times.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// As long as the target.
    NoTime,
    /// Its timeout, in milliseconds.
    Timeout(u64),
}

const fn row(
    name: &'static str,
    definition: &'static str,
    status: &'static str,
    output: &'static str,
) -> Row {
    Row { name, definition, status, output, takes: Takes::NoTime, reference: None }
}

const fn timed(row: Row, millis: u64) -> Row {
    Row { takes: Takes::Timeout(millis), ..row }
}

const fn differs(row: Row, status: &'static str, output: &'static str) -> Row {
    Row { reference: Some((status, output)), ..row }
}

/// Newer kinds and fields, which the reference refuses or does not know.
const UNKNOWN: (&str, &str) = ("", "");

pub(crate) const ROWS: &[Row] = &[
    // script
    row("script: exit 0", r#""Args":["/bin/sh","-c","echo fine"]"#, "passing", "fine\n"),
    row("script: exit 1", r#""Args":["/bin/sh","-c","echo so; exit 1"]"#, "warning", "so\n"),
    row("script: exit 2", r#""Args":["/bin/sh","-c","echo bad >&2; exit 2"]"#, "critical", "bad\n"),
    row("script: killed by itself", r#""Args":["/bin/sh","-c","kill -9 $$"]"#, "critical", ""),
    row(
        "script: not there",
        r#""Args":["/nonexistent/x"]"#,
        "critical",
        "fork/exec /nonexistent/x: no such file or directory",
    ),
    row(
        "script: not executable",
        r#""Args":["/etc/passwd"]"#,
        "critical",
        "fork/exec /etc/passwd: permission denied",
    ),
    timed(
        row(
            "script: hangs, with a child",
            r#""Args":["/bin/sh","-c","echo before; sleep 60 & wait"],"Timeout":"400ms""#,
            "critical",
            "Timed out (400ms) running check\n\nbefore\n",
        ),
        400,
    ),
    row(
        "script: floods",
        r#""Args":["/bin/sh","-c","head -c 1048576 /dev/zero | tr '\\0' x; echo end"]"#,
        "passing",
        "Captured 4096 of 1048580 bytes\n...\n<any>end\n",
    ),
    row(
        "script: a limit of its own",
        r#""Args":["/bin/sh","-c","echo 0123456789"],"OutputMaxSize":4"#,
        "passing",
        "Captured 4 of 11 bytes\n...\n789\n",
    ),
    row(
        "script: snake case",
        r#""script_args":["/bin/sh","-c","echo snake"]"#,
        "passing",
        "snake\n",
    ),
    // http
    row(
        "http: 200",
        r#""HTTP":"http://127.0.0.1:{http}/200""#,
        "passing",
        "HTTP GET http://127.0.0.1:<n>/200: 200 OK Output: GET /200",
    ),
    row(
        "http: 204",
        r#""HTTP":"http://127.0.0.1:{http}/204""#,
        "passing",
        "HTTP GET http://127.0.0.1:<n>/204: 204 No Content Output: ",
    ),
    row(
        "http: 304",
        r#""HTTP":"http://127.0.0.1:{http}/304""#,
        "critical",
        "HTTP GET http://127.0.0.1:<n>/304: 304 Not Modified Output: ",
    ),
    row(
        "http: 404",
        r#""HTTP":"http://127.0.0.1:{http}/404""#,
        "critical",
        "HTTP GET http://127.0.0.1:<n>/404: 404 Not Found Output: GET /404",
    ),
    row(
        "http: 429",
        r#""HTTP":"http://127.0.0.1:{http}/429""#,
        "warning",
        "HTTP GET http://127.0.0.1:<n>/429: 429 Too Many Requests Output: GET /429",
    ),
    row(
        "http: 500",
        r#""HTTP":"http://127.0.0.1:{http}/500""#,
        "critical",
        "HTTP GET http://127.0.0.1:<n>/500: 500 Internal Server Error Output: GET /500",
    ),
    row(
        "http: method, body, headers",
        r#""HTTP":"http://127.0.0.1:{http}/echo","Method":"PUT","Body":"hello","Header":{"Host":["web.example"],"X-A":["1","2"]}"#,
        "passing",
        "HTTP PUT http://127.0.0.1:<n>/echo: 200 OK Output: PUT /echo host=web.example x-a=1,2 user-agent=Consul Health Check accept=text/plain, text/*, */* body=hello",
    ),
    row(
        "http: a redirect is followed",
        r#""HTTP":"http://127.0.0.1:{http}/redirect""#,
        "passing",
        "HTTP GET http://127.0.0.1:<n>/redirect: 200 OK Output: GET /200",
    ),
    row(
        "http: a circle",
        r#""HTTP":"http://127.0.0.1:{http}/circle""#,
        "critical",
        "Get \"/circle\": stopped after 10 redirects",
    ),
    differs(
        row(
            "http: a redirect that is not wanted",
            r#""HTTP":"http://127.0.0.1:{http}/redirect","DisableRedirects":true"#,
            "critical",
            "HTTP GET http://127.0.0.1:<n>/redirect: 302 Found Output: ",
        ),
        UNKNOWN.0,
        UNKNOWN.1,
    ),
    row(
        "http: long body",
        r#""HTTP":"http://127.0.0.1:{http}/long","OutputMaxSize":4"#,
        "passing",
        "HTTP GET http://127.0.0.1:<n>/long: 200 OK Output: 6789",
    ),
    timed(
        row(
            "http: hangs",
            r#""HTTP":"http://127.0.0.1:{http}/hang","Timeout":"300ms""#,
            "critical",
            "Get \"http://127.0.0.1:<n>/hang\": <any>(Client.Timeout exceeded while awaiting headers)",
        ),
        300,
    ),
    row(
        "http: refused",
        r#""HTTP":"http://127.0.0.1:{closed}/""#,
        "critical",
        "Get \"http://127.0.0.1:<n>/\": dial tcp 127.0.0.1:<n>: connect: connection refused",
    ),
    row(
        "http: plain behind https",
        r#""HTTP":"https://127.0.0.1:{http}/""#,
        "critical",
        "Get \"https://127.0.0.1:<n>/\": http: server gave HTTP response to HTTPS client",
    ),
    // tcp
    row(
        "tcp: accepts",
        r#""TCP":"127.0.0.1:{http}""#,
        "passing",
        "TCP connect 127.0.0.1:<n>: Success",
    ),
    row(
        "tcp: refused",
        r#""TCP":"127.0.0.1:{closed}""#,
        "critical",
        "dial tcp 127.0.0.1:<n>: connect: connection refused",
    ),
    row("tcp: IPv6", r#""TCP":"[::1]:{v6}""#, "passing", "TCP connect [::1]:<n>: Success"),
    row(
        "tcp: no port",
        r#""TCP":"127.0.0.1""#,
        "critical",
        "dial tcp: address 127.0.0.1: missing port in address",
    ),
    // grpc
    row(
        "grpc: serving",
        r#""GRPC":"127.0.0.1:{grpc}/up""#,
        "passing",
        "gRPC check 127.0.0.1:<n>/up: success",
    ),
    row(
        "grpc: not serving",
        r#""GRPC":"127.0.0.1:{grpc}/down""#,
        "critical",
        "gRPC application didn't report service healthy",
    ),
    row(
        "grpc: unknown service",
        r#""GRPC":"127.0.0.1:{grpc}/x""#,
        "critical",
        "rpc error: code = NotFound desc = unknown service",
    ),
    row(
        "grpc: refused",
        r#""GRPC":"127.0.0.1:{closed}""#,
        "critical",
        "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing dial tcp 127.0.0.1:<n>: connect: connection refused\"",
    ),
    // alias
    row(
        "alias: nothing there",
        r#""AliasService":"gone""#,
        "critical",
        "Service gone could not be found on node <any>",
    ),
    // kinds that the reference of that age does not know
    differs(
        row(
            "h2ping: acknowledged",
            r#""H2PING":"127.0.0.1:{grpc}","H2PingUseTLS":false"#,
            "passing",
            "HTTP2 ping was successful",
        ),
        UNKNOWN.0,
        UNKNOWN.1,
    ),
    differs(
        timed(
            row(
                "udp: silence",
                r#""UDP":"127.0.0.1:{udp}","Timeout":"200ms""#,
                "passing",
                "UDP connect 127.0.0.1:<n>: Success",
            ),
            200,
        ),
        UNKNOWN.0,
        UNKNOWN.1,
    ),
    differs(
        row(
            "udp: refused",
            r#""UDP":"127.0.0.1:{closed}""#,
            "critical",
            "read udp 127.0.0.1:<n>: connection refused",
        ),
        UNKNOWN.0,
        UNKNOWN.1,
    ),
];

/// A target that is bad until it is turned, then good for one run, then silent: what a check says afterwards, it says
/// for that run.
#[derive(Debug, Default)]
pub(crate) struct Target {
    good: AtomicBool,
    /// Runs since it is good.
    runs: AtomicUsize,
}

/// The one of each test's process.
pub(crate) static TARGET: Target =
    Target { good: AtomicBool::new(false), runs: AtomicUsize::new(0) };

impl Target {
    pub(crate) fn turn(&self, good: bool) {
        self.runs.store(0, Ordering::SeqCst);
        self.good.store(good, Ordering::SeqCst);
    }

    /// A run: is it good?
    async fn run(&self) -> bool {
        if !self.good.load(Ordering::SeqCst) {
            return false;
        }
        if self.runs.fetch_add(1, Ordering::SeqCst) > 0 {
            let () = std::future::pending().await;
        }
        true
    }
}

/// Answers by path: a status, or a behaviour.
async fn http_stub(
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    use http_body_util::BodyExt as _;
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let mut response = hyper::Response::builder();
    let text = match path.as_str() {
        "/hang" => std::future::pending().await,
        "/turning" => {
            let status = if TARGET.run().await { 200 } else { 500 };
            response = response.status(status);
            String::new()
        }
        "/redirect" | "/circle" => {
            let to = if path == "/redirect" { "/200" } else { "/circle" };
            response = response.status(302).header("Location", to);
            String::new()
        }
        "/long" => "0123456789".to_owned(),
        "/echo" => {
            let body =
                body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let all = |name: &str| {
                let values = head.headers.get_all(name).iter();
                values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(",")
            };
            format!(
                "{} {path} host={} x-a={} user-agent={} accept={} body={}",
                head.method,
                all("host"),
                all("x-a"),
                all("user-agent"),
                all("accept"),
                String::from_utf8_lossy(&body)
            )
        }
        _ => {
            let status: u16 = path.trim_start_matches('/').parse().unwrap_or(400);
            response = response.status(status);
            let has_body = !matches!(status, 204 | 304);
            if has_body { format!("{} {path}", head.method) } else { String::new() }
        }
    };
    Ok(response.body(Full::new(text.into())).unwrap())
}

/// A server of gRPC's health protocol: `up` is serving, `down` is not, others are unknown.
async fn grpc_stub(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut asked = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                asked.extend_from_slice(&data);
                let _ = body.flow_control().release_capacity(data.len());
            }
            let status = match asked.get(7..).unwrap_or_default() {
                b"up" => 1,
                b"down" => 2,
                b"turning" => {
                    if TARGET.run().await {
                        1
                    } else {
                        2
                    }
                }
                _ => 0,
            };
            let head = http::Response::builder().header("content-type", "application/grpc");
            if status == 0 {
                let head =
                    head.header("grpc-status", "5").header("grpc-message", "unknown service");
                let _ = respond.send_response(head.body(()).unwrap(), true);
                return;
            }
            let Ok(mut answer) = respond.send_response(head.body(()).unwrap(), false) else {
                return;
            };
            let _ = answer.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]), false);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = answer.send_trailers(trailers);
        });
    }
}

/// The ports of all stubs, by the names that definitions use. They serve as long as the test.
pub(crate) async fn stubs() -> Vec<(&'static str, u16, Box<dyn std::any::Any>)> {
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let v6 = std::net::TcpListener::bind("[::1]:0").unwrap();
    // Held by a socket that does not listen: nobody else gets it.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = |address: std::io::Result<SocketAddr>| address.unwrap().port();
    let ports = (port(http.local_addr()), port(grpc.local_addr()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = http.accept().await {
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(http_stub)),
            );
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = grpc.accept().await {
            tokio::spawn(grpc_stub(stream));
        }
    });
    vec![
        ("{http}", ports.0, Box::new(())),
        ("{grpc}", ports.1, Box::new(())),
        ("{udp}", port(udp.local_addr()), Box::new(udp)),
        ("{v6}", port(v6.local_addr()), Box::new(v6)),
        ("{closed}", port(closed.local_addr()), Box::new(closed)),
    ]
}

pub(crate) fn pattern(text: &str) -> Regex {
    let expression = regex::escape(text).replace("<n>", r"\d+").replace("<any>", "(?s:.*)");
    Regex::new(&format!("^(?:{expression})$")).unwrap()
}

pub(crate) async fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let response = ask(stream, method, path, &[], body.as_bytes()).await;
    let mut text = response.text();
    if response.header("transfer-encoding") == "chunked" {
        // The reference sends long answers in pieces.
        let mut rest = text.as_str();
        let mut whole = String::new();
        while let Some((size, tail)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            whole.push_str(&tail[..size]);
            rest = tail.get(size + 2..).unwrap_or_default();
        }
        text = whole;
    }
    (response.status, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_in_the_words_of_the_reference() {
    let elsewhere = std::env::var("MUSTER_CONFORMANCE_SERVER").ok();
    let server = if elsewhere.is_some() {
        None
    } else {
        let registrations = local::Settings {
            enable_script_checks: true,
            check_update_interval: Duration::ZERO,
            ..local::Settings::default()
        };
        Some(Server::start_claiming(Settings::default(), registrations).await)
    };
    let address: SocketAddr = match (&server, &elsewhere) {
        (Some(server), _) => server.address,
        (None, address) => address.as_ref().unwrap().parse().unwrap(),
    };
    let stubs = stubs().await;
    let mut expected = Vec::new();
    let mut faults = Vec::new();
    let begun = Instant::now();
    for (number, row) in ROWS.iter().enumerate() {
        let wanted = match (&elsewhere, row.reference) {
            (Some(_), Some(wanted)) => wanted,
            _ => (row.status, row.output),
        };
        let mut fields = row.definition.to_owned();
        for (name, port, _) in &stubs {
            fields = fields.replace(name, &port.to_string());
        }
        let interval = if fields.contains("Alias") { "" } else { r#","Interval":"1s""# };
        let body = format!(r#"{{"ID":"row{number}","Name":"{}",{fields}{interval}}}"#, row.name);
        let (status, text) = call(address, "PUT", "/v1/agent/check/register", &body).await;
        match (status, wanted.0) {
            (200, "") => faults.push(format!("{}: registered", row.name)),
            (200, _) => expected.push((number, wanted)),
            (400, "") => {}
            _ => faults.push(format!("{}: {status} {text}", row.name)),
        }
    }
    // A passing check is one that ran; a critical one may be one that did not run yet, so its words count.
    let deadline = begun + PATIENCE;
    let mut found = Value::Null;
    let fits = |found: &Value, number: usize, (status, output): (&str, &str)| {
        let check = &found[format!("row{number}")];
        check["Status"] == status
            && pattern(output).is_match(check["Output"].as_str().unwrap_or_default())
    };
    while Instant::now() < deadline {
        let (_, text) = call(address, "GET", "/v1/agent/checks", "").await;
        found = serde_json::from_str(&text).unwrap_or_default();
        if expected.iter().all(|(number, wanted)| fits(&found, *number, *wanted)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (number, wanted) in expected {
        if !fits(&found, number, wanted) {
            let check = &found[format!("row{number}")];
            faults.push(format!(
                "{}: {} {}\n   not {wanted:?}",
                ROWS[number].name, check["Status"], check["Output"]
            ));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let types = json!({"script": 10, "http": 12, "tcp": 4, "grpc": 4, "alias": 1});
    for (kind, least) in types.as_object().unwrap() {
        let count = found.as_object().unwrap().values().filter(|c| c["Type"] == **kind).count();
        assert!(count as u64 >= least.as_u64().unwrap(), "{count} checks of type {kind}");
    }
}
