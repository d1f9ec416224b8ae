//! Good-byes: whatever somebody else said in a member's name before, and however many names somebody made up, a member
//! that leaves has left, and one that does not leave has not.

use std::sync::Arc;
use std::time::Duration;

use muster_agent::gossip::core::Input;
use muster_agent::gossip::message::{Claim, Message};
use muster_agent::gossip::{Details, Status, Timing};
use uuid::Uuid;

use crate::world::{Who, World, name};

const SECOND: Duration = Duration::from_secs(1);

/// A pool in which everybody has answered everybody.
fn pool(seed: u64, count: usize) -> World {
    let mut world = World::new(seed, Timing::default());
    world.grow(count);
    for who in 1..count {
        world.join(who, 0);
    }
    assert!(world.until(60 * SECOND, World::is_whole).is_some(), "seed {seed}");
    world.run(30 * SECOND);
    world
}

fn own(world: &World, who: Who) -> Details {
    Details::clone(world.core(who).unwrap().me())
}

fn all_see(world: &World, of: Who, status: Status) -> bool {
    world.running().all(|(who, _)| who == of || world.sees(who, of) == Some(status))
}

fn others(world: &World, of: Who) -> Vec<Who> {
    world.running().map(|(who, _)| who).filter(|who| *who != of).collect()
}

/// Everybody but `of` hears `messages` from nobody.
fn tell_others(world: &mut World, of: Who, messages: &[Message]) {
    for who in others(world, of) {
        world.tell(who, Input::Packet(messages.to_vec()));
    }
}

#[test]
fn a_good_bye_is_heard_whatever_was_said_in_its_name_before() {
    for (ahead, id) in [(1, None), (1000, None), (1000, Some(Uuid::from_u128(99)))] {
        let mut world = pool(41, 6);
        let mut said = own(&world, 3);
        said.incarnation += ahead;
        said.id = id.unwrap_or(said.id);
        tell_others(&mut world, 3, &[Message::Alive(Arc::new(said))]);
        world.tell(3, Input::Leave);
        // With another id, those that it does not reach itself hear of it with the next exchange.
        let within = if id.is_some() { 60 * SECOND } else { 3 * SECOND };
        let left = world.until(within, |world| all_see(world, 3, Status::Left));
        assert!(left.is_some(), "{ahead} ahead, id {id:?}");
        world.run(120 * SECOND);
        assert!(all_see(&world, 3, Status::Left), "{ahead} ahead, id {id:?}");
    }
}

#[test]
fn who_hears_of_its_own_life_while_it_leaves_goes_on_leaving() {
    let mut world = pool(42, 6);
    let mut said = own(&world, 3);
    said.incarnation += 1000;
    let said = Message::Alive(Arc::new(said));
    world.tell(3, Input::Leave);
    tell_others(&mut world, 3, std::slice::from_ref(&said));
    world.tell(3, Input::Packet(vec![said]));
    let tags = own(&world, 3).tags;
    world.tell(3, Input::SetTags(tags));
    assert!(world.until(3 * SECOND, |world| all_see(world, 3, Status::Left)).is_some());
    world.run(120 * SECOND);
    assert!(all_see(&world, 3, Status::Left));
}

#[test]
fn a_good_bye_is_not_lost_among_names_that_somebody_made_up() {
    for seed in 0..8 {
        let mut world = pool(seed, 6);
        let mut ghost = own(&world, 0);
        let ghosts: Vec<Message> = (1000..1400)
            .map(|number| {
                ghost.name = name(number);
                ghost.id = Uuid::from_u128(number as u128);
                ghost.address.set_port(9);
                ghost.address.set_ip([10, 0, 9, u8::try_from(number % 250).unwrap()].into());
                Message::Alive(Arc::new(ghost.clone()))
            })
            .collect();
        for who in 0..6 {
            world.tell(who, Input::Packet(ghosts.clone()));
        }
        world.run(SECOND);
        world.tell(3, Input::Leave);
        let left = world.until(6 * SECOND, |world| world.sees(0, 3) == Some(Status::Left));
        assert!(left.is_some(), "seed {seed}");
    }
}

#[test]
fn who_is_doubted_by_somebody_that_missed_what_it_said_last_says_it_again() {
    let mut world = pool(44, 6);
    let me = own(&world, 3);
    let claim = |from: Who| {
        let Details { name: of, id, incarnation, .. } = me.clone();
        Arc::new(Claim { name: of, id, incarnation, from: name(from) })
    };
    // What 3 says of itself reaches nobody: 1 has heard only of its beginning.
    world.network.deaf = (0..6).map(|who| (3, who)).collect();
    let tags = me.tags.clone();
    world.tell(3, Input::SetTags(tags));
    world.run(Duration::from_millis(1500));
    world.network.deaf.clear();
    for said in [Message::Suspect(claim(4)), Message::Left { claim: claim(4), prune: false }] {
        world.tell(1, Input::Packet(vec![said]));
        let alive = world.until(5 * SECOND, |world| {
            let known = world.core(1).unwrap().member(&name(3)).unwrap();
            known.status == Status::Alive && known.details.incarnation == own(world, 3).incarnation
        });
        assert!(alive.is_some());
    }
}

#[test]
fn who_is_said_to_leave_and_does_not_is_soon_taken_for_alive() {
    let mut world = pool(43, 6);
    let me = own(&world, 3);
    let claim = Claim { name: me.name, id: me.id, incarnation: me.incarnation, from: name(4) };
    let said = Message::Left { claim: Arc::new(claim), prune: false };
    // What member 1 passes on of it gets lost.
    world.network.deaf = (0..6).map(|who| (1, who)).collect();
    world.tell(1, Input::Packet(vec![said]));
    assert_eq!(world.sees(1, 3), Some(Status::Leaving));
    world.run(5 * SECOND);
    world.network.deaf.clear();
    let alive = world.until(10 * SECOND, |world| all_see(world, 3, Status::Alive));
    assert!(alive.is_some());
    // It is, and dies: it has failed, and nobody takes it to have left.
    world.kill(3);
    assert!(world.until(60 * SECOND, |world| all_see(world, 3, Status::Failed)).is_some());
}
