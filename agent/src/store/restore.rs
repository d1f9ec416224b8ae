//! Replacing the whole state through the log, however large it is.
//!
//! ```text
//!   Begin ─▶ Rows ─▶ Rows ─▶ ... ─▶ Commit     all of it is there: it is the state now
//!                       └──────────▶ Abandon   forgotten, as after ten minutes without news
//! ```
//!
//! The rows are collected in a second store beside the first, where nobody sees them. `Commit`
//! puts it in the first one's place, at one position of the log and so at once on every server.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::scope::{ApplyContext, Scope};
use super::snapshot::{self, Header};
use super::{Store, Timestamp};

/// A restore is given up when no part has come for this long. Time is the commands' own, so
/// that all servers forget at the same position.
const PATIENCE_MS: u64 = 10 * 60 * 1000;

/// One step of a restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Restore {
    /// Begins. Another restore on its way is forgotten: its next step will be refused.
    Begin {
        /// Chosen by the proposer.
        id: String,
    },
    /// Brings a part of the rows.
    Rows {
        /// Of which restore.
        id: String,
        /// Number of parts before this one; a missing or repeated part is refused.
        number: u64,
        /// The format of the records.
        format: u16,
        /// As in a snapshot.
        records: Bytes,
    },
    /// Makes the rows the state.
    Commit {
        /// Of which restore.
        id: String,
        /// Number of parts in all.
        parts: u64,
    },
    /// Forgets the rows.
    Abandon {
        /// Of which restore; an unknown one is forgotten already.
        id: String,
    },
}

/// A state that is on its way in.
#[derive(Debug, Clone)]
pub(super) struct Staging {
    outline: Outline,
    store: Box<Store>,
}

/// Header of a restore in progress: the facts of its snapshot beside the rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outline {
    id: Arc<str>,
    parts: u64,
    last: Timestamp,
    header: Option<Header>,
}

impl Staging {
    pub(super) fn from_outline(outline: Outline) -> Staging {
        let mut store = Box::<Store>::default();
        // The header's other fields tell how many rows there will be.
        store.index = outline.header.as_ref().map_or(0, |header| header.index);
        Staging { outline, store }
    }

    pub(super) fn outline(&self) -> &Outline {
        &self.outline
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    fn take(&mut self, number: u64, records: &[u8], at: Timestamp) -> Result<(), Refusal> {
        if number != self.outline.parts {
            let expected = self.outline.parts;
            return Err(Refusal::Restore(format!("part {number} came in place of {expected}")));
        }
        snapshot::take_piece(&mut self.store, &mut self.outline.header, records)
            .map_err(|error| Refusal::Restore(error.to_string()))?;
        // It counts from here on, not from where it was saved.
        self.store.ahead = 0;
        self.outline.parts += 1;
        self.outline.last = at;
        Ok(())
    }
}

impl Store {
    /// Forgets a state whose sender fell silent.
    pub(super) fn forget_staging(&mut self, now: Timestamp) {
        if let Some(staging) = &self.staging
            && now.0.saturating_sub(staging.outline.last.0) > PATIENCE_MS
        {
            self.staging = None;
        }
    }

    pub(super) fn restore(
        &mut self,
        context: &mut ApplyContext,
        restore: &Restore,
    ) -> Result<(), Refusal> {
        match restore {
            Restore::Begin { id } => {
                let id = Arc::from(id.as_str());
                let outline = Outline { id, parts: 0, last: context.at, header: None };
                self.staging = Some(Staging::from_outline(outline));
            }
            Restore::Rows { id, number, records, .. } => {
                let mut staging = self.take_staging(id)?;
                // A part that makes no sense ends the restore: it is not put back.
                staging.take(*number, records, context.at)?;
                self.staging = Some(staging);
            }
            Restore::Commit { id, parts } => {
                let staging = self.take_staging(id)?;
                if staging.outline.parts != *parts {
                    return Err(Refusal::Restore("parts are missing".to_owned()));
                }
                // The count of rows; where it stood in its own log does not matter.
                let found = Header::of(&staging.store);
                if !staging.outline.header.is_some_and(|told| told.same_rows(&found)) {
                    return Err(Refusal::Restore("rows are missing or twice there".to_owned()));
                }
                let judged = staging.store.judge();
                judged.map_err(|error| Refusal::Restore(error.to_string()))?;
                self.become_successor(context, *staging.store);
            }
            Restore::Abandon { id } => {
                if self.staging.as_ref().is_some_and(|staging| *staging.outline.id == **id) {
                    self.staging = None;
                }
            }
        }
        Ok(())
    }

    /// Takes what is on its way out of the store, if it is this one.
    fn take_staging(&mut self, id: &str) -> Result<Staging, Refusal> {
        match &self.staging {
            Some(staging) if *staging.outline.id == *id => {
                self.staging.take().ok_or_else(|| Refusal::Restore(String::new()))
            }
            Some(_) => Err(Refusal::Restore("another restore took its place".to_owned())),
            None => Err(Refusal::Restore("it was abandoned".to_owned())),
        }
    }

    /// Puts `state` in the place of this one. Its index becomes higher than any of the two states
    /// has shown, and none of its tables shows a lower one.
    fn become_successor(&mut self, context: &mut ApplyContext, mut state: Store) {
        let position = context.index - self.ahead;
        state.ahead = self.ahead.max((state.index + 1).saturating_sub(position));
        state.epoch = self.epoch + 1;
        let index = state.index_of(position);
        state.raise(index);
        state.staging = None;
        *self = state;
        context.index = index;
        context.touch(Scope::Everything);
    }
}
