use std::sync::Arc;

use http::Response;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::*;
use crate::net::tls::Stream;
use crate::net::tls::tests::Authority;

/// Answer of a server: a status of HTTP, the bytes of its message, and its trailers.
#[derive(Clone)]
struct Answer {
    http: u16,
    message: Option<Vec<u8>>,
    trailers: Vec<(&'static str, &'static str)>,
}

fn serving(status: u8) -> Answer {
    let message = if status == 0 { vec![0, 0, 0, 0, 0] } else { vec![0, 0, 0, 0, 2, 8, status] };
    Answer { http: 200, message: Some(message), trailers: vec![("grpc-status", "0")] }
}

fn failing(trailers: &[(&'static str, &'static str)]) -> Answer {
    Answer { http: 200, message: None, trailers: trailers.to_vec() }
}

/// Serves one connection; answers with what it was sent: path and body.
async fn serve(stream: impl Stream + 'static, answer: Answer, seen: Arc<Mutex<Vec<String>>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let answer = answer.clone();
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                bytes.extend_from_slice(&data);
            }
            let kind = head.headers[CONTENT_TYPE].to_str().unwrap().to_owned();
            seen.lock().push(format!("{} {} {kind} {bytes:?}", head.method, head.uri));
            let mut response = Response::builder().status(answer.http);
            let trailers: HeaderMap = answer
                .trailers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect();
            let Some(message) = answer.message else {
                *response.headers_mut().unwrap() = trailers;
                respond.send_response(response.body(()).unwrap(), true).unwrap();
                return;
            };
            let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
            // In two pieces: frames of gRPC know nothing of those of HTTP/2.
            let middle = message.len() / 2;
            stream.send_data(Bytes::copy_from_slice(&message[..middle]), false).unwrap();
            stream.send_data(Bytes::copy_from_slice(&message[middle..]), false).unwrap();
            stream.send_trailers(trailers).unwrap();
        });
    }
}

async fn server(answer: Answer) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let record = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone(), Arc::clone(&record)));
        }
    });
    (address, seen)
}

async fn run(target: &str, tls: Option<Verify>, with: &Tls) -> CheckResult {
    let timeout = Duration::from_secs(20);
    probe(&Target { target: target.to_owned(), tls, timeout }, with).await
}

#[tokio::test]
async fn only_serving_passes() {
    let unhealthy = "gRPC application didn't report service healthy";
    let not_found = failing(&[("grpc-status", "5"), ("grpc-message", "unknown service %22x%22")]);
    let late_error =
        Answer { trailers: vec![("grpc-status", "13"), ("grpc-message", "broke")], ..serving(1) };
    let rows = [
        (serving(1), Status::Passing, None),
        (serving(0), Status::Critical, Some(unhealthy)),
        (serving(2), Status::Critical, Some(unhealthy)),
        (serving(3), Status::Critical, Some(unhealthy)),
        (
            not_found,
            Status::Critical,
            Some("rpc error: code = NotFound desc = unknown service \"x\""),
        ),
        (
            failing(&[("grpc-status", "12")]),
            Status::Critical,
            Some("rpc error: code = Unimplemented desc = "),
        ),
        (late_error, Status::Critical, Some("rpc error: code = Internal desc = broke")),
        (
            Answer { trailers: Vec::new(), ..serving(1) },
            Status::Critical,
            Some(
                "rpc error: code = Internal desc = server closed the stream without sending trailers",
            ),
        ),
        (
            Answer { http: 404, ..serving(1) },
            Status::Critical,
            Some("rpc error: code = Unimplemented desc = Not Found: HTTP status code 404"),
        ),
        (
            Answer { message: Some(vec![0, 0, 0, 0, 1, 0xff]), ..serving(1) },
            Status::Critical,
            Some("rpc error: code = Internal desc = the answer is no health answer"),
        ),
        (
            Answer { message: Some(vec![7; ANSWER_BYTES_MAX + 1]), ..serving(1) },
            Status::Critical,
            Some("rpc error: code = ResourceExhausted desc = the answer is too long"),
        ),
    ];
    for (answer, status, output) in rows {
        let (address, _) = server(answer).await;
        let outcome = run(&address, None, &Tls::default()).await;
        let success = format!("gRPC check {address}: success");
        assert_eq!(outcome, CheckResult::new(status, output.unwrap_or(&success)));
    }
}

#[tokio::test]
async fn the_service_is_what_follows_the_slash() {
    let (address, seen) = server(serving(1)).await;
    let named = format!("{address}/my.Service/x");
    let outcome = run(&named, None, &Tls::default()).await;
    assert_eq!(outcome.output, format!("gRPC check {named}: success"));
    run(&address, None, &Tls::default()).await;
    let long = "s".repeat(300);
    run(&format!("{address}/{long}"), None, &Tls::default()).await;
    let seen = seen.lock().clone();
    let call = format!("POST http://{address}/grpc.health.v1.Health/Check application/grpc");
    let named = [&[0, 0, 0, 0, 14, 10, 12][..], b"my.Service/x"].concat();
    assert_eq!(seen[0], format!("{call} {named:?}"));
    assert_eq!(seen[1], format!("{call} {:?}", [0, 0, 0, 0, 0]));
    let long = [&[0, 0, 0, 1, 47, 10, 0xac, 2][..], long.as_bytes()].concat();
    assert_eq!(seen[2], format!("{call} {long:?}"));
}

#[tokio::test]
async fn over_tls_the_certificate_counts() {
    let authority = Authority::new();
    let (address, _serving) =
        authority.serve(&["localhost"], |stream| serve(stream, serving(1), Arc::default())).await;
    let named = format!("localhost:{}", address.port());
    let outcome = run(&named, Some(Verify::default()), &authority.tls()).await;
    assert_eq!(outcome.status, Status::Passing, "{}", outcome.output);
    let outcome = run(&named, Some(Verify::default()), &Tls::default()).await;
    assert_eq!(
        outcome,
        CheckResult::critical(
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: authentication handshake failed: x509: certificate signed by unknown authority\""
        )
    );
    let unseen = Verify { certificate: false, ..Verify::default() };
    let outcome = run(&named, Some(unseen), &Tls::default()).await;
    assert_eq!(outcome.status, Status::Passing, "{}", outcome.output);
}

#[tokio::test]
async fn who_cannot_be_called_is_critical() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hanging = Target { target: address.clone(), tls: None, timeout: Duration::from_millis(50) };
    assert_eq!(
        probe(&hanging, &Tls::default()).await,
        CheckResult::critical(
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        )
    );
    drop(listener);
    assert_eq!(
        run(&address, None, &Tls::default()).await,
        CheckResult::critical(format!(
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing dial tcp {address}: connect: connection refused\""
        ))
    );
}

#[test]
fn messages_are_read_and_damaged_ones_refused() {
    let rows: [(&[u8], Option<u64>); 9] = [
        (&[], Some(0)),
        (&[8, 1], Some(1)),
        (&[8, 2, 8, 1], Some(1)),
        (&[18, 2, 0, 0, 8, 1], Some(1)),
        (&[25, 0, 0, 0, 0, 0, 0, 0, 0, 8, 3], Some(3)),
        (&[29, 0, 0, 0, 0, 8, 3], Some(3)),
        (&[8], None),
        (&[18, 9, 0], None),
        (&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255], None),
    ];
    for (bytes, expected) in rows {
        assert_eq!(serving_status(bytes), expected, "{bytes:?}");
    }
}
