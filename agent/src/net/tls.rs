//! Encrypted connections of a client, such as a probe: whom it trusts, and how failures are told.
//!
//! A check trusts whom the system trusts, and the authorities of the agent's configuration besides
//! (`ca_file`, `ca_path`); with `enable_agent_tls_for_checks` those alone. An image without any
//! certificates gets the list that browsers ship, so that a check of a public address passes there as
//! it does on a desktop. The lists are read when the first check needs them: most agents never do.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage,
    RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tcp;

/// The failure of a handshake with somebody who speaks something else.
pub(crate) const NOT_TLS: &str = "tls: first record does not look like a TLS handshake";

/// Certificate authorities named by the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    /// Certificates in PEM form.
    pub file: Option<PathBuf>,
    /// A folder of such files.
    pub folder: Option<PathBuf>,
    /// They alone are trusted.
    pub only: bool,
}

/// An authority that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: `{path}`: {what}")]
pub struct Error {
    /// The key that names it.
    key: &'static str,
    path: String,
    what: String,
}

/// Verification of the other side's certificate, as a definition asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// Is it looked at at all?
    pub certificate: bool,
    /// The name it must be for; empty: the one that was connected to.
    pub name: String,
}

impl Default for Verify {
    fn default() -> Verify {
        Verify { certificate: true, name: String::new() }
    }
}

/// Protocol inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    /// Not agreed on.
    Anything,
    /// HTTP/2.
    H2,
}

/// Handle on what probes need for encrypted connections. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<ArcSwap<Inner>>,
}

struct Inner {
    own: Vec<CertificateDer<'static>>,
    only: bool,
    /// By whether the certificate is looked at, and what is spoken inside.
    configs: [OnceLock<Arc<ClientConfig>>; 4],
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("own", &self.inner.load().own.len()).finish_non_exhaustive()
    }
}

impl Default for Tls {
    fn default() -> Tls {
        Tls::from(Inner::with(Vec::new(), false))
    }
}

impl Tls {
    /// Reads the authorities that the configuration names.
    pub fn new(authorities: &Authorities) -> Result<Tls, Error> {
        Inner::new(authorities).map(Tls::from)
    }

    /// Trusts the certificates of a text in PEM form, and nobody else. `None` if there is none in it.
    pub(crate) fn trusting(pem: &str) -> Option<Tls> {
        let own: Vec<_> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
        let is_one = |der: &CertificateDer<'_>| ParsedCertificate::try_from(der).is_ok();
        (!own.is_empty() && own.iter().all(is_one)).then(|| Tls::from(Inner::with(own, true)))
    }

    /// Trusts whom the other does from now on, in all that hold this handle.
    pub fn adopt(&self, other: &Tls) {
        self.inner.store(other.inner.load_full());
    }

    /// Makes a connection an encrypted one. The error is ready for people.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
        verify: &Verify,
        inside: Inside,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = if verify.name.is_empty() { host } else { &verify.name };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| format!("x509: {bare:?} is no name that a certificate could have"))?;
        let place = usize::from(verify.certificate) * 2 + usize::from(inside == Inside::H2);
        let inner = self.inner.load_full();
        let config = inner.configs[place].get_or_init(|| inner.config(verify.certificate, inside));
        let config = Arc::clone(config);
        let connecting = TlsConnector::from(config).connect(name, stream);
        connecting.await.map_err(|error| reason(&error, bare))
    }
}

/// A connection, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Tls {
    /// Connects to `host:port`, encrypted if that is asked for. The error is ready for people.
    pub(crate) async fn dial(
        &self,
        address: &str,
        verify: Option<&Verify>,
        inside: Inside,
    ) -> Result<Box<dyn Stream>, String> {
        let stream = tcp::connect(address).await?;
        let Some(verify) = verify else { return Ok(Box::new(stream)) };
        let host = tcp::split(address).map_or(address, |(host, _)| host);
        Ok(Box::new(self.connect(stream, host, verify, inside).await?))
    }
}

impl From<Inner> for Tls {
    fn from(inner: Inner) -> Tls {
        Tls { inner: Arc::new(ArcSwap::from_pointee(inner)) }
    }
}

impl Inner {
    fn new(authorities: &Authorities) -> Result<Inner, Error> {
        let mut own = Vec::new();
        if let Some(file) = &authorities.file {
            own.extend(read("ca_file", file)?);
        } else if let Some(folder) = &authorities.folder {
            let failed = |what: std::io::Error| Error {
                key: "ca_path",
                path: folder.display().to_string(),
                what: what.to_string(),
            };
            let mut files = std::fs::read_dir(folder)
                .and_then(|entries| {
                    entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>()
                })
                .map_err(failed)?;
            files.sort();
            for file in files.iter().filter(|file| file.is_file()) {
                own.extend(read("ca_path", file)?);
            }
        }
        Ok(Inner::with(own, authorities.only))
    }

