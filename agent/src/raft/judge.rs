//! Judges what other servers send, before agreement acts on it.
//!
//! The library believes its peers: it keeps any term it is told, and a log with holes ends it. Whoever reaches the
//! port can send such things, by fault or on purpose, so each value is held against a bound first. A refusal names the
//! field, its value and the bound, and nothing has changed by then.

use std::collections::BTreeSet;

use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};

use super::consensus::PROPOSAL_BYTES_MAX;
use super::types::{LogId, Membership, Payload, Proposal, ServerId, Types, Vote};
use crate::store::{Change, Command, INDEX_MAX, Restore, Timestamp};

/// Largest jump of a term beyond the newest one that this server knows. Elections raise it by one, so no honest server
/// is further ahead; and a term at the end of its range leaves no room for another election.
pub(super) const TERM_JUMP_MAX: u64 = 1 << 32;

/// Beyond this there is no room for elections.
pub(super) const TERM_MAX: u64 = u64::MAX - TERM_JUMP_MAX;

/// More servers than any cluster has. Each heart-beat and each snapshot carries all of them.
const SERVERS_MAX: usize = 1000;

/// Bytes of a server's name or address.
const TEXT_BYTES_MAX: usize = 1024;

/// This server's own facts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    /// The newest vote that it has seen.
    pub(super) vote: Vote,
    /// The last entry that it has applied: no leader may take it back.
    pub(super) applied: Option<LogId>,
}

/// Entries for the log, from `from`.
pub(super) fn append(
    own: &Own,
    from: ServerId,
    request: &AppendEntriesRequest<Types>,
) -> Result<(), String> {
    leader(own, from, &request.vote)?;
    if request.vote < own.vote {
        // The library answers with the newer vote, which is what such a sender has to learn.
        return Ok(());
    }
    let term = request.vote.leader_id.term;
    for id in request.prev_log_id.iter().chain(&request.leader_commit) {
        log_id(id, term)?;
    }
    let mut before = request.prev_log_id;
    if let Some(id) = &before {
        keeps_applied(own, id)?;
    }
    for entry in &request.entries {
        let id = entry.log_id();
        log_id(&id, term)?;
        let expected = before.map_or(0, |before| before.index + 1);
        if id.index != expected {
            return Err(format!("entry `{}` came in place of entry `{expected}`", id.index));
        }
        let term_before = before.map_or(0, |before| before.leader_id.term);
        if id.leader_id.term < term_before {
            return Err(format!(
                "entry `{}` has term `{}`, the one before it has `{term_before}`",
                id.index, id.leader_id.term
            ));
        }
        keeps_applied(own, &id)?;
        if let Payload::Membership(servers) = &entry.payload {
            membership(servers)?;
        }
        before = Some(id);
    }
    Ok(())
}

/// A voice that `from` asks for, or asks whether it would get it.
pub(super) fn vote(own: &Own, from: ServerId, request: &VoteRequest<Types>) -> Result<(), String> {
    if request.vote.committed {
        return Err("a request for a vote says that it was granted already".to_owned());
    }
    sender(own, from, &request.vote)?;
    last(request.last_log_id.as_ref(), &request.vote)
}

/// Leadership that is handed over by `from`.
pub(super) fn transfer(
    own: &Own,
    from: ServerId,
    request: &TransferLeaderRequest<Types>,
) -> Result<(), String> {
    leader(own, from, request.from_leader())?;
    last(request.last_log_id(), request.from_leader())
}

/// Validates the coverage that a snapshot of `from` announces.
pub(super) fn snapshot(
    own: &Own,
    from: ServerId,
    vote: &Vote,
    covered: Option<LogId>,
    servers: &Membership,
) -> Result<(), String> {
    leader(own, from, vote)?;
    if *vote < own.vote {
        return Err(format!("a snapshot of a leader of term `{}`", vote.leader_id.term)
            + &format!("; this server knows of term `{}`", own.vote.leader_id.term));
    }
    let covered = covered.ok_or("a snapshot that covers no entry")?;
    log_id(&covered, vote.leader_id.term)?;
    membership(servers)
}

/// The vote of a leader, sent by itself.
fn leader(own: &Own, from: ServerId, vote: &Vote) -> Result<(), String> {
    if !vote.committed {
        return Err("whoever was not elected cannot lead".to_owned());
    }
    sender(own, from, vote)
}

fn sender(own: &Own, from: ServerId, vote: &Vote) -> Result<(), String> {
    let (id, term) = (vote.leader_id.voted_for, vote.leader_id.term);
    if id != from {
        return Err(format!("server `{from}` sends the vote of server `{id}`"));
    }
    let max = own.vote.leader_id.term.saturating_add(TERM_JUMP_MAX).min(TERM_MAX);
    if term > max {
        return Err(format!(
            "term `{term}` is too far ahead of this server's: at most `{max}` is believed"
        ));
    }
    Ok(())
}

fn last(id: Option<&LogId>, vote: &Vote) -> Result<(), String> {
    id.map_or(Ok(()), |id| log_id(id, vote.leader_id.term))
}

