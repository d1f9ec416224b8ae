//! Rules of one kind, found by name.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{Grant, Level};

/// Collects the rules of one kind; of several for one name the one counts that precedes.
#[derive(Debug, Default)]
pub(super) struct Builder {
    exact: BTreeMap<Box<str>, Grant>,
    prefixes: BTreeMap<Box<str>, Grant>,
}

impl Builder {
    pub(super) fn add(&mut self, prefix: bool, name: &str, grant: Grant) {
        let rules = if prefix { &mut self.prefixes } else { &mut self.exact };
        match rules.get_mut(name) {
            Some(old) if grant.level.precedes(old.level) => *old = grant,
            Some(_) => {}
            None => {
                rules.insert(name.into(), grant);
            }
        }
    }

    /// Adds what follows from the rules of another kind, where there is no rule yet.
    pub(super) fn add_missing(&mut self, other: &Builder, level: impl Fn(Level) -> Level) {
        for (rules, others) in
            [(&mut self.exact, &other.exact), (&mut self.prefixes, &other.prefixes)]
        {
            for (name, grant) in others {
                rules.entry(name.clone()).or_insert_with(|| Grant {
                    level: level(grant.level),
                    source: grant.source.clone(),
                });
            }
        }
    }

    pub(super) fn build(self) -> Names {
        let mut prefixes: Vec<Prefix> = Vec::with_capacity(self.prefixes.len());
        for (name, grant) in self.prefixes {
            // In this order, the longest prefix of a name stands before it or is one of its predecessor's.
            let mut shorter = prefixes.len().checked_sub(1);
            while let Some(at) = shorter
                && !name.starts_with(&*prefixes[at].name)
            {
                shorter = prefixes[at].shorter;
            }
            prefixes.push(Prefix { name, grant, shorter });
        }
        Names { exact: self.exact.into_iter().collect(), prefixes }
    }
}

/// A rule for all names that begin so.
#[derive(Debug)]
struct Prefix {
    name: Box<str>,
    grant: Grant,
    /// The next shorter prefix of the same names.
    shorter: Option<usize>,
}

/// Rules of one kind, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: Vec<(Box<str>, Grant)>,
    prefixes: Vec<Prefix>,
}

/// A rule: is it for a prefix, its name, what it grants.
pub(super) type Found<'a> = (bool, &'a str, &'a Grant);

impl Names {
    /// The rule that decides about `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Grant> {
        self.find(name).map(|(_, _, grant)| grant)
    }

    pub(super) fn find(&self, name: &str) -> Option<Found<'_>> {
        if let Ok(at) = self.exact.binary_search_by(|(rule, _)| (**rule).cmp(name)) {
            let (rule, grant) = &self.exact[at];
            return Some((false, rule, grant));
        }
        self.find_prefix(name)
    }

    /// The rule for the longest prefix of `name`.
    pub(super) fn find_prefix(&self, name: &str) -> Option<Found<'_>> {
        self.longest_prefix(name).map(|prefix| (true, &*prefix.name, &prefix.grant))
    }

    fn longest_prefix(&self, name: &str) -> Option<&Prefix> {
        let mut at =
            self.prefixes.partition_point(|prefix| *prefix.name <= *name).checked_sub(1)?;
        loop {
            let prefix = &self.prefixes[at];
            if name.starts_with(&*prefix.name) {
                return Some(prefix);
            }
            at = prefix.shorter?;
        }
    }

    /// Is everything below `prefix` granted: by the rule for it (else by `default`), and by every rule further below?
    pub(super) fn all_below(
        &self,
        prefix: &str,
        default: bool,
        enough: impl Fn(Level) -> bool + Copy,
    ) -> bool {
        self.longest_prefix(prefix).map_or(default, |rule| enough(rule.grant.level))
            && self.weaker_below(prefix, enough).is_none()
    }

    /// A rule at or below `prefix` that does not grant enough.
    pub(super) fn weaker_below(
        &self,
        prefix: &str,
        enough: impl Fn(Level) -> bool,
    ) -> Option<Found<'_>> {
        let from = self.exact.partition_point(|(rule, _)| **rule < *prefix);
        let exact = self.exact[from..]
            .iter()
            .take_while(|(rule, _)| rule.starts_with(prefix))
            .find(|(_, grant)| !enough(grant.level))
            .map(|(rule, grant)| (false, &**rule, grant));
        let from = self.prefixes.partition_point(|rule| *rule.name < *prefix);
        exact.or_else(|| {
            self.prefixes[from..]
                .iter()
                .take_while(|rule| rule.name.starts_with(prefix))
                .find(|rule| !enough(rule.grant.level))
                .map(|rule| (true, &*rule.name, &rule.grant))
        })
    }

    pub(super) fn hash(&self, hash: &mut Sha256) {
        let mut rules = |count: usize, each: &mut dyn Iterator<Item = (&str, Level)>| {
            hash.update((count as u64).to_be_bytes());
            for (name, level) in each {
                hash.update((name.len() as u64).to_be_bytes());
                hash.update(name);
                hash.update([level as u8]);
            }
        };
        rules(self.exact.len(), &mut self.exact.iter().map(|(name, grant)| (&**name, grant.level)));
        let mut prefixes = self.prefixes.iter().map(|rule| (&*rule.name, rule.grant.level));
        rules(self.prefixes.len(), &mut prefixes);
    }
}