    fn with(own: Vec<CertificateDer<'static>>, only: bool) -> Inner {
        // Alone, an empty list would refuse everybody.
        let only = only && !own.is_empty();
        Inner { own, only, configs: Default::default() }
    }

    fn config(&self, verify: bool, inside: Inside) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if verify {
            self.verifier(&provider)
        } else {
            Arc::new(Anybody { provider: Arc::clone(&provider) })
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        // Each run is to be what the next new client would find.
        config.resumption = Resumption::disabled();
        if inside == Inside::H2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        Arc::new(config)
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.own.iter().cloned());
        if !self.only {
            let (known, _) =
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if known == 0 {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
        }
        match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
        {
            Ok(inner) => Arc::new(KnownRoots { inner, own: self.own.clone() }),
            // Only without any root: then nobody is trusted.
            Err(_) => Arc::new(Nobody { provider: Arc::clone(provider) }),
        }
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |what: String| Error { key, path: path.display().to_string(), what };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("no certificate in PEM form in it".to_owned()));
    }
    Ok(certificates)
}

/// Accepts a chain to a root, and a certificate that is a root itself.
///
/// A service with one self-signed certificate, which is also the configured authority, is common. The
/// library refuses an authority as the end of a chain; here the very certificate that was
/// configured is enough, if its name fits (its time has been looked at before that refusal).
#[derive(Debug)]
struct KnownRoots {
    inner: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for KnownRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match found {
            Err(rustls::Error::InvalidCertificate(error))
                if is_authority_at_end(&error) && self.own.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            found => found,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The library has no variant of its own for it.
fn is_authority_at_end(error: &CertificateError) -> bool {
    match error {
        CertificateError::Other(other) => other.to_string().contains("CaUsedAsEndEntity"),
        _ => false,
    }
}

/// `tls_skip_verify`: anybody. Who the peer is is not asked, so that it can prove it is not either:
/// certificates too old or too odd to be read are what this is switched on for.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

/// There is not one root.
#[derive(Debug)]
struct Nobody {
    provider: Arc<CryptoProvider>,
}

macro_rules! unlooked {
    ($name:ident, $verdict:expr) => {
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                _end_entity: &CertificateDer<'_>,
                _intermediates: &[CertificateDer<'_>],
                _server_name: &ServerName<'_>,
                _ocsp_response: &[u8],
                _now: UnixTime,
            ) -> Result<ServerCertVerified, rustls::Error> {
                $verdict
            }

            fn verify_tls12_signature(
                &self,
                _message: &[u8],
                _cert: &CertificateDer<'_>,
                _dss: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                Ok(HandshakeSignatureValid::assertion())
            }

            fn verify_tls13_signature(
                &self,
                _message: &[u8],
                _cert: &CertificateDer<'_>,
                _dss: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                Ok(HandshakeSignatureValid::assertion())
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                self.provider.signature_verification_algorithms.supported_schemes()
            }
        }
    };
}

unlooked!(Anybody, Ok(ServerCertVerified::assertion()));
unlooked!(Nobody, Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)));

/// Text for a failed handshake, in the words that the reference's users know.
fn reason(error: &std::io::Error, name: &str) -> String {
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        return match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
            std::io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
            _ => error.to_string(),
        };
    };
    match inner {
        rustls::Error::InvalidCertificate(error) => certificate(error, name),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => NOT_TLS.to_owned(),
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "remote error: tls: handshake failure".to_owned()
        }
        rustls::Error::AlertReceived(alert) => {
            format!("remote error: tls: {}", spaced(&format!("{alert:?}")))
        }
        other => format!("tls: {other}"),
    }
}

fn certificate(error: &CertificateError, name: &str) -> String {
    match error {
        // A bad signature is that of another authority with the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let is_ip = matches!(expected, ServerName::IpAddress(_));
            // As the library shows them: `DnsName("a")`, `IpAddress(127.0.0.1)`.
            let mut names: Vec<&str> = presented
                .iter()
                .filter(|name| name.starts_with("IpAddress") == is_ip)
                .map(|name| {
                    name.split_once('(').map_or(name.as_str(), |(_, rest)| {
                        rest.trim_end_matches(')').trim_matches('"')
                    })
                })
                .collect();
            names.sort_unstable();
            match (names.is_empty(), is_ip) {
                (true, true) => format!(
                    "x509: cannot validate certificate for {name} because it doesn't contain any IP SANs"
                ),
                (true, false) => format!(
                    "x509: certificate is not valid for any names, but wanted to match {name}"
                ),
                (false, _) => {
                    format!("x509: certificate is valid for {}, not {name}", names.join(", "))
                }
            }
        }
        CertificateError::NotValidForName => format!("x509: certificate is not for {name}"),
        other if is_authority_at_end(other) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        other => format!("x509: {}", spaced(&format!("{other:?}"))),
    }
}

/// `BadRecordMac` as words: `bad record mac`.
fn spaced(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
pub(crate) mod tests;
