//! Where the agent is and who asks.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// A token. It is never printed. One from a file remembers the file: clients read it again when it changes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    file: Option<PathBuf>,
}

/// More than any token has: what is larger is no file with a token.
const FILE_BYTES_MAX: u64 = 64 * 1024;

impl Secret {
    /// Takes the token's text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret { text: text.into(), file: None }
    }
    /// Reads the token from a file; white space around it does not count. `None` if there is
    /// nothing else in it.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Option<Secret>, Error> {
        let path = path.as_ref();
        let read = || {
            let metadata = fs::metadata(path)?;
            if metadata.len() > FILE_BYTES_MAX {
                return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
            }
            fs::read_to_string(path)
        };
        let text = read()
            .map_err(|source| Error::TokenFile { path: path.display().to_string(), source })?;
        let text = text.trim();
        let secret = Secret { text: text.to_owned(), file: Some(path.to_owned()) };
        Ok((!text.is_empty()).then_some(secret))
    }
    /// The token's text, for a header and nothing else.
    pub fn expose(&self) -> &str {
        &self.text
    }
    /// The file that it was read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// How to reach an agent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port`, `http://host:port` or `unix:///path`.
    pub address: String,
    /// Sent with every request.
    pub token: Option<Secret>,
    /// User and password of a proxy in front of the agent.
    pub basic_auth: Option<Secret>,
    /// Another datacenter than the agent's.
    pub datacenter: Option<String>,
    /// How long a request may take beyond the wait that it asks for.
    pub timeout: Duration,
    /// The most connections that this process opens to the agent, all its clients together. Requests above it queue.
    pub connections_max: usize,
}

/// A quarter of what an agent accepts from one address by default (`limits.http_max_conns_per_client`).
const CONNECTIONS_MAX_DEFAULT: usize = 50;

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            address: "127.0.0.1:8500".into(),
            token: None,
            basic_auth: None,
            datacenter: None,
            timeout: Duration::from_secs(30),
            connections_max: CONNECTIONS_MAX_DEFAULT,
        }
    }
}

impl Settings {
    /// Reads `MUSTER_HTTP_ADDR`, `_TOKEN`, `_TOKEN_FILE`, `_AUTH`, `_SSL` and `_CONNECTIONS_MAX`; each falls back to
    /// its `CONSUL_` name. As in the reference, a token file beats a token; it is read again when it changes.
    pub fn from_env() -> Result<Settings, Error> {
        let mut settings = Settings::default();
        if let Some(address) = variable("HTTP_ADDR") {
            settings.address = address;
        }
        if variable("HTTP_SSL").is_some_and(|text| text == "1" || text.eq_ignore_ascii_case("true"))
        {
            return Err(Error::Address {
                address: settings.address,
                why: "HTTPS is not supported yet: unset HTTP_SSL".into(),
            });
        }
        settings.token = variable("HTTP_TOKEN").map(Secret::new);
        if let Some(path) = variable("HTTP_TOKEN_FILE") {
            settings.token = Secret::from_file(&path)?.or(settings.token);
        }
        settings.basic_auth = variable("HTTP_AUTH").map(Secret::new);
        if let Some(text) = variable("HTTP_CONNECTIONS_MAX") {
            settings.connections_max = text.parse().map_err(|_| Error::Address {
                address: settings.address.clone(),
                why: format!("HTTP_CONNECTIONS_MAX is `{text}`: use a whole number"),
            })?;
        }
        Ok(settings)
    }
}

fn variable(name: &str) -> Option<String> {
    let read =
        |prefix: &str| env::var(format!("{prefix}_{name}")).ok().filter(|text| !text.is_empty());
    read("MUSTER").or_else(|| read("CONSUL"))
}
