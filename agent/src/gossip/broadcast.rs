//! News that wait to be passed on.
//!
//! Each is sent a number of times that grows with the logarithm of the pool's size, the least sent
//! first. News of a member push older news of the same member aside.

use std::collections::{BTreeMap, HashMap};

use super::core::PACKET_ROOM;
use super::member::Name;
use super::message::Message;

/// News waiting at once. What does not fit is the news sent most often already: everybody has
/// probably heard it, and the periodical meetings carry it on.
const NEWS_MAX: usize = 4096;

/// Least sent first, newest of these first.
type Turn = (u32, std::cmp::Reverse<u64>);

#[derive(Debug)]
struct Update {
    message: Message,
    size: usize,
    about: Option<Name>,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    waiting: BTreeMap<Turn, Update>,
    about: HashMap<Name, Turn>,
    count: u64,
}

impl Broadcasts {
    /// Takes news of a member (`about`), or such that stand for themselves. What no packet has room for is dropped:
    /// it would wait for good, and a leave waits for the queue.
    pub(super) fn push(&mut self, message: Message, about: Option<Name>) {
        let size = message.size();
        if size > PACKET_ROOM {
            return;
        }
        let turn = (0, std::cmp::Reverse(self.count));
        self.count += 1;
        if let Some(name) = &about
            && let Some(older) = self.about.insert(name.clone(), turn)
        {
            self.waiting.remove(&older);
        }
        self.waiting.insert(turn, Update { message, size, about });
        if self.waiting.len() > NEWS_MAX
            && let Some((_, updates)) = self.waiting.pop_last()
            && let Some(name) = updates.about
        {
            self.about.remove(&name);
        }
    }

    /// Adds news to `packet` as long as they fit into `room`; each is forgotten after `times`.
    pub(super) fn fill(&mut self, packet: &mut Vec<Message>, mut room: usize, times: u32) {
        /// No message is smaller.
        const SIZE_MIN: usize = 24;
        let mut taken = Vec::new();
        for (turn, updates) in &self.waiting {
            if room < SIZE_MIN || taken.len() == 255 {
                break;
            }
            if updates.size <= room {
                room -= updates.size;
                taken.push(*turn);
            }
        }
        for turn in taken {
            let Some(updates) = self.waiting.remove(&turn) else { continue };
            packet.push(updates.message.clone());
            let next = (turn.0 + 1, turn.1);
            if next.0 < times {
                if let Some(name) = &updates.about {
                    self.about.insert(name.clone(), next);
                }
                self.waiting.insert(next, updates);
            } else if let Some(name) = &updates.about {
                self.about.remove(name);
            }
        }
    }

    /// Is there nothing to tell?
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Do news of this member wait?
    pub(super) fn has_news_of(&self, name: &Name) -> bool {
        self.about.contains_key(name)
    }

    /// News that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// Number of times that an update is sent in a pool of `members`.
pub(super) fn times(multiplier: u32, members: usize) -> u32 {
    multiplier * digits(members)
}

/// The decimal logarithm of `members + 1`, rounded up.
fn digits(members: usize) -> u32 {
    members.checked_ilog10().map_or(1, |log| log + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::message::Claim;
    use std::sync::Arc;
    use uuid::Uuid;

    fn updates(name: &str, incarnation: u64) -> (Message, Option<Name>) {
        let claim =
            Claim { name: name.into(), id: Uuid::nil(), incarnation, from: "somebody".into() };
        (Message::Suspect(Arc::new(claim)), Some(name.into()))
    }

    fn sent(queue: &mut Broadcasts, room: usize) -> Vec<Message> {
        let mut packet = Vec::new();
        queue.fill(&mut packet, room, 2);
        packet
    }

    #[test]
    fn newer_news_of_a_member_replace_older_and_each_is_sent_its_times() {
        let mut queue = Broadcasts::default();
        for incarnation in [1, 2] {
            let (message, about) = updates("a", incarnation);
            queue.push(message, about);
        }
        let expected = vec![updates("a", 2).0];
        assert_eq!(sent(&mut queue, 1400), expected);
        assert_eq!(sent(&mut queue, 1400), expected);
        assert!(queue.is_empty() && queue.about.is_empty());
    }

    #[test]
    fn the_least_sent_go_first_and_packets_are_not_overfilled() {
        let mut queue = Broadcasts::default();
        let size = updates("a", 1).0.size();
        for name in ["a", "b", "c"] {
            let (message, about) = updates(name, 1);
            queue.push(message, about);
        }
        assert_eq!(sent(&mut queue, 2 * size), [updates("c", 1).0, updates("b", 1).0]);
        assert_eq!(sent(&mut queue, size), [updates("a", 1).0]);
    }

    #[test]
    fn what_no_packet_has_room_for_does_not_wait() {
        let mut queue = Broadcasts::default();
        let (message, about) = updates(&"x".repeat(PACKET_ROOM), 1);
        queue.push(message, about);
        assert!(queue.is_empty() && queue.about.is_empty());
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Broadcasts::default();
        for number in 0..NEWS_MAX + 10 {
            let (message, about) = updates(&number.to_string(), 1);
            queue.push(message, about);
        }
        assert_eq!((queue.len(), queue.about.len()), (NEWS_MAX, NEWS_MAX));
    }

    #[test]
    fn times_grow_with_the_logarithm() {
        for (members, expected) in [(0, 4), (1, 4), (9, 4), (10, 8), (99, 8), (100, 12)] {
            assert_eq!(times(4, members), expected, "{members}");
        }
    }
}
