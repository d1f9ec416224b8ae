//! Answers that go on: the agent's log, for one.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

use crate::Raw;
use crate::gate::{Kind, Pass};
use crate::transport::{Client, Error, accepted};

/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// The pieces of an answer, as they come. Dropping it ends the request.
#[derive(Debug)]
pub struct Pieces {
    client: Client,
    body: Incoming,
    _pass: Pass,
}

impl Pieces {
    /// Whose answer it is.
    pub(crate) fn address(&self) -> &str {
        &self.client.settings().address
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.unreachable(Box::new(error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

impl Client {
    /// `GET` of any path whose answer is read piece by piece; every status but 200 is an error. Only the
    /// beginning of the answer must come in time.
    pub async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<Pieces, Error> {
        self.pieces(self.request(Method::GET, path, query, Full::default())?).await
    }

    /// The same for any request.
    pub(crate) async fn pieces(
        &self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<Pieces, Error> {
        let after = self.settings().timeout;
        let begin = async {
            let pass = self.enter(Kind::Wait).await;
            Ok::<_, Error>((pass, self.answer(request).await?))
        };
        let (pass, answer) = match tokio::time::timeout(after, begin).await {
            Ok(begun) => begun?,
            Err(_) => {
                return Err(Error::TimedOut { address: self.settings().address.clone(), after });
            }
        };
        let (parts, body) = answer.into_parts();
        if parts.status == StatusCode::OK {
            return Ok(Pieces { client: self.clone(), body, _pass: pass });
        }
        let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        accepted(Raw { status: parts.status, headers: parts.headers, body })?;
        Err(Error::Status { code: parts.status, text: String::new() })
    }
}
