//! Members that lose their disks, change their names or their addresses, or are copied: whoever is there
//! and was not there second has its name in the end, and nobody else.
//!
//! Histories by chance: `MUSTER_REBUILT_ROUNDS` of them (20 without), the first with the seed
//! `MUSTER_REBUILT_SEED` (by the clock without).

use std::collections::BTreeMap;
use std::time::Duration;

use muster_agent::gossip::core::Input;
use muster_agent::gossip::{Status, Timing};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::world::{Who, World, name};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

fn pool(seed: u64, count: usize) -> World {
    let mut world = World::new(seed, Timing::default());
    world.grow(count);
    for who in 1..count {
        world.join(who, 0);
    }
    assert!(world.until(2 * MINUTE, World::is_whole).is_some(), "seed {seed}");
    world
}

/// Does everybody but `others` take the one at `who` for the living member `called`?
fn all_believe(world: &World, called: &str, who: Who, others: &[Who]) -> bool {
    let Some(me) = world.core(who).map(|core| core.me().clone()) else { return false };
    world.running().filter(|(it, _)| !others.contains(it)).all(|(_, core)| {
        core.member(called).is_some_and(|member| {
            member.status == Status::Alive
                && member.details.id == me.id
                && member.details.address == me.address
        })
    })
}

#[test]
fn a_member_built_anew_is_believed_at_once_at_its_old_address() {
    let mut world = pool(31, 6);
    world.kill(3);
    world.run(2 * SECOND);
    world.start_named(3, &name(3), Uuid::from_u128(77));
    world.join(3, 0);
    let believed = world.until(5 * SECOND, |world| all_believe(world, &name(3), 3, &[]));
    assert!(believed.is_some());
    // It leaves, or dies: that is told of the new one.
    world.tell(3, Input::Leave);
    let left = |world: &World| {
        world.running().all(|(_, core)| core.member(&name(3)).unwrap().status == Status::Left)
    };
    assert!(world.until(5 * SECOND, left).is_some());
}

#[test]
fn a_member_built_anew_is_not_doubted_for_the_silence_of_its_earlier_life() {
    for later in 0..40 {
        let mut world = pool(36 + later, 4);
        world.kill(3);
        world.run(Duration::from_millis(50) * u32::try_from(later).unwrap());
        world.start_named(3, &name(3), Uuid::from_u128(77));
        world.join(3, 0);
        world.run(10 * SECOND);
        assert_eq!(world.core(3).unwrap().counters().refutations, 0, "{later}");
        assert_eq!(world.false_deaths, 0, "{later}");
    }
}

#[test]
fn a_member_built_anew_with_a_clock_that_is_behind_is_believed_as_well() {
    let mut world = pool(32, 6);
    // What the first life says counts as later than anything that its machine's clock shows now.
    world.run(MINUTE);
    for _ in 0..3 {
        let tags = world.core(3).unwrap().me().tags.clone();
        world.tell(3, Input::SetTags(tags));
    }
    world.run(5 * SECOND);
    world.kill(3);
    world.start_behind(3, &name(3), Uuid::from_u128(77), 10 * MINUTE);
    world.join(3, 0);
    let believed = world.until(10 * SECOND, |world| all_believe(world, &name(3), 3, &[]));
    assert!(believed.is_some());
}

#[test]
fn a_member_that_moved_is_believed_once_its_old_address_is_silent() {
    for is_lost in [false, true] {
        let mut world = pool(33, 6);
        if is_lost {
            world.lose(3);
        } else {
            world.kill(3);
        }
        world.grow(7);
        world.kill(6);
        world.start_named(6, &name(3), Uuid::from_u128(4));
        world.join(6, 0);
        let believed = world.until(MINUTE, |world| all_believe(world, &name(3), 6, &[]));
        let believed = believed.expect("it is believed");
        assert!(believed <= 10 * SECOND, "lost {is_lost}: {believed:?}");
    }
}

