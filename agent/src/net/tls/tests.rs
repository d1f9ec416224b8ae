use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An authority of one test, which makes certificates for its servers.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A server that stops when this is dropped.
pub(crate) struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer }
    }

    /// TLS settings with which a check trusts it.
    pub(crate) fn tls(&self) -> Tls {
        Tls::from(Inner::with(vec![self.issuer.der().clone()], false))
    }

    /// Its certificate, as settings take it.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn params(names: &[&str]) -> CertificateParams {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params
    }

    /// A server of its own that hands every connection to `handle`.
    pub(crate) async fn serve<F, W>(&self, names: &[&str], handle: F) -> (SocketAddr, Serving)
    where
        F: Fn(tokio_rustls::server::TlsStream<TcpStream>) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        self.serve_as(Authority::params(names), handle).await
    }

    async fn serve_as<F, W>(&self, params: CertificateParams, handle: F) -> (SocketAddr, Serving)
    where
        F: Fn(tokio_rustls::server::TlsStream<TcpStream>) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        serve(certificate.der().clone(), key.into(), handle).await
    }
}

async fn serve<F, W>(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    handle: F,
) -> (SocketAddr, Serving)
where
    F: Fn(tokio_rustls::server::TlsStream<TcpStream>) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(handle(stream));
            }
        }
    });
    (address, Serving(serving))
}

/// Connects to a server under a name that leads to it.
async fn attempt(tls: &Tls, address: SocketAddr, verify: &Verify) -> Result<(), String> {
    let address = address.to_string();
    let dialing = tls.dial(&address, Some(verify), Inside::Anything);
    let dialed = tokio::time::timeout(Duration::from_secs(20), dialing).await;
    dialed.expect("a handshake in time").map(|_| ())
}

fn named(name: &str) -> Verify {
    Verify { certificate: true, name: name.to_owned() }
}

async fn nothing(_: tokio_rustls::server::TlsStream<TcpStream>) {}

#[tokio::test]
async fn names_times_and_issuers_count() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let known = authority.tls();
    let (web, _a) = authority.serve(&["web.example", "www.example"], nothing).await;
    let (own_ip, _b) = authority.serve(&["127.0.0.1"], nothing).await;
    let (foreign, _c) = stranger.serve(&["web.example"], nothing).await;
    let mut old = Authority::params(&["web.example"]);
    (old.not_before, old.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    let (old, _d) = authority.serve_as(old, nothing).await;

    let unknown = "x509: certificate signed by unknown authority";
    let rows = [
        (web, named("web.example"), Ok(())),
        (web, named("www.example"), Ok(())),
        (own_ip, Verify::default(), Ok(())),
        (foreign, named("web.example"), Err(unknown)),
        (
            web,
            named("other.example"),
            Err("x509: certificate is valid for web.example, www.example, not other.example"),
        ),
        (
            web,
            Verify::default(),
            Err(
                "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs",
            ),
        ),
        (old, named("web.example"), Err("x509: certificate has expired or is not yet valid")),
        (old, Verify { certificate: false, name: String::new() }, Ok(())),
        (foreign, Verify { certificate: false, name: String::new() }, Ok(())),
    ];
    for (row, (address, verify, expected)) in rows.into_iter().enumerate() {
        let found = attempt(&known, address, &verify).await;
        assert_eq!(found, expected.map_err(str::to_owned), "row {row}");
    }
    // Without the authority only what the system, or else the browsers trust.
    assert_eq!(attempt(&Tls::default(), web, &named("web.example")).await, Err(unknown.to_owned()));
}

#[tokio::test]
async fn a_certificate_that_is_its_own_authority_is_enough() {
    let key = KeyPair::generate().unwrap();
    let make = |old: bool| {
        let mut params = Authority::params(&["web.example"]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if old {
            (params.not_before, params.not_after) =
                (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        }
        params.self_signed(&key).unwrap().der().clone()
    };
    let certificate = make(false);
    let folder = tempfile::tempdir().unwrap();
    let pem = |der: &CertificateDer<'_>| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let file = folder.path().join("a.pem");
    std::fs::write(&file, pem(&certificate)).unwrap();
    let by_file = Tls::new(&Authorities { file: Some(file), folder: None, only: true }).unwrap();
    let by_folder =
        Tls::new(&Authorities { folder: Some(folder.path().into()), ..Authorities::default() })
            .unwrap();
    let (address, _a) = serve(certificate, key.serialize_der().try_into().unwrap(), nothing).await;
    let reloaded = Tls::default();
    reloaded.adopt(&by_folder);
    for tls in [&by_file, &by_folder, &reloaded] {
        assert_eq!(attempt(tls, address, &named("web.example")).await, Ok(()));
        let other = attempt(tls, address, &named("other.example")).await.unwrap_err();
        assert_eq!(other, "x509: certificate is valid for web.example, not other.example");
    }
    assert!(attempt(&Tls::default(), address, &named("web.example")).await.is_err());

    let certificate = make(true);
    let old = Tls::from(Inner::with(vec![certificate.clone()], true));
    let (address, _b) = serve(certificate, key.serialize_der().try_into().unwrap(), nothing).await;
    assert_eq!(
        attempt(&old, address, &named("web.example")).await.unwrap_err(),
        "x509: certificate has expired or is not yet valid"
    );
}

#[test]
fn authorities_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("empty.pem");
    std::fs::write(&file, "nothing").unwrap();
    let shown = file.display();
    let empty = "no certificate in PEM form in it";
    let of_file = |path: &Path| Authorities { file: Some(path.into()), ..Authorities::default() };
    let error = Tls::new(&of_file(&file)).unwrap_err().to_string();
    assert_eq!(error, format!("ca_file: `{shown}`: {empty}"));
    let missing = folder.path().join("missing");
    let error = Tls::new(&of_file(&missing)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("ca_file: `{}`: ", missing.display())), "{error}");
    let of_folder = Authorities { folder: Some(folder.path().into()), ..Authorities::default() };
    let error = Tls::new(&of_folder).unwrap_err().to_string();
    assert_eq!(error, format!("ca_path: `{shown}`: {empty}"));
}

#[tokio::test]
async fn who_speaks_something_else_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
        drop(listener.accept().await.unwrap());
    });
    let error = attempt(&Tls::default(), address, &Verify::default()).await.unwrap_err();
    assert_eq!(error, NOT_TLS);
    let error = attempt(&Tls::default(), address, &Verify::default()).await.unwrap_err();
    assert!(error == "EOF" || error.contains("connection reset"), "{error}");
}
