//! Providers of the tests: small servers on loopback, and what a method makes of their answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::super::{Callback, Identity, Method, Providers, Start};
use super::{Signer, URL_SAFE_NO_PAD, method};
use crate::net::tls::tests::Authority;
use base64::Engine as _;

/// Status and body for a request, which is its head and body as one text.
type Handle = Arc<dyn Fn(&str) -> (u16, String) + Send + Sync>;

/// A server that stops when this is dropped.
struct Serving {
    url: String,
    task: AbortHandle,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, handle: Handle) {
    let mut request = Vec::new();
    let text = loop {
        let mut piece = [0; 4096];
        let Ok(read @ 1..) = stream.read(&mut piece).await else { return };
        request.extend(&piece[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |it| it.parse().unwrap()) {
            break text;
        }
    };
    let (status, body) = handle(&text);
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all((head + &body).as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn serve(handle: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let handle: Handle = Arc::new(handle);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&handle)));
        }
    });
    Serving { url, task: task.abort_handle() }
}

/// Seconds since 1970: methods that ask providers take the time themselves.
#[expect(clippy::disallowed_methods, reason = "as the driver under test does")]
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().cast_signed()
}

async fn login(providers: &Providers, method: &Method, token: &str) -> Result<Identity, String> {
    providers.verify(method, token).await.map_err(|refusal| refusal.to_string())
}

#[tokio::test]
async fn fresh_keys_are_looked_for_now_and_then() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let set = Arc::new(Mutex::new(json!({"keys": [old.jwk()]}).to_string()));
    let asked = Arc::new(AtomicUsize::new(0));
    let (kept, count) = (Arc::clone(&set), Arc::clone(&asked));
    let server = serve(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        (200, kept.lock().unwrap().clone())
    })
    .await;
    let method = method("jwt", &json!({"JWKSURL": format!("{}/keys", server.url)})).unwrap();
    let claims = json!({"iat": now()});
    let (by_old, by_new) = (old.sign(&claims), new.sign(&claims));
    let unknown = "error verifying token: failed to verify id token signature";

    let patient = Providers::with_pause(Duration::from_mins(10));
    patient.check(&method).await.unwrap();
    for _ in 0..20 {
        login(&patient, &method, &by_old).await.unwrap();
        assert_eq!(login(&patient, &method, &by_new).await.unwrap_err(), unknown);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "once to check, once for the first log-in");

    let eager = Providers::with_pause(Duration::ZERO);
    login(&eager, &method, &by_old).await.unwrap();
    *set.lock().unwrap() = json!({"keys": [new.jwk()]}).to_string();
    login(&eager, &method, &by_new).await.unwrap();
    // The provider took the old one back.
    assert_eq!(login(&eager, &method, &by_old).await.unwrap_err(), unknown);

    // What is no answer refuses the method, and the log-in.
    for body in ["[]", "zap"] {
        body.clone_into(&mut set.lock().unwrap());
        let error = Providers::default().check(&method).await.unwrap_err().to_string();
        let begins = "Invalid Auth Method: error checking JWKSURL: fetching keys oidc: failed to decode keys: ";
        assert!(error.starts_with(begins), "{error}");
        login(&Providers::default(), &method, &by_new).await.unwrap_err();
    }
    *set.lock().unwrap() = " ".repeat(2 * 1024 * 1024);
    let error = Providers::default().check(&method).await.unwrap_err().to_string();
    assert!(error.contains("unable to read response body"), "{error}");
    drop(server);
    let nobody = super::method("jwt", &json!({"JWKSURL": "http://127.0.0.1:1/x"})).unwrap();
    assert_eq!(
        Providers::default().check(&nobody).await.unwrap_err().to_string(),
        "Invalid Auth Method: error checking JWKSURL: fetching keys oidc: get keys failed Get \"http://127.0.0.1:1/x\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
}

