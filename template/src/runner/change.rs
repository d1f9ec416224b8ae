//! One change of a group: puts the newest texts in place; if the check refuses them, finds what it refuses and puts
//! the texts without it in place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::effects::Effects;
use crate::facts::Facts;
use crate::guard::Memory;
use crate::render::{Engine, Rendered, Texts};
use crate::suspects::{self, Check, Search, Suspect};
use crate::transaction::{Committed, Failed, Ledger, Settings, Step, Transaction};

/// What a text was made from.
#[derive(Debug, Clone, Default)]
pub(super) struct Basis {
    pub(super) facts: Facts,
    pub(super) memory: Memory,
}

/// A change to be made.
pub(super) struct Change {
    pub(super) settings: Settings,
    pub(super) ledger: Arc<Ledger>,
    pub(super) effects: Effects,
    pub(super) engine: Arc<Engine>,
    pub(super) texts: Texts,
    /// What these texts were made from.
    pub(super) basis: Basis,
    /// What those in use were made from, which the check accepted.
    pub(super) before: Basis,
}

/// How a change went.
pub(super) struct Outcome {
    pub(super) result: Result<Committed, Failed>,
    /// What the texts that are in place now were made from.
    pub(super) basis: Basis,
    /// What had to be left out for it.
    pub(super) refused: Vec<Refused>,
}

/// Something that the check refuses.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) suspect: Suspect,
    /// In the words of the check.
    pub(super) why: String,
    /// What was known of it.
    pub(super) known: Vec<tera::Value>,
    /// When it is judged anew although nothing else is known.
    pub(super) until: Instant,
}

/// How long a verdict of the check is believed.
const JUDGED_FOR: Duration = Duration::from_mins(5);

impl Change {
    /// Makes the change.
    pub(super) async fn run(mut self) -> Outcome {
        let mut result = self.commit(&self.texts).await;
        let mut refused = Vec::new();
        if let Err(Failed { step: Step::Validate, message, .. }) = &result
            && let Some(found) = self.without_refused().await
        {
            let group = &self.settings.name;
            tracing::warn!(group, "the check refuses the newest version: {message}");
            result = self.commit(&found.texts).await;
            let until = Instant::now() + JUDGED_FOR;
            let judge = |(suspect, why)| {
                let known = suspects::known_of(&self.basis.facts, &suspect);
                Refused { suspect, why, known, until }
            };
            refused = found.refused.into_iter().map(judge).collect();
            self.basis = found.basis;
        }
        if let (Ok(_), Err(error)) = (&result, self.ledger.save_kept(&self.basis.memory.save())) {
            let group = &self.settings.name;
            tracing::warn!(group, %error, "cannot save the lists to fall back to");
        }
        Outcome { result, basis: self.basis, refused }
    }

    async fn commit(&self, texts: &Texts) -> Result<Committed, Failed> {
        Transaction::new(&self.settings, &self.ledger, &self.effects).commit(texts).await
    }

    /// The texts without what the check refuses; `None` if that cannot be found.
    async fn without_refused(&self) -> Option<Accepted> {
        let (before, now) = (&self.before.facts, &self.basis.facts);
        let mut search = Search::new(Checker(self));
        let found = search.run(&BTreeSet::new(), &suspects::between(before, now)).await?;
        let mut out: BTreeSet<_> = found.keys().cloned().collect();
        let mut refused = BTreeMap::new();
        for (suspect, why) in found {
            out.remove(&suspect);
            let single = match &suspect {
                Suspect::Service(name) => {
                    search.run(&out, &suspects::instances(before, now, name)).await
                }
                _ => None,
            };
            // Without its instances it may be refused as well: then it is the service itself.
            let single = single.unwrap_or_else(|| [(suspect, why)].into());
            out.extend(single.keys().cloned());
            refused.extend(single);
        }
        let (texts, basis) = self.render_without(&out).ok()?;
        Some(Accepted { texts, basis, refused })
    }

    fn render_without(&self, out: &BTreeSet<Suspect>) -> Result<(Texts, Basis), String> {
        let facts = suspects::without(&self.basis.facts, &self.before.facts, out);
        // What was remembered of the odd ones meanwhile must not come back by the guards.
        let outcome = self.engine.render(&facts, &self.before.memory, Instant::now());
        match outcome.result {
            Rendered::Complete(texts) => Ok((texts, Basis { facts, memory: outcome.memory })),
            Rendered::Failed(error) => Err(error.to_string()),
            Rendered::Incomplete | Rendered::Waiting(_) => Err("it asks for more".to_owned()),
        }
    }
}

/// Asks the check of a group about texts that are not put in place.
struct Checker<'a>(&'a Change);

#[async_trait]
impl Check for Checker<'_> {
    async fn check(&mut self, out: &BTreeSet<Suspect>) -> Result<(), String> {
        let Self(change) = self;
        let (texts, _) = change.render_without(out)?;
        let transaction = Transaction::new(&change.settings, &change.ledger, &change.effects);
        transaction.check(&texts).await.map_err(|failed| failed.message)
    }
}

/// Texts that the check accepts.
struct Accepted {
    texts: Texts,
    basis: Basis,
    refused: BTreeMap<Suspect, String>,
}
