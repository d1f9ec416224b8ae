//! One holder: its session is on the key.

use super::held::{Claim, Held};
use super::{LOCK_FLAGS, LockError, LockSettings, RETRY, follow, look};
use crate::types::KvPair;
use crate::{Client, Error, PutOptions, ReadOptions};

impl Client {
    /// Waits until the lock on a key is ours, as long as the patience of the settings lasts. When
    /// the future is dropped, its session is ended in the background, or ends by itself within two
    /// lifetimes.
    pub async fn lock(&self, settings: LockSettings) -> Result<Held, LockError> {
        let held = Held::compete(self, &settings, Claim::Key(settings.key.clone())).await?;
        let take = take(self, held.session().to_owned(), &settings);
        let (held, pair) = held.won(&settings, take).await?;
        let fence = pair.lock_index;
        let guard = guard(self.clone(), pair, held.session().to_owned());
        Ok(held.guarded(fence, guard))
    }
}

/// Waits until the session is on the key.
async fn take(
    client: &Client,
    session: String,
    settings: &LockSettings,
) -> Result<KvPair, LockError> {
    let api = |source| LockError::Api { key: settings.key.clone(), source };
    let mut index = None;
    loop {
        let answer = client.kv().get(&settings.key, &look(index)).await.map_err(api)?;
        index = follow(index, answer.meta.index);
        match answer.value {
            Some(pair) if pair.session.as_ref() == Some(&session) => return Ok(pair),
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
            acquire: Some(session.clone()),
            ..PutOptions::default()
        };
        if !client.kv().put(&settings.key, settings.value.clone(), &put).await.map_err(api)? {
            tokio::time::sleep(RETRY).await;
        }
        // Read it anew: with the holder on it, or without and once more.
        index = None;
    }
}

/// Releases the key before its session ends: else it would stay locked for the lock-delay.
pub(super) async fn give_back(client: &Client, key: &str, session: &str) -> Result<(), Error> {
    let current = client.kv().get(key, &ReadOptions::default()).await?.value;
    if let Some(pair) = current.filter(|pair| pair.session.as_deref() == Some(session)) {
        let release = PutOptions {
            flags: pair.flags,
            release: Some(session.to_owned()),
            ..PutOptions::default()
        };
        client.kv().put(key, pair.value, &release).await?;
    }
    Ok(())
}

/// Returns once the key is no longer the session's. Where nobody can say, its renewal decides.
async fn guard(client: Client, pair: KvPair, session: String) {
    let mut index = Some(pair.modify_index);
    loop {
        match client.kv().get(&pair.key, &look(index)).await {
            Ok(answer) => {
                index = follow(index, answer.meta.index);
                if answer.value.and_then(|pair| pair.session).as_deref() != Some(&*session) {
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
