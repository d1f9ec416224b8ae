//! Claims about pools, each checked in a simulated network. A failure names the seed; the same seed
//! replays it.

use std::time::Duration;

use muster_agent::gossip::core::Input;
use muster_agent::gossip::{Status, Timing};
use uuid::Uuid;

use crate::world::{Network, Who, World, name};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// A pool of `count` that is whole.
fn pool(seed: u64, count: usize) -> World {
    let mut world = World::new(seed, Timing::default());
    world.grow(count);
    for who in 1..count {
        world.join(who, who / 2);
    }
    let whole = world.until(2 * MINUTE, World::is_whole);
    assert!(whole.is_some(), "seed {seed}: the pool of {count} did not become whole");
    world
}

/// Do all that run see `of` as `status`?
fn all_see(world: &World, of: Who, status: Status) -> bool {
    world.running().all(|(who, _)| who == of || world.sees(who, of) == Some(status))
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let mut world = pool(seed, 20);
        world.network.loss = 0.1;
        world.kill(7);
        world.run(MINUTE);
        (world.trace, world.datagrams, world.bytes)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn a_pool_of_hundreds_is_soon_whole_and_knows_its_dead() {
    let mut world = World::new(3, Timing::default());
    world.network.loss = 0.01;
    for who in 0..200 {
        world.grow(who + 1);
        world.join(who, 0);
        world.run(Duration::from_millis(20));
    }
    let whole = world.until(MINUTE, World::is_whole).expect("all learn of all");
    assert!(whole <= 10 * SECOND, "{whole:?}");
    world.run(10 * SECOND);
    world.lose(17);
    let known = world.until(MINUTE, |world| all_see(world, 17, Status::Failed));
    let known = known.expect("all learn of a death");
    // A doubt that is shared lasts 9 s in a pool of this size.
    assert!((9 * SECOND..=20 * SECOND).contains(&known), "{known:?}");
    // Half of that where the machine is there and says that nobody listens.
    world.kill(18);
    let known = world.until(MINUTE, |world| all_see(world, 18, Status::Failed));
    let known = known.expect("all learn of a death");
    assert!((4 * SECOND..=9 * SECOND).contains(&known), "{known:?}");
    assert_eq!(world.false_deaths, 0);
}

#[test]
fn nobody_is_declared_dead_who_is_there() {
    for seed in 0..3 {
        let mut world = pool(seed, 30);
        world.network.loss = 0.05;
        world.run(5 * MINUTE);
        assert_eq!(world.false_deaths, 0, "seed {seed}");
        assert!(world.is_whole(), "seed {seed}");
    }
}

#[test]
fn slow_members_do_not_make_others_die() {
    let mut world = pool(5, 40);
    // Every twentieth needs most of a second for everything it hears and says.
    world.network.slow = (0..2).map(|who| (who * 20, Duration::from_millis(700))).collect();
    world.run(5 * MINUTE);
    let healthy_dead = world
        .running()
        .flat_map(|(_, core)| core.members().collect::<Vec<_>>())
        .filter(|member| member.status == Status::Failed)
        .filter(|member| !(0..2).any(|who| member.details.name == name(who * 20)))
        .count();
    assert_eq!(healthy_dead, 0);
    world.network.slow.clear();
    assert!(world.until(3 * MINUTE, World::is_whole).is_some());
}

#[test]
fn a_deaf_path_is_no_death() {
    // 1 never hears 0, and 0 never hears 1, by datagrams; others and connections prove them alive.
    let mut world = pool(8, 10);
    world.network.deaf = [(0, 1), (1, 0)].into();
    world.run(5 * MINUTE);
    assert_eq!(world.false_deaths, 0);
}

#[test]
fn connections_prove_life_where_no_datagram_arrives() {
    let mut world = pool(9, 2);
    world.network.loss = 1.0;
    world.run(2 * MINUTE);
    assert_eq!(world.false_deaths, 0);
}

#[test]
fn parted_pools_come_together_again() {
    let mut world = pool(11, 30);
    world.network = Network { side: (0..12).collect(), parted: true, ..Network::default() };
    let parted = world.until(5 * MINUTE, |world| {
        world.running().all(|(who, core)| core.live() == if who < 12 { 12 } else { 18 })
    });
    assert!(parted.is_some(), "each side declares the other dead");
    // Longer than the dead are told news.
    world.run(5 * MINUTE);
    world.network.parted = false;
    let healed = world.until(5 * MINUTE, World::is_whole);
    assert!(healed.is_some(), "the pool becomes whole again");
}

#[test]
fn who_says_good_bye_has_left_and_who_does_not_has_failed() {
    let mut world = pool(13, 20);
    world.tell(4, Input::Leave);
    let left = world.until(10 * SECOND, |world| all_see(world, 4, Status::Left));
    assert!(left.is_some());
    world.kill(5);
    assert!(world.until(MINUTE, |world| all_see(world, 5, Status::Failed)).is_some());
    // An operator declares it gone, and another one forgotten.
    world.tell(0, Input::ForceLeave { name: name(5), prune: false });
    assert!(world.until(10 * SECOND, |world| all_see(world, 5, Status::Left)).is_some());
    world.tell(1, Input::ForceLeave { name: name(5), prune: true });
    let gone = |world: &World| world.running().all(|(who, _)| world.sees(who, 5).is_none());
    assert!(world.until(10 * SECOND, gone).is_some());
    world.run(5 * MINUTE);
    assert!(gone(&world), "exchanges do not bring it back");
}

#[test]
fn a_live_member_objects_to_its_removal() {
    let mut world = pool(14, 10);
    world.tell(0, Input::ForceLeave { name: name(3), prune: false });
    assert_eq!(world.sees(0, 3), Some(Status::Leaving));
    assert!(world.until(10 * SECOND, |world| all_see(world, 3, Status::Alive)).is_some());
}

#[test]
fn a_member_that_comes_back_is_believed_at_once() {
    let mut world = pool(15, 20);
    world.kill(6);
    assert!(world.until(MINUTE, |world| all_see(world, 6, Status::Failed)).is_some());
    world.start(6);
    world.join(6, 0);
    assert!(world.until(5 * SECOND, World::is_whole).is_some());
    // So is one that was away for a moment only.
    world.kill(7);
    world.run(Duration::from_millis(500));
    world.start(7);
    world.join(7, 0);
    assert!(world.until(5 * SECOND, World::is_whole).is_some());
}

#[test]
fn a_name_stays_with_the_living_and_passes_from_the_dead() {
    let mut world = pool(16, 10);
    // Another machine with the name of 3, which lives.
    world.grow(11);
    world.kill(10);
    world.start_named(10, &name(3), Uuid::from_u128(99));
    world.join(10, 0);
    world.run(20 * SECOND);
    let holder = |world: &World, who| world.core(who).unwrap().member(&name(3)).unwrap();
    for who in [0, 1, 9] {
        assert_eq!(holder(&world, who).details.id, Uuid::from_u128(4), "{who}");
    }
    assert!(holder(&world, 0).conflict.is_some(), "the members tell of it");
    assert_eq!(world.false_deaths, 0);
    // The holder dies: the name passes on by itself.
    world.kill(3);
    let passed = world.until(3 * MINUTE, |world| {
        [0, 1, 9].into_iter().all(|who| {
            let member = holder(world, who);
            member.details.id == Uuid::from_u128(99) && member.status == Status::Alive
        })
    });
    assert!(passed.is_some());
    assert_eq!(holder(&world, 0).conflict, None);
}

#[test]
fn the_dead_and_the_gone_are_forgotten_in_time() {
    let timing =
        Timing { reconnect_timeout: 5 * MINUTE, left_timeout: 2 * MINUTE, ..Timing::default() };
    let mut world = World::new(17, timing);
    world.grow(10);
    for who in 1..10 {
        world.join(who, 0);
    }
    assert!(world.until(MINUTE, World::is_whole).is_some());
    world.kill(3);
    world.tell(4, Input::Leave);
    world.run(MINUTE);
    assert!(all_see(&world, 3, Status::Failed) && all_see(&world, 4, Status::Left));
    // A newcomer hears of them, and forgets them with the others.
    world.grow(11);
    world.join(10, 0);
    world.run(2 * SECOND);
    assert_eq!(world.sees(10, 3), Some(Status::Failed));
    world.run(2 * MINUTE);
    assert!(world.running().all(|(who, _)| world.sees(who, 4).is_none()));
    assert!(all_see(&world, 3, Status::Failed));
    world.run(4 * MINUTE);
    assert!(world.running().all(|(who, _)| world.sees(who, 3).is_none()));
}

#[test]
fn everybody_hears_an_event_once() {
    use muster_agent::gossip::UserEvent;
    let mut world = pool(18, 60);
    world.network.loss = 0.2;
    let before = world.events;
    let event = UserEvent {
        id: Uuid::from_u128(7),
        ltime: 0,
        name: "deploy".into(),
        payload: bytes::Bytes::from_static(b"v42"),
        filters: Default::default(),
    };
    world.tell(9, Input::Fire(event));
    assert!(world.until(MINUTE, |world| world.events - before == 60).is_some());
    world.run(3 * MINUTE);
    assert_eq!(world.events - before, 60);
}

#[test]
fn the_load_of_a_member_does_not_grow_with_the_pool() {
    let load = |count| {
        let mut world = pool(19, count);
        world.run(MINUTE);
        let (bytes, time) = (world.bytes, world.now);
        world.run(MINUTE);
        let seconds = world.now.saturating_sub(time).as_secs();
        (world.bytes - bytes) / seconds / count as u64
    };
    let (small, large) = (load(10), load(60));
    assert!(large <= small * 5 / 4, "{small} {large}");
    assert!(large < 400, "{large} bytes a second");
}

#[test]
fn meetings_do_not_cost_more_in_larger_pools() {
    let cost = |count: usize| {
        let mut world = World::new(20, Timing::default());
        world.grow(count);
        world.acquaint();
        world.run(5 * MINUTE);
        assert!(world.is_whole(), "{count}");
        world.weigh_streams = true;
        world.run(10 * MINUTE);
        world.stream_bytes / count as u64
    };
    let (small, large) = (cost(10), cost(80));
    assert!(small > 0 && large <= small, "{small} {large}");
}

#[test]
fn what_one_missed_of_the_gone_it_learns_by_comparing() {
    let mut world = pool(21, 12);
    world.kill(3);
    assert!(world.until(MINUTE, |world| all_see(world, 3, Status::Failed)).is_some());
    // No datagram reaches 5, which learns from connections only.
    world.network.deaf = (0..12).map(|who| (who, 5)).collect();
    world.tell(0, Input::ForceLeave { name: name(3), prune: false });
    world.run(SECOND);
    assert_eq!((world.sees(4, 3), world.sees(5, 3)), (Some(Status::Left), Some(Status::Failed)));
    assert!(world.until(MINUTE, |world| all_see(world, 3, Status::Left)).is_some());
    assert_eq!(world.false_deaths, 0);
}

#[test]
fn who_was_stopped_reads_before_it_judges() {
    // Each stops for longer than a doubt's shortest term, one after the other. Others may take it
    // for dead meanwhile; it must not take them for dead when it goes on.
    let mut world = pool(22, 40);
    world.network.stalls =
        [(7, (60 * SECOND, 12 * SECOND)), (23, (50 * SECOND, 12 * SECOND))].into();
    world.run(10 * MINUTE);
    let wrong = world.wrongly_declared.iter().find(|(_, whom)| ![7, 23].contains(whom));
    assert_eq!(wrong, None);
}

#[test]
fn who_asks_for_it_is_forgotten_sooner_and_still_comes_back() {
    use muster_agent::gossip::{RECONNECT_TIMEOUT, Tags};
    let mut world = pool(23, 12);
    let tags = |more: Option<(&str, &str)>| -> Tags {
        let tags = [("dc", "dc1"), ("role", "node")].into_iter().chain(more);
        tags.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    world.tell(4, Input::SetTags(tags(Some((RECONNECT_TIMEOUT, "2m0s")))));
    world.tell(5, Input::SetTags(tags(None)));
    world.run(10 * SECOND);
    world.network = Network { side: [4, 5].into(), parted: true, ..Network::default() };
    assert!(world.until(2 * MINUTE, |world| world.sees(0, 4) == Some(Status::Failed)).is_some());
    let forgotten = |world: &World| (0..4).chain(6..12).all(|who| world.sees(who, 4).is_none());
    assert!(world.until(5 * MINUTE, forgotten).is_some());
    assert_eq!(world.sees(0, 5), Some(Status::Failed), "the other is remembered as ever");
    world.network.parted = false;
    assert!(world.until(5 * MINUTE, World::is_whole).is_some());
}