#[tokio::test]
async fn keys_are_read_from_a_file() {
    let signer = Signer::new("k");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let url = format!("file://{}", path.display());
    let method = method("jwt", &json!({"JWKSURL": url})).unwrap();
    Providers::default().check(&method).await.unwrap_err();
    std::fs::write(&path, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    Providers::default().check(&method).await.unwrap();
    let token = signer.sign(&json!({"iat": now()}));
    login(&Providers::default(), &method, &token).await.unwrap();
}

/// A provider with a discovery document. `edit` has the last word about it.
async fn discoverable(
    signer: &Signer,
    edit: impl Fn(&mut Value) + Send + Sync + 'static,
) -> Serving {
    let keys = json!({"keys": [signer.jwk()]}).to_string();
    serve(move |request| {
        let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let base = format!("http://{host}");
        if request.starts_with("GET /.well-known/openid-configuration ") {
            let mut document = json!({"issuer": base, "jwks_uri": format!("{base}/keys")});
            edit(&mut document);
            (200, document.to_string())
        } else {
            (200, keys.clone())
        }
    })
    .await
}

#[tokio::test]
async fn discovered_providers_are_one_issuer() {
    let signer = Signer::new("k");
    let server = discoverable(&signer, |_| {}).await;
    let method = method("jwt", &json!({"OIDCDiscoveryURL": server.url})).unwrap();
    let providers = Providers::default();
    providers.check(&method).await.unwrap();
    let token = |issuer: &str| signer.sign(&json!({"iss": issuer, "iat": now(), "aud": "x"}));
    login(&providers, &method, &token(&server.url)).await.unwrap();
    let error = login(&providers, &method, &token("other")).await.unwrap_err();
    assert!(error.contains("invalid issuer claim"), "{error}");

    let liar = discoverable(&signer, |document| document["issuer"] = json!("http://other")).await;
    let lured =
        discoverable(&signer, |document| document["jwks_uri"] = json!("file:///etc/passwd")).await;
    for (server, expected) in [(liar, "oidc: issuer did not match"), (lured, "is no address")] {
        let method = super::method("jwt", &json!({"OIDCDiscoveryURL": server.url})).unwrap();
        let error = Providers::default().check(&method).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn service_accounts_are_reviewed_by_their_cluster() {
    let authority = Authority::new();
    let answers = Arc::new(Mutex::new((json!({}), json!({}))));
    let kept = Arc::clone(&answers);
    let handle: Handle = Arc::new(move |request: &str| {
        assert!(request.contains("authorization: Bearer eyJ"), "{request}");
        let (review, account) = kept.lock().unwrap().clone();
        let found = if request.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews ") {
            review
        } else {
            assert!(request.starts_with("GET /api/v1/namespaces/default/serviceaccounts/demo "));
            account
        };
        let status = found["code"].as_u64().unwrap_or(200);
        (status.try_into().unwrap(), found.to_string())
    });
    let (address, _serving) =
        authority.serve(&["127.0.0.1"], move |stream| answer(stream, Arc::clone(&handle))).await;
    let token = Signer::new("k").sign(&json!({"iss": "kubernetes/serviceaccount"}));
    let config = |authority: &Authority| json!({"Host": format!("https://{address}"), "CACert": authority.pem(), "ServiceAccountJWT": token});
    let method = method("kubernetes", &config(&authority)).unwrap();
    let user = |name: &str| {
        let user = json!({"username": name, "uid": "u-1"});
        json!({"status": {"authenticated": true, "user": user}})
    };
    let good = user("system:serviceaccount:default:demo");
    let plain = json!({"metadata": {"name": "demo", "annotations": null}});
    let alias =
        json!({"metadata": {"annotations": {"consul.hashicorp.com/service-name": "alias"}}});
    let missing = json!({"code": 404, "message": "serviceaccounts \"demo\" not found"});
    let rows = [
        (&good, &plain, Ok("demo")),
        (&good, &alias, Ok("alias")),
        (&good, &missing, Err("annotation lookup failed: serviceaccounts \"demo\" not found")),
        (&user("kate"), &plain, Err("lookup failed: unexpected username format")),
        (
            &user("system:serviceaccount:../x:y"),
            &plain,
            Err("lookup failed: unexpected username format"),
        ),
        (
            &json!({"status": {"authenticated": false, "error": "zap"}}),
            &plain,
            Err("lookup failed: zap"),
        ),
        (&json!({}), &plain, Err("lookup failed: service account jwt not authenticated")),
        (&json!({"code": 403, "message": "forbidden by me"}), &plain, Err("forbidden by me")),
    ];
    let providers = Providers::default();
    for (review, account, expected) in rows {
        *answers.lock().unwrap() = (review.clone(), account.clone());
        let found = login(&providers, &method, &token).await;
        let name =
            found.map(|identity| identity.variable("serviceaccount.name").unwrap().to_owned());
        assert_eq!(name, expected.map(str::to_owned).map_err(str::to_owned), "{review} {account}");
    }
    let error = login(&providers, &method, "zap").await.unwrap_err();
    assert!(error.starts_with("failed to parse and validate JWT: "), "{error}");
    // Another authority than the one that the settings name is nobody.
    let stranger = super::method("kubernetes", &config(&Authority::new())).unwrap();
    let error = login(&providers, &stranger, &token).await.unwrap_err();
    assert!(error.contains("x509: certificate signed by unknown authority"), "{error}");
}

fn parameter<'a>(url: &'a str, name: &str) -> &'a str {
    let (_, query) = url.split_once('?').unwrap_or(("", url));
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no `{name}` in {url}"))
}