/// A position that a leader or candidate of `term` can know.
fn log_id(id: &LogId, term: u64) -> Result<(), String> {
    if id.index > INDEX_MAX {
        return Err(format!("index `{}` is above `{INDEX_MAX}`", id.index));
    }
    if id.leader_id.term > term {
        let (entry, index) = (id.leader_id.term, id.index);
        return Err(format!("entry `{index}` has term `{entry}`, its sender is in term `{term}`"));
    }
    Ok(())
}

/// Terms never go back along a log, so an entry beside one that is applied must agree with it.
fn keeps_applied(own: &Own, id: &LogId) -> Result<(), String> {
    let Some(applied) = own.applied else {
        return Ok(());
    };
    let (term, known) = (id.leader_id.term, applied.leader_id.term);
    let agrees = match id.index.cmp(&applied.index) {
        std::cmp::Ordering::Less => term <= known,
        std::cmp::Ordering::Equal => term == known,
        std::cmp::Ordering::Greater => term >= known,
    };
    if agrees {
        return Ok(());
    }
    Err(format!(
        "entry `{}` of term `{term}` contradicts entry `{}` of term `{known}`, which is applied here",
        id.index, applied.index
    ))
}

/// A list of servers that can agree.
pub(super) fn membership(servers: &Membership) -> Result<(), String> {
    let count = servers.nodes().count();
    if count > SERVERS_MAX {
        return Err(format!("a list of `{count}` servers; at most `{SERVERS_MAX}` can agree"));
    }
    let configs = servers.get_joint_config();
    if configs.is_empty() || configs.len() > 2 || configs.iter().any(BTreeSet::is_empty) {
        return Err("a list of servers of which none votes".to_owned());
    }
    if let Some(id) = servers.voter_ids().find(|id| servers.get_node(id).is_none()) {
        return Err(format!("server `{id}` votes and is not in the list of servers"));
    }
    let long = |server: &super::types::Server| {
        server.name.len() > TEXT_BYTES_MAX || server.address.len() > TEXT_BYTES_MAX
    };
    match servers.nodes().find(|(_, server)| long(server)) {
        Some((id, _)) => Err(format!("name or address of server `{id}` is too long")),
        None => Ok(()),
    }
}

