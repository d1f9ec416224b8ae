//! An answer with all that it could say. Writing it chooses: groups are shuffled, as many are taken as the
//! client can hold, and it is said when some were left out.

use std::collections::BTreeMap;

use crate::dns::name::Domain;
use crate::dns::wire::{Data, Name, Owner, Rcode, Record};

/// An answer to one name and type, before anything is left out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Draft {
    /// In which of our domains.
    pub domain: Domain,
    /// The verdict.
    pub rcode: Rcode,
    /// Is it ours to say?
    pub authoritative: bool,
    /// The groups to choose from.
    pub groups: Vec<Group>,
    /// Additional records; groups share them.
    pub extras: Vec<Vec<Record>>,
    /// Largest number of groups in an answer, whatever the size of the message; `None`: all.
    pub limit: Option<usize>,
    /// In which order.
    pub order: Order,
    /// Into which section.
    pub place: DraftSection,
    /// Section of the zone's SOA record.
    pub zone: Option<DraftSection>,
    /// Names that must be followed first, by [`Chase`]; without it the answer is what it is.
    pub unknown: Vec<Name>,
}

/// Records that only make sense together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    /// In their order.
    pub records: Vec<Record>,
    /// Places in [`Draft::extras`].
    pub extras: Vec<usize>,
}

/// The order of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As they are.
    Fixed,
    /// Another one each time, so that clients spread over instances.
    Shuffled,
}

/// A section of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DraftSection {
    /// Answers.
    Answer,
    /// Authority.
    Authority,
}

/// Records of names outside our domain, found by recursors. Names are folded.
pub(super) type Chase = BTreeMap<Name, Vec<Record>>;

impl Draft {
    /// There, but nothing of this type.
    pub(super) fn empty() -> Draft {
        Draft {
            domain: Domain::Main,
            rcode: Rcode::NoError,
            authoritative: true,
            groups: Vec::new(),
            extras: Vec::new(),
            limit: None,
            order: Order::Fixed,
            place: DraftSection::Answer,
            zone: Some(DraftSection::Authority),
            unknown: Vec::new(),
        }
    }

    /// Nothing but a verdict.
    pub(super) fn verdict(rcode: Rcode) -> Draft {
        let zone = (rcode == Rcode::NxDomain).then_some(DraftSection::Authority);
        Draft { rcode, zone, ..Draft::empty() }
    }

    /// One answer.
    pub(super) fn single(record: Record) -> Draft {
        let mut draft = Draft { zone: None, ..Draft::empty() };
        draft.groups.push(Group { records: vec![record], extras: Vec::new() });
        draft
    }

    /// Addresses and other names that `owner` has, for an answer that leads there.
    pub(super) fn into_chain(self, owner: &Name) -> Vec<Record> {
        let follows =
            |record: &Record| matches!(record.data, Data::A(_) | Data::Aaaa(_) | Data::Cname(_));
        let limit = self.limit.unwrap_or(usize::MAX);
        let records = self.groups.into_iter().take(limit).flat_map(|group| group.records);
        let named = |record: Record| match record.owner {
            Owner::Asked => Record { owner: Owner::Other(owner.clone()), ..record },
            Owner::Other(_) => record,
        };
        records.filter(follows).map(named).collect()
    }

    /// Without answers the zone's start says for how long that may be kept.
    pub(super) fn settled(mut self) -> Draft {
        if !self.groups.is_empty() && self.zone == Some(DraftSection::Authority) {
            self.zone = None;
        }
        self
    }
}