#[tokio::test]
async fn people_log_in_by_a_browser() {
    let signer = Arc::new(Signer::new("k"));
    let seen = Arc::new(Mutex::new((String::new(), String::new())));
    let (kept, by) = (Arc::clone(&seen), Arc::clone(&signer));
    let server = serve(move |request| {
        let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let base = format!("http://{host}");
        let path = request.split(' ').nth(1).unwrap();
        let (nonce, challenge) = kept.lock().unwrap().clone();
        let found = match path {
            "/.well-known/openid-configuration" => json!({
                "issuer": base, "jwks_uri": format!("{base}/keys"),
                "authorization_endpoint": format!("{base}/auth"), "token_endpoint": format!("{base}/token"),
                "userinfo_endpoint": format!("{base}/info"),
                "id_token_signing_alg_values_supported": ["ES256"],
            }),
            "/keys" => json!({"keys": [by.jwk()]}),
            "/info" => json!({"sub": "ann", "groups": ["admin"]}),
            _ => {
                let body = request.split_once("\r\n\r\n").unwrap().1;
                let verifier = parameter(body, "code_verifier");
                let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
                if digest != challenge || parameter(body, "code") != "c1" {
                    return (400, json!({"error": "invalid_grant"}).to_string());
                }
                assert!(request.contains("authorization: Basic "), "{request}");
                let claims = json!({"iss": base, "aud": "client", "sub": "ann", "nonce": nonce,
                    "iat": now(), "exp": now() + 60});
                json!({"id_token": by.sign(&claims), "access_token": "at"})
            }
        };
        (200, found.to_string())
    })
    .await;
    let method = method(
        "oidc",
        &json!({
            "OIDCDiscoveryURL": server.url, "OIDCClientID": "client", "OIDCClientSecret": "s3cret",
            "AllowedRedirectURIs": ["http://localhost:8550/oidc/callback", "https://ui/x"],
            "OIDCScopes": ["groups"], "ListClaimMappings": {"groups": "g"},
        }),
    )
    .unwrap();
    let Method::Oidc(oidc) = &method else { panic!("another method") };
    let providers = Providers::default();
    providers.check(&method).await.unwrap();
    login(&providers, &method, "zap").await.unwrap_err();
    let start =
        |redirect: &str| Start { redirect: redirect.to_owned(), client_nonce: "mine".to_owned() };
    for redirect in [
        "http://localhost/x",
        "https://ui/y",
        "https://evil/x",
        "",
        "http://localhost@evil/oidc/callback",
    ] {
        let error = providers.begin("m", oidc, &start(redirect)).await.unwrap_err();
        assert_eq!(error.to_string(), format!("unauthorized redirect_uri: {redirect}"));
    }
    let url = providers.begin("m", oidc, &start("http://localhost:1/oidc/callback")).await.unwrap();
    assert!(url.starts_with(&format!("{}/auth?", server.url)), "{url}");
    assert_eq!(parameter(&url, "scope"), "openid%20groups");
    assert!(!url.contains("s3cret") && !url.contains("mine"), "{url}");
    let nonce = parameter(&url, "nonce").to_owned();
    *seen.lock().unwrap() = (nonce.clone(), parameter(&url, "code_challenge").to_owned());
    let good = Callback {
        state: parameter(&url, "state").to_owned(),
        code: "c1".to_owned(),
        client_nonce: "mine".to_owned(),
    };
    let end = async |name: &str, callback: &Callback| {
        let ended = providers.end(name, oidc, callback).await;
        ended.map_err(|refusal| refusal.to_string())
    };
    let Identity::Claims { lists, .. } = end("m", &good).await.unwrap() else {
        panic!("no claims")
    };
    assert_eq!(lists["g"], ["admin"]);

    let gone = "Expired or missing OAuth state.";
    let altered: String = good.state.chars().rev().collect();
    let rows = [
        ("other", good.clone(), gone),
        ("m", Callback { state: altered, ..good.clone() }, gone),
        ("m", Callback { state: String::new(), ..good.clone() }, gone),
        (
            "m",
            Callback { code: String::new(), ..good.clone() },
            "OAuth core parameter not provided",
        ),
        (
            "m",
            Callback { client_nonce: "yours".to_owned(), ..good.clone() },
            "the client nonce is not the one of the beginning",
        ),
        (
            "m",
            Callback { code: "c2".to_owned(), ..good.clone() },
            "Error exchanging oidc code: status 400: invalid_grant",
        ),
    ];
    for (name, callback, expected) in rows {
        assert_eq!(end(name, &callback).await.unwrap_err(), expected);
    }
    let late = Duration::from_secs(now().unsigned_abs() + 700);
    assert_eq!(oidc.open("m", &good, late).err().unwrap().to_string(), gone);
    // A token that was made for another log-in.
    seen.lock().unwrap().0 = format!("{nonce}x");
    assert_eq!(end("m", &good).await.unwrap_err(), "Invalid ID token nonce.");
}
