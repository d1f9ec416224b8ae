//! A wish that crosses from the interface to whoever knows the configuration, and the answer back.

use tokio::sync::{mpsc, oneshot};

use crate::acl::{Access, Resource};
use crate::http::error::Error;
use crate::http::extract::Request;
use crate::http::handler::{Answer, later};
use crate::http::reply::Reply;

/// Wishes that wait at one time; a further one waits to be heard.
const WAITING_MAX: usize = 4;

/// The interface's end: asks for the configuration to be read anew. The default one asks nobody.
#[derive(Debug, Clone, Default)]
pub struct Reload(Option<mpsc::Sender<ReloadRequest>>);

/// One wish; it must be answered with what came of it.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

impl Reload {
    /// Both ends.
    pub fn new() -> (Reload, mpsc::Receiver<ReloadRequest>) {
        let (sender, wishes) = mpsc::channel(WAITING_MAX);
        (Reload(Some(sender)), wishes)
    }

    async fn ask(&self) -> Result<(), String> {
        let nobody = || "the agent is stopping: nothing was changed".to_owned();
        let (answer, answered) = oneshot::channel();
        let sender = self.0.as_ref().ok_or_else(nobody)?;
        sender.send(answer).await.map_err(|_| nobody())?;
        answered.await.map_err(|_| nobody())?
    }
}

/// Reads the configuration anew; if anything in it is wrong, nothing changes.
pub(super) fn reload(request: Request) -> Result<Answer, Error> {
    let parts = &request.app.parts;
    request.authorize(Resource::Agent(&parts.node_name), Access::Write)?;
    let reload = parts.reload.clone();
    drop(request);
    later(async move {
        reload.ask().await.map_err(Error::Refused)?;
        Ok(Reply::empty())
    })
}