/// A change that a peer wants in the log. What one server appends every server must read: it must be whole, of a known
/// format, and read as what was written.
pub(in crate::raft) fn change(change: &Change) -> Result<(), String> {
    if let Change::Restore(Restore::Rows { format: 0, .. }) = change {
        return Err("rows of a restored state in format `0`".to_owned());
    }
    let command = Command { at: Timestamp(0), change: change.clone() };
    let encoded = command.encode();
    if encoded.len() > PROPOSAL_BYTES_MAX {
        let bytes = encoded.len();
        return Err(format!("a change of {bytes} bytes exceeds the limit of {PROPOSAL_BYTES_MAX}"));
    }
    match Proposal::decode(encoded.into()) {
        Ok(read) if *read.command() == command => Ok(()),
        Ok(_) => Err("a change that does not read as it was written".to_owned()),
        Err(error) => Err(format!("no server can read this change: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::entry::RaftEntry;

    use super::super::log::log_id as at;
    use super::super::types::{Entry, Server};
    use super::*;

    const FAR: u64 = u64::MAX;

    fn id(number: u64) -> ServerId {
        number.into()
    }

    fn granted(term: u64, by: u64) -> Vote {
        let mut vote = Vote::new(term, id(by));
        vote.committed = true;
        vote
    }

    /// In term 5, with all up to 10 applied.
    fn own() -> Own {
        Own { vote: granted(5, 1), applied: Some(at(4, 10)) }
    }

    fn request(
        term: u64,
        prev: Option<(u64, u64)>,
        entries: &[(u64, u64)],
    ) -> AppendEntriesRequest<Types> {
        let blank = |(term, index): &(u64, u64)| Entry::new(at(*term, *index), Payload::Blank);
        AppendEntriesRequest {
            vote: granted(term, 1),
            prev_log_id: prev.map(|(term, index)| at(term, index)),
            entries: entries.iter().map(blank).collect(),
            leader_commit: prev.map(|(term, index)| at(term, index)),
        }
    }

    fn refused(answer: Result<(), String>, text: &str) {
        let error = answer.expect_err(text);
        assert!(error.contains(text), "{error}");
    }

    #[test]
    fn entries_are_taken_only_as_a_log_can_hold_them() {
        let ok = |request: &AppendEntriesRequest<Types>| append(&own(), id(1), request);
        assert_eq!(ok(&request(5, Some((4, 10)), &[(5, 11), (5, 12)])), Ok(()));
        assert_eq!(ok(&request(6, Some((4, 12)), &[(6, 13)])), Ok(()));
        assert_eq!(ok(&request(5, Some((3, 9)), &[(4, 10)])), Ok(()), "what is known already");
        assert_eq!(ok(&request(5, None, &[])), Ok(()));
        // Of a leader that does not know of its end yet: the library tells it.
        assert_eq!(ok(&request(4, Some((4, 20)), &[])), Ok(()));
        let bad = |request: &AppendEntriesRequest<Types>, text| refused(ok(request), text);
        bad(&request(FAR, Some((4, 10)), &[]), "ahead");
        bad(&request(5 + TERM_JUMP_MAX + 1, Some((4, 10)), &[]), "ahead");
        bad(&request(5, Some((4, FAR)), &[]), "above");
        bad(&request(5, Some((FAR, 10)), &[]), "its sender is in term");
        bad(&request(5, Some((4, 10)), &[(5, 13)]), "in place of entry `11`");
        bad(&request(5, Some((4, 10)), &[(5, 11), (5, FAR)]), "above");
        bad(&request(6, Some((4, 10)), &[(6, 11), (5, 12)]), "the one before it");
        bad(&request(6, Some((4, 10)), &[(6, 11), (7, 12)]), "its sender is in term");
        bad(&request(6, Some((3, 10)), &[]), "which is applied here");
        bad(&request(6, Some((3, 11)), &[]), "which is applied here");
        bad(&request(6, Some((3, 8)), &[(6, 9)]), "which is applied here");
        let mut ahead = request(5, Some((4, 10)), &[]);
        ahead.leader_commit = Some(at(5, FAR));
        bad(&ahead, "above");
        let mut elected = request(5, Some((4, 10)), &[]);
        elected.vote.committed = false;
        bad(&elected, "was not elected");
        refused(append(&own(), id(2), &request(5, None, &[])), "sends the vote of");
    }

    #[test]
    fn a_term_jumps_no_further_than_elections_do() {
        let ask = |term, last: Option<(u64, u64)>| {
            let last = last.map(|(term, index)| at(term, index));
            vote(&own(), id(3), &VoteRequest::new(Vote::new(term, id(3)), last))
        };
        assert_eq!(ask(6, Some((5, 12))), Ok(()));
        assert_eq!(ask(5 + TERM_JUMP_MAX, None), Ok(()));
        refused(ask(5 + TERM_JUMP_MAX + 1, None), "ahead");
        refused(ask(FAR, None), "ahead");
        refused(ask(6, Some((7, 12))), "its sender is in term");
        refused(ask(6, Some((5, FAR))), "above");
        refused(vote(&own(), id(3), &VoteRequest::new(granted(6, 3), None)), "granted already");
        refused(vote(&own(), id(3), &VoteRequest::new(Vote::new(6, id(4)), None)), "the vote of");
        let hand_over = |vote: Vote, last| TransferLeaderRequest::new(vote, id(2), last);
        assert_eq!(transfer(&own(), id(1), &hand_over(granted(5, 1), None)), Ok(()));
        refused(transfer(&own(), id(1), &hand_over(granted(FAR, 1), None)), "ahead");
        refused(transfer(&own(), id(1), &hand_over(Vote::new(6, id(1)), None)), "not elected");
        let far = Some(at(5, FAR));
        refused(transfer(&own(), id(1), &hand_over(granted(5, 1), far)), "above");
    }

    #[test]
    fn a_snapshot_covers_what_its_sender_can_know() {
        let node = |number| (id(number), Server::default());
        let some = Membership::new(
            vec![BTreeSet::from([id(1)])],
            [node(1)].into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        )
        .unwrap();
        let check = |term, covered, servers: &Membership| {
            snapshot(&own(), id(1), &granted(term, 1), covered, servers)
        };
        assert_eq!(check(5, Some(at(5, 20)), &some), Ok(()));
        refused(check(4, Some(at(4, 20)), &some), "knows of term");
        refused(check(FAR, Some(at(5, 20)), &some), "ahead");
        refused(check(5, None, &some), "no entry");
        refused(check(5, Some(at(5, FAR)), &some), "above");
        refused(check(5, Some(at(6, 20)), &some), "its sender is in term");
        refused(check(5, Some(at(5, 20)), &Membership::default()), "none votes");
        let none: BTreeSet<ServerId> = BTreeSet::new();
        let strange = |configs: Vec<BTreeSet<ServerId>>| {
            // As it comes from the wire: nobody has looked at it.
            let text = serde_json::json!({
                "configs": configs,
                "nodes": {id(1).to_string(): Server::default()},
            });
            serde_json::from_value::<Membership>(text).unwrap()
        };
        refused(membership(&strange(vec![none])), "none votes");
        refused(membership(&strange(vec![BTreeSet::from([id(7)])])), "is not in the list");
    }

    #[test]
    fn a_change_that_cannot_be_read_is_not_appended() {
        let rows = |format, bytes: usize| {
            Change::Restore(Restore::Rows {
                id: "r".into(),
                number: 0,
                format,
                records: Bytes::from(vec![0; bytes]),
            })
        };
        assert_eq!(change(&Change::Noop), Ok(()));
        assert_eq!(change(&rows(crate::store::snapshot::FORMAT, 10)), Ok(()));
        refused(change(&rows(0, 10)), "format `0`");
        refused(change(&rows(crate::store::snapshot::FORMAT + 1, 10)), "no server can read");
        refused(change(&rows(65_535, 10)), "no server can read");
        refused(change(&rows(1, PROPOSAL_BYTES_MAX)), "exceeds the limit");
    }
}