#[test]
fn of_two_copies_of_a_member_the_first_keeps_its_name_and_both_are_told() {
    for through in [0, 3] {
        let mut world = pool(34, 6);
        let changes = world.updates;
        world.grow(7);
        world.kill(6);
        // Name and id of 3, which lives.
        world.start_named(6, &name(3), Uuid::from_u128(4));
        world.join(6, through);
        for _ in 0..120 {
            world.run(SECOND);
            assert!(all_believe(&world, &name(3), 3, &[6]), "through {through}");
        }
        let mut told: BTreeMap<Who, Vec<String>> = BTreeMap::new();
        for (who, text) in &world.warnings {
            told.entry(*who).or_default().push(text.clone());
        }
        assert!(!told.is_empty());
        for (who, lines) in told {
            assert!(lines.len() <= 4, "{who} says it {} times in two minutes", lines.len());
            assert!(lines.iter().all(|it| it.contains("10.0.0.3:8301")), "{lines:?}");
            assert!(lines.iter().all(|it| it.contains("10.0.0.6:8301")), "{lines:?}");
        }
        // Once when the rival is first heard of, and never again.
        assert!(world.updates - changes <= 2 * 7, "{}", world.updates - changes);
        assert!(world.core(6).unwrap().is_disowned() && !world.core(3).unwrap().is_disowned());
        // The first goes: the name is the other's.
        world.kill(3);
        let passed = world.until(MINUTE, |world| all_believe(world, &name(3), 6, &[]));
        assert!(passed.is_some(), "through {through}");
        assert!(world.until(MINUTE, |world| !world.core(6).unwrap().is_disowned()).is_some());
    }
}

#[test]
fn the_id_of_a_living_member_stays_with_it_and_both_are_told() {
    // Through whom the copy comes, and for how long it was away before.
    for (through, away) in [(0, 0), (3, 0), (0, 2), (0, 60)] {
        let mut world = pool(35, 6);
        world.kill(4);
        world.run(away * SECOND);
        let from = world.warnings.len();
        // The id of 3, which lives; name and address of its own.
        world.start_named(4, &name(4), Uuid::from_u128(4));
        world.join(4, through);
        for _ in 0..120 {
            world.run(SECOND);
            assert!(all_believe(&world, &name(3), 3, &[4]), "through {through}, away {away}");
            let is_believed = world.running().any(|(who, core)| {
                who != 4 && core.member(&name(4)).unwrap().details.id != Uuid::from_u128(5)
            });
            assert!(!is_believed, "through {through}, away {away}");
            assert!(!world.core(3).unwrap().is_disowned(), "through {through}, away {away}");
        }
        let knows = world.until(10 * MINUTE, |world| world.core(4).unwrap().is_disowned());
        assert!(knows.is_some(), "through {through}, away {away}");
        let mut told: BTreeMap<Who, usize> = BTreeMap::new();
        for (who, text) in &world.warnings[from..] {
            assert!(text.contains("conflicting node ID"), "{text}");
            assert!(text.contains("node-3") && text.contains("node-4"), "{text}");
            *told.entry(*who).or_default() += 1;
        }
        assert!(!told.is_empty());
        // The copy itself says of itself that it is the copy.
        let at_copy = |world: &World, text: &str| {
            world.warnings.iter().any(|(who, told)| *who == 4 && told.contains(text))
        };
        assert!(at_copy(&world, "this agent node-4 at 10.0.0.4:8301"), "{:?}", world.warnings);
        let blames = at_copy(&world, "member node-3 at 10.0.0.3:8301 has conflicting");
        assert!(!blames, "the copy blames the holder");
        let told_why =
            |world: &World| at_copy(world, "which had it first: this agent is not believed");
        assert!(world.until(10 * MINUTE, told_why).is_some(), "through {through}, away {away}");
        // One in ten seconds, of twelve minutes at most.
        assert!(told.values().all(|lines| *lines <= 75), "{told:?}");
        // Its holder goes: the id is free.
        world.kill(3);
        let passed = world.until(10 * MINUTE, |world| all_believe(world, &name(4), 4, &[]));
        assert!(passed.is_some(), "through {through}, away {away}");
        let is_own = |world: &World| !world.core(4).unwrap().is_disowned();
        assert!(world.until(10 * MINUTE, is_own).is_some());
    }
}

