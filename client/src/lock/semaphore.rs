//! Several holders: each has a key of its own below the prefix, held by its session, which shows
//! that it lives; who of them holds is listed in `.lock`, changed by compare-and-set alone.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::held::{Claim, Held};
use super::{LockError, LockSettings, RETRY, SEMAPHORE_FLAGS, follow, look};
use crate::types::KvPair;
use crate::{Client, Error, PutOptions, ReadOptions};

/// The content of `.lock`.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Holders {
    limit: u32,
    holders: BTreeMap<String, bool>,
}

/// What is below a prefix.
#[derive(Debug)]
struct Scene {
    /// ModifyIndex of `.lock`; 0 if there is none yet.
    index: u64,
    /// Without those whose sessions are gone.
    holders: Holders,
}

impl Scene {
    /// `None` if something there is not a semaphore's.
    fn of(pairs: &[KvPair], prefix: &str) -> Option<Scene> {
        let list = list_key(prefix);
        let mut scene = Scene { index: 0, holders: Holders::default() };
        if let Some(pair) = pairs.iter().find(|pair| pair.key == list) {
            if pair.flags != SEMAPHORE_FLAGS {
                return None;
            }
            scene.index = pair.modify_index;
            scene.holders = serde_json::from_slice(&pair.value).ok()?;
        }
        let lives =
            |session: &str| pairs.iter().any(|pair| pair.session.as_deref() == Some(session));
        scene.holders.holders.retain(|session, holds| *holds && lives(session));
        Some(scene)
    }

    fn has(&self, session: &str) -> bool {
        self.holders.holders.contains_key(session)
    }
}

fn list_key(prefix: &str) -> String {
    format!("{prefix}/.lock")
}

fn own_key(prefix: &str, session: &str) -> String {
    format!("{prefix}/{session}")
}

impl Client {
    /// Waits until we are one of at most `limit` holders below the prefix `settings.key`. Whoever
    /// competes there must ask for the same limit. Otherwise like [`Client::lock`].
    pub async fn semaphore(
        &self,
        mut settings: LockSettings,
        limit: NonZeroU32,
    ) -> Result<Held, LockError> {
        settings.key = settings.key.trim_end_matches('/').to_owned();
        let prefix = settings.key.clone();
        let held = Held::compete(self, &settings, Claim::Place(prefix.clone())).await?;
        let take = take(self, held.session().to_owned(), &settings, limit.get());
        let (held, fence) = held.won(&settings, take).await?;
        let guard = guard(self.clone(), prefix, held.session().to_owned(), fence);
        Ok(held.guarded(fence, guard))
    }
}

/// Waits until the session is on the list; returns the index of that.
async fn take(
    client: &Client,
    session: String,
    settings: &LockSettings,
    limit: u32,
) -> Result<u64, LockError> {
    let prefix = settings.key.as_str();
    let api = |source| LockError::Api { key: prefix.to_owned(), source };
    let presence = PutOptions {
        flags: SEMAPHORE_FLAGS,
        acquire: Some(session.clone()),
        ..PutOptions::default()
    };
    let own = own_key(prefix, &session);
    if !client.kv().put(&own, settings.value.clone(), &presence).await.map_err(api)? {
        return Err(LockError::SessionLost { key: prefix.to_owned() });
    }
    let mut index = None;
    loop {
        let found = client.kv().list(&format!("{prefix}/"), &look(index)).await.map_err(api)?;
        index = follow(index, found.meta.index);
        let mut scene = Scene::of(&found.value, prefix)
            .ok_or_else(|| LockError::NotALock { key: list_key(prefix) })?;
        if scene.has(&session) {
            return Ok(scene.index);
        }
        if scene.holders.limit != limit && !scene.holders.holders.is_empty() {
            return Err(LockError::OtherLimit {
                key: prefix.to_owned(),
                theirs: scene.holders.limit,
                ours: limit,
            });
        }
        if scene.holders.holders.len() >= limit as usize {
            continue;
        }
        scene.holders.limit = limit;
        scene.holders.holders.insert(session.clone(), true);
        write(client, prefix, &scene).await.map_err(api)?;
        // Look again in any case: on success for the index, else for what came between.
        index = None;
    }
}

/// Writes the list if nobody was quicker.
async fn write(client: &Client, prefix: &str, scene: &Scene) -> Result<bool, Error> {
    let key = list_key(prefix);
    let value = serde_json::to_vec(&scene.holders)
        .map_err(|source| Error::Decode { path: key.clone(), source })?;
    let put =
        PutOptions { flags: SEMAPHORE_FLAGS, cas: Some(scene.index), ..PutOptions::default() };
    client.kv().put(&key, value, &put).await
}

/// Leaves the list, and removes the session's own key.
pub(super) async fn give_back(client: &Client, prefix: &str, session: &str) -> Result<(), Error> {
    loop {
        let found = client.kv().list(&format!("{prefix}/"), &ReadOptions::default()).await?;
        let Some(mut scene) = Scene::of(&found.value, prefix).filter(|scene| scene.has(session))
        else {
            break;
        };
        scene.holders.holders.remove(session);
        if write(client, prefix, &scene).await? {
            break;
        }
    }
    client.kv().delete(&own_key(prefix, session), None).await.map(drop)
}

/// Returns once the session is no longer on the list. Where nobody can say, its renewal decides.
async fn guard(client: Client, prefix: String, session: String, fence: u64) {
    let mut index = Some(fence);
    loop {
        match client.kv().list(&format!("{prefix}/"), &look(index)).await {
            Ok(found) => {
                index = follow(index, found.meta.index);
                if !Scene::of(&found.value, &prefix).is_some_and(|scene| scene.has(&session)) {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look at the semaphore yet");
                index = None;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, flags: u64, value: &str, session: Option<&str>) -> KvPair {
        KvPair {
            key: key.into(),
            flags,
            value: value.into(),
            session: session.map(str::to_owned),
            modify_index: 7,
            ..KvPair::default()
        }
    }

    #[test]
    fn the_dead_hold_nothing() {
        let list = r#"{"Limit":2,"Holders":{"alive":true,"dead":true,"no":false}}"#;
        let pairs = [
            pair("p/.lock", SEMAPHORE_FLAGS, list, None),
            pair("p/alive", SEMAPHORE_FLAGS, "", Some("alive")),
            pair("p/dead", SEMAPHORE_FLAGS, "", None),
            pair("p/no", SEMAPHORE_FLAGS, "", Some("no")),
        ];
        let scene = Scene::of(&pairs, "p").unwrap();
        assert_eq!((scene.index, scene.holders.limit), (7, 2));
        assert_eq!(scene.holders.holders.into_keys().collect::<Vec<_>>(), ["alive"]);
    }

    #[test]
    fn keys_of_other_programs_are_left_alone() {
        assert_eq!(Scene::of(&[], "p").unwrap().index, 0);
        assert!(Scene::of(&[pair("p/.lock", 0, "{}", None)], "p").is_none());
        assert!(Scene::of(&[pair("p/.lock", SEMAPHORE_FLAGS, "mine", None)], "p").is_none());
    }
}
