//! A lock that is ours, and the session that it lives by.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{LockError, LockSettings, exclusive, semaphore};
use crate::types::{SessionDefinition, format_duration};
use crate::{Client, Error};

/// What a session competes for, and gives back at the end.
#[derive(Debug, Clone)]
pub(super) enum Claim {
    /// The key itself.
    Key(String),
    /// A place among the holders below a prefix.
    Place(String),
}

impl Claim {
    async fn give_back(self, client: &Client, session: &str) -> Result<(), Error> {
        match &self {
            Claim::Key(key) => exclusive::give_back(client, key, session).await?,
            Claim::Place(prefix) => semaphore::give_back(client, prefix, session).await?,
        }
        client.session().destroy(session).await
    }
}

/// A lock that is ours. Dropping it gives it back in the background; [`Held::release`] waits for
/// that.
#[derive(Debug)]
pub struct Held {
    client: Client,
    claim: Claim,
    session: String,
    fence: u64,
    ended: bool,
    news: watch::Receiver<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Held {
    /// A session that competes from now on. A drop at any point ends it.
    pub(super) async fn compete(
        client: &Client,
        settings: &LockSettings,
        claim: Claim,
    ) -> Result<Held, LockError> {
        let definition = SessionDefinition {
            name: settings.session_name.clone(),
            ttl: Some(format_duration(settings.ttl)),
            // A competitor's own key for a place means nothing without its session.
            behavior: matches!(claim, Claim::Place(_)).then(|| "delete".to_owned()),
            ..SessionDefinition::default()
        };
        let session = client
            .session()
            .create(&definition)
            .await
            .map_err(|source| LockError::Api { key: settings.key.clone(), source })?;
        let (lost, news) = watch::channel(false);
        let renewal = tokio::spawn(renew(client.clone(), session.clone(), settings.ttl, lost));
        Ok(Held {
            client: client.clone(),
            claim,
            session,
            fence: 0,
            ended: false,
            news,
            tasks: vec![renewal],
        })
    }

    /// Waits for `take` to win, and gives everything back if it does not.
    pub(super) async fn won<T>(
        mut self,
        settings: &LockSettings,
        take: impl Future<Output = Result<T, LockError>>,
    ) -> Result<(Held, T), LockError> {
        let key = || settings.key.clone();
        let patience = async {
            match settings.patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = take => outcome,
            () = self.lost() => Err(LockError::SessionLost { key: key() }),
            () = patience => Err(LockError::NotInTime { key: key() }),
        };
        match outcome {
            Ok(won) => Ok((self, won)),
            Err(error) => {
                if let Err(error) = self.release().await {
                    tracing::debug!(%error, "what was tried for ends with its session");
                }
                Err(error)
            }
        }
    }

    /// Tells [`Held::lost`] too when `guard` returns.
    pub(super) fn guarded(
        mut self,
        fence: u64,
        guard: impl Future<Output = ()> + Send + 'static,
    ) -> Held {
        self.fence = fence;
        let (lost, news) = watch::channel(false);
        let mut renewal = std::mem::replace(&mut self.news, news);
        self.tasks.push(tokio::spawn(async move {
            tokio::select! {
                () = guard => {}
                // An error means that the renewal ended, which is the same bad news.
                _ = renewal.wait_for(|lost| *lost) => {}
            }
            lost.send_replace(true);
        }));
        self
    }

    /// The session that holds it.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Grows with every new holder of the key.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Returns once the lock can no longer be relied upon. Safe to cancel and to call again.
    pub async fn lost(&mut self) {
        // An error means that the watching task is gone: then nobody would tell us either.
        let _ = self.news.wait_for(|lost| *lost).await;
    }

    /// Gives it back and waits until others can have it.
    pub async fn release(mut self) -> Result<(), Error> {
        self.ended = true;
        self.tasks.iter().for_each(JoinHandle::abort);
        self.claim.clone().give_back(&self.client, &self.session).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if self.ended {
            return;
        }
        // Without a runtime the session ends by itself when its lifetime is over.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, claim, session) =
                (self.client.clone(), self.claim.clone(), self.session.clone());
            runtime.spawn(async move {
                if let Err(error) = claim.give_back(&client, &session).await {
                    tracing::debug!(%error, "the lock ends with its session");
                }
            });
        }
    }
}

/// Keeps a session alive; sends `true` once it is gone, or must be taken for gone.
async fn renew(client: Client, session: String, ttl: Duration, lost: watch::Sender<bool>) {
    let mut renewed = Instant::now();
    let mut pause = ttl / 3;
    loop {
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        let left = (renewed + ttl).saturating_duration_since(began);
        match tokio::time::timeout(left, client.session().renew(&session)).await {
            Ok(Ok(Some(_))) => {
                renewed = began;
                pause = ttl / 3;
            }
            Ok(Ok(None)) | Err(_) => break,
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot renew the session yet");
                pause = (ttl / 30).max(Duration::from_millis(100));
            }
        }
        if renewed.elapsed() >= ttl {
            break;
        }
    }
    lost.send_replace(true);
}
