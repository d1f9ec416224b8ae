//! `?limit=` and `?after=`: every row once, in order.

use std::fmt::Write as _;

use muster_agent::http::Settings;

use crate::support::Server;

/// Reads all pages; `name` of each row.
async fn pages(
    server: &Server,
    path: &str,
    limit: usize,
    name: fn(&serde_json::Value) -> String,
) -> Vec<String> {
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let separator = if path.contains('?') { '&' } else { '?' };
        let page = server.get(&format!("{path}{separator}limit={limit}&after={after}")).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let rows = page.json();
        let rows = rows.as_array().unwrap();
        assert!(rows.len() <= limit);
        seen.extend(rows.iter().map(name));
        page.header("x-muster-after").clone_into(&mut after);
        if after.is_empty() {
            return seen;
        }
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = Server::start(Settings::default()).await;
    let odd = ["a", "a%", "a/b", "b c", "b&c", "z", "\u{fc}"];
    for key in odd {
        let mut path = String::new();
        for byte in key.bytes() {
            let _ = write!(path, "%{byte:02X}");
        }
        server.put(&format!("/v1/kv/{path}"), "v").await;
    }
    for limit in [1, 2, 3, 100] {
        let keys = pages(&server, "/v1/kv/?keys", limit, |row| row.as_str().unwrap().into()).await;
        assert_eq!(keys, odd, "{limit}");
        let keys =
            pages(&server, "/v1/kv/?recurse", limit, |row| row["Key"].as_str().unwrap().into())
                .await;
        assert_eq!(keys, odd, "{limit}");
    }
    let mut expected = Vec::new();
    for node in ["n", "n-1", "N0"] {
        for id in ["a", "b"] {
            let service = format!(
                r#"{{"Node":"{node}","Address":"1","Service":{{"ID":"{id}","Service":"web"}}}}"#
            );
            server.put("/v1/catalog/register", &service).await;
            expected.push(format!("{node} {id}"));
        }
    }
    for limit in [1, 2, 5] {
        let rows = pages(&server, "/v1/health/service/web", limit, |row| {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            text(&row["Node"]["Node"]) + " " + &text(&row["Service"]["ID"])
        })
        .await;
        assert_eq!(rows, expected, "{limit}");
    }
    for wrong in ["limit=0", "limit=x", "limit=-1"] {
        assert_eq!(server.get(&format!("/v1/kv/?keys&{wrong}")).await.status, 400, "{wrong}");
    }
}
