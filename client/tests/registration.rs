//! What a registration looks like on the wire.

use muster_client::types::CheckDefinition;
use muster_client::{Client, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_check_alone_calls_its_id_by_the_name_that_agents_know() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut request, mut chunk) = (String::new(), [0; 1024]);
        while !request.ends_with('}') {
            let n = stream.read(&mut chunk).await.unwrap();
            assert!(n > 0, "ended before the body: {request}");
            request.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        request
    });
    let client = Client::new(Settings { address, ..Settings::default() }).unwrap();
    let definition = CheckDefinition {
        id: Some("alive".into()),
        name: "alive".into(),
        ttl: Some("10s".into()),
        ..CheckDefinition::default()
    };
    client.agent().register_check(&definition).await.unwrap();
    let request = server.await.unwrap();
    assert!(request.starts_with("PUT /v1/agent/check/register HTTP/1.1"), "{request}");
    assert!(request.contains(r#""ID":"alive""#) && !request.contains("CheckID"), "{request}");
}
