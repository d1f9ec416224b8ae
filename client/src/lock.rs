//! Locks over sessions: at most one holder, who learns in time that it holds no longer.
//!
//! The protocol is the one of the reference's own clients, so that both can compete for a key: the
//! holder's session is on the key, the key carries [`LOCK_FLAGS`]. A session lives as long as it is
//! renewed; when its holder dies or is cut off, the servers end it between one and two lifetimes
//! later. The holder gives up earlier: once it could not renew for one lifetime, [`Held::lost`]
//! tells, before anybody else can be granted the lock.
//!
//! A lock guards what its holder does only as far as the holder looks at `lost`. Where that is not
//! enough, send [`Held::fence`] along: it grows with every holder, so that the guarded thing can
//! refuse whoever comes too late.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::types::{KvPair, SessionDefinition, format_duration};
use crate::{Client, Consistency, Error, PutOptions, ReadOptions};

/// The flags of a key that is a lock: a number that the clients of the API have agreed on.
pub const LOCK_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

/// How long one look at the key waits for a change.
const WAIT: Duration = Duration::from_secs(15);
/// Pause after a refusal, for example while the lock-delay of the last holder passes.
const RETRY: Duration = Duration::from_secs(1);

/// What to lock and how.
#[derive(Debug, Clone)]
pub struct LockSettings {
    /// The key.
    pub key: String,
    /// Written to the key by the holder, for others to read.
    pub value: Bytes,
    /// Name of the session, for people.
    pub session_name: String,
    /// Lifetime of the session: 10 s to a day. Shorter ones find a dead holder sooner.
    pub ttl: Duration,
}

impl LockSettings {
    /// A lock on a key with a lifetime of 15 s.
    pub fn new(key: impl Into<String>) -> LockSettings {
        let key = key.into();
        LockSettings {
            session_name: format!("Lock on {key}"),
            key,
            value: Bytes::new(),
            ttl: Duration::from_secs(15),
        }
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The agent failed or refused.
    #[error("cannot take the lock on `{key}`")]
    Api {
        /// The key.
        key: String,
        /// What happened.
        #[source]
        source: Error,
    },
    /// Somebody uses the key for something else.
    #[error("`{key}` is held with other flags than a lock's: another program uses the key")]
    NotALock {
        /// The key.
        key: String,
    },
    /// The session ended while the lock was waited for.
    #[error("the session ended before the lock on `{key}` was free")]
    SessionLost {
        /// The key.
        key: String,
    },
}

impl Client {
    /// Waits until the lock is ours. To give up earlier, drop the future or wrap it in a timeout:
    /// its session is ended, or ends by itself within two lifetimes.
    pub async fn lock(&self, settings: LockSettings) -> Result<Held, LockError> {
        let api = |source| LockError::Api { key: settings.key.clone(), source };
        let definition = SessionDefinition {
            name: settings.session_name.clone(),
            ttl: Some(format_duration(settings.ttl)),
            ..SessionDefinition::default()
        };
        let session = self.session().create(&definition).await.map_err(api)?;
        let (lost, news) = watch::channel(false);
        let renewal = tokio::spawn(renew(self.clone(), session.clone(), settings.ttl, lost));
        // From here on a drop at any point ends the session.
        let mut held = Held {
            client: self.clone(),
            key: settings.key.clone(),
            session,
            fence: 0,
            ended: false,
            news,
            tasks: vec![renewal],
        };
        let pair = held.take(&settings).await?;
        held.fence = pair.lock_index;
        let (lost, news) = watch::channel(false);
        let mut renewal_news = std::mem::replace(&mut held.news, news);
        let guard = guard(self.clone(), pair, held.session.clone());
        held.tasks.push(tokio::spawn(async move {
            tokio::select! {
                () = guard => {}
                // An error means that the renewal ended, which is the same bad news.
                _ = renewal_news.wait_for(|lost| *lost) => {}
            }
            lost.send_replace(true);
        }));
        Ok(held)
    }
}

/// A lock that is ours. Dropping it gives it back in the background; [`Held::release`] waits for
/// that.
#[derive(Debug)]
pub struct Held {
    client: Client,
    key: String,
    session: String,
    fence: u64,
    ended: bool,
    news: watch::Receiver<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Held {
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
        give_back(&self.client, &self.key, &self.session).await
    }

    async fn take(&mut self, settings: &LockSettings) -> Result<KvPair, LockError> {
        let api = |source| LockError::Api { key: settings.key.clone(), source };
        let kv = self.client.kv();
        let mut index = None;
        loop {
            if *self.news.borrow() {
                return Err(LockError::SessionLost { key: settings.key.clone() });
            }
            let options = ReadOptions {
                index,
                wait: Some(WAIT),
                consistency: Consistency::Consistent,
                ..ReadOptions::default()
            };
            let answer = tokio::select! {
                answer = kv.get(&settings.key, &options) => answer.map_err(api)?,
                _ = self.news.wait_for(|lost| *lost) => continue,
            };
            // An index that went back comes from another history: look again without waiting.
            index = Some(answer.meta.index).filter(|new| index.is_none_or(|old| *new >= old));
            match answer.value {
                Some(pair) if pair.session.as_ref() == Some(&self.session) => return Ok(pair),
                Some(pair) if pair.session.is_some() => {
                    if pair.flags != LOCK_FLAGS {
                        return Err(LockError::NotALock { key: settings.key.clone() });
                    }
                    continue;
                }
                _ => {}
            }
            let put = PutOptions {
                flags: LOCK_FLAGS,
                acquire: Some(self.session.clone()),
                ..PutOptions::default()
            };
            if !kv.put(&settings.key, settings.value.clone(), &put).await.map_err(api)? {
                tokio::time::sleep(RETRY).await;
            }
            // Read it anew: with the holder on it, or without and once more.
            index = None;
        }
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
            let (client, key, session) =
                (self.client.clone(), self.key.clone(), self.session.clone());
            runtime.spawn(async move {
                if let Err(error) = give_back(&client, &key, &session).await {
                    tracing::debug!(%error, key, "the lock ends with its session");
                }
            });
        }
    }
}

/// Releases the key first: a key released by its session's end stays locked for the lock-delay.
async fn give_back(client: &Client, key: &str, session: &str) -> Result<(), Error> {
    let current = client.kv().get(key, &ReadOptions::default()).await?.value;
    if let Some(pair) = current.filter(|pair| pair.session.as_deref() == Some(session)) {
        let release = PutOptions {
            flags: pair.flags,
            release: Some(session.to_owned()),
            ..PutOptions::default()
        };
        client.kv().put(key, pair.value, &release).await?;
    }
    client.session().destroy(session).await
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

/// Returns once the key is no longer the session's. Where nobody can say, [`renew`] decides.
async fn guard(client: Client, pair: KvPair, session: String) {
    let mut index = Some(pair.modify_index);
    loop {
        let options = ReadOptions {
            index,
            wait: Some(WAIT),
            consistency: Consistency::Consistent,
            ..ReadOptions::default()
        };
        match client.kv().get(&pair.key, &options).await {
            Ok(answer) => {
                index = Some(answer.meta.index).filter(|new| index.is_none_or(|old| *new >= old));
                if answer.value.and_then(|pair| pair.session) != Some(session.clone()) {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look at the lock yet");
                index = None;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