/// A member comes back with the id of another one that lives: that one keeps it.
fn copy_an_id(world: &mut World, rng: &mut SmallRng, running: &BTreeMap<Who, usize>, again: &str) {
    let all: Vec<Who> = running.keys().copied().collect();
    if all.len() < 3 {
        return;
    }
    let copy = all[rng.random_range(1..all.len())];
    let holder = all.iter().copied().filter(|it| *it != copy).nth(rng.random_range(0..2));
    let holder = holder.expect("there are three");
    let id = world.core(holder).unwrap().me().id;
    world.kill(copy);
    world.run(Duration::from_millis(rng.random_range(0..8000)));
    world.start_named(copy, &name(running[&copy]), id);
    world.join(copy, 0);
    for _ in 0..60 {
        world.run(SECOND);
        let keeps = all_believe(world, &name(running[&holder]), holder, &[copy]);
        let seen = world.running().map(|(who, core)| {
            let of = |called: usize| core.member(&name(called)).map(|it| (it.status, it.details));
            (who, of(running[&holder]), of(running[&copy]))
        });
        assert!(
            keeps,
            "{again}: {copy} has taken the id of {holder}: {running:?}, {:#?}, {:#?}",
            seen.collect::<Vec<_>>(),
            world.log,
        );
    }
}

/// One history; each member that runs, by its place, with the name that it has.
fn history(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let again = format!("seed {seed}; again: MUSTER_REBUILT_SEED={seed} MUSTER_REBUILT_ROUNDS=1");
    let count = rng.random_range(4..9);
    let mut world = pool(seed, count);
    world.network.loss = if rng.random_bool(0.3) { 0.05 } else { 0.0 };
    let mut running: BTreeMap<Who, usize> = (0..count).map(|who| (who, who)).collect();
    let mut id: u128 = 1000;
    let mut places = count;
    for _ in 0..rng.random_range(1..8) {
        // 0 stays, so that there is somebody to join.
        let who = *running.keys().nth(rng.random_range(0..running.len())).unwrap();
        if who == 0 {
            continue;
        }
        let called = running[&who];
        let own = world.core(who).unwrap().me().id;
        if rng.random_bool(0.3) {
            world.tell(who, Input::Leave);
            world.run(Duration::from_millis(rng.random_range(0..4000)));
            world.kill(who);
        } else {
            world.kill(who);
        }
        running.remove(&who);
        world.run(Duration::from_millis(rng.random_range(0..8000)));
        id += 1;
        let (place, called, id) = match rng.random_range(0..5) {
            // Gone for good.
            0 => continue,
            // Another id at the same address, or at another one.
            1 => (who, called, Uuid::from_u128(id)),
            2 => (places, called, Uuid::from_u128(id)),
            // Another name with the old id.
            3 => (who, usize::try_from(id).unwrap(), own),
            // The same one elsewhere.
            _ => (places, called, own),
        };
        world.grow_without_start(place + 1);
        places = places.max(place + 1);
        world.start_named(place, &name(called), id);
        world.join(place, 0);
        running.insert(place, called);
        if rng.random_bool(0.5) {
            world.run(Duration::from_millis(rng.random_range(0..5000)));
        }
    }
    world.network.loss = 0.0;
    let mut settled = false;
    // As `retry_join` and what an agent remembers of its pool do.
    for _ in 0..12 {
        for who in running.keys().skip(1) {
            world.join(*who, 0);
        }
        settled = world
            .until(15 * SECOND, |world| {
                running.iter().all(|(who, called)| all_believe(world, &name(*called), *who, &[]))
                    && world.running().all(|(_, core)| core.live() == running.len())
            })
            .is_some();
        if settled {
            break;
        }
    }
    assert!(settled, "{again}: not all are believed who are there: {running:?}");
    copy_an_id(&mut world, &mut rng, &running, &again);
}

#[test]
fn after_any_history_everybody_believes_those_that_are_there() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("MUSTER_REBUILT_ROUNDS").unwrap_or(20);
    let first = number("MUSTER_REBUILT_SEED").unwrap_or_else(rand::random::<u64>);
    println!("{rounds} histories from seed {first}");
    for seed in (0..rounds).map(|round| first.wrapping_add(round)) {
        history(seed);
    }
}
