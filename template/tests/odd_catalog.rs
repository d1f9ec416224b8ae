//! Whatever stands in the catalog, the shipped template gives what nginx accepts, and every sound service is served.
//!
//! `MUSTER_ODD_ROUNDS` says how many catalogs are made, `MUSTER_ODD_SEED` from which seed.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use muster_template::facts::{Facts, Query, Scope};
use muster_template::guard::Memory;
use muster_template::render::{Engine, Outcome, Rendered, Source, Surroundings, Texts};
use muster_testing::free_ports;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use support::{require_nginx, write_shipped};

/// Catalogs made in one run when nobody says otherwise.
const ROUNDS: u64 = 15;

/// A made-up catalog: the instances of each service.
#[derive(Debug, Default)]
struct Catalog {
    services: BTreeMap<String, Vec<Value>>,
    /// The names of services that must be served whatever else there is.
    sound: BTreeSet<String>,
}

/// A sound instance.
fn sound(random: &mut StdRng, number: usize) -> Value {
    let octet = |random: &mut StdRng| random.random_range(1..255);
    let address = if random.random_bool(0.2) {
        format!("fd00::{:x}:{:x}", octet(random), octet(random))
    } else {
        format!("10.{}.{}.{}", octet(random), octet(random), octet(random))
    };
    let port = random.random_range(1..65536);
    let id = format!("i{number}");
    let weight = [1, 1, 1, 10, 65535, 0][random.random_range(0..6)];
    json!({"id": id, "node": "n", "address": address, "port": port, "status": "passing", "tags": ["http"], "weight": weight})
}

/// An instance of which something is odd.
fn odd(random: &mut StdRng, number: usize) -> Value {
    const ADDRESSES: [&str; 16] = [
        "10.0.0.300",
        "",
        "host.example",
        "1.2.3",
        "::1%eth0",
        "127.0.0.1; daemon on",
        "10.0.0.1:80",
        "[::1]",
        "1e3",
        "..",
        "{}",
        "$host",
        "01.2.3.4",
        "fe80:::1",
        "\u{0}",
        "10.0.0.1\n",
    ];
    const IDS: [&str; 5] = ["", "a\nserver 1.1.1.1;", "\u{1b}[2J", "}", "\u{2028}x"];
    let mut row = sound(random, number);
    let mut change =
        |key: &str, value: Value| drop(row.as_object_mut().unwrap().insert(key.into(), value));
    match random.random_range(0..5) {
        0 | 1 => change("address", ADDRESSES[random.random_range(0..ADDRESSES.len())].into()),
        2 => change(
            "port",
            [json!(0), json!(70000), json!(-1), json!(65536)][random.random_range(0..4)].clone(),
        ),
        3 => change("weight", [json!(-5), json!(0)][random.random_range(0..2)].clone()),
        _ => change("id", IDS[random.random_range(0..IDS.len())].into()),
    }
    row
}

fn name(random: &mut StdRng) -> String {
    const ODD: [&str; 20] = [
        "shop.",
        ".shop",
        "a..b",
        "-",
        "_",
        "*",
        "~^x",
        "a b",
        "x;y",
        "x{y",
        "$x",
        "a/b",
        "..",
        "\"",
        "'",
        "a\nb",
        "ünï",
        "localhost",
        "default_server",
        "10.0.0.1",
    ];
    let letters = |random: &mut StdRng, count: usize, from: &str| -> String {
        (0..count)
            .map(|_| char::from(from.as_bytes()[random.random_range(0..from.len())]))
            .collect()
    };
    match random.random_range(0..10) {
        0 | 1 => ODD[random.random_range(0..ODD.len())].to_owned(),
        // Long names, and many that differ in little.
        2 => {
            let count = random.random_range(50..300);
            letters(random, count, "abc")
        }
        3 => letters(random, 3, "aA"),
        4 => letters(random, 4, "a-._"),
        _ => {
            let count = random.random_range(1..12);
            letters(random, count, "abcdefghijklmnopqrstuvwxyz0123456789-")
        }
    }
}

impl Catalog {
    fn make(random: &mut StdRng) -> Self {
        let mut catalog = Self::default();
        for _ in 0..random.random_range(0..30) {
            let name = name(random);
            let count = match random.random_range(0..12) {
                0 => 0,
                1 => random.random_range(60..70),
                2 => random.random_range(200..400),
                _ => random.random_range(1..5),
            };
            let share = [0.0, 0.0, 0.5, 1.0][random.random_range(0..4)];
            let rows = (0..count).map(|number| {
                if random.random_bool(share) { odd(random, number) } else { sound(random, number) }
            });
            let rows: Vec<_> = rows.collect();
            catalog.services.insert(name, rows);
        }
        for number in 0..3 {
            let name = format!("sound-{number}");
            let mut served = sound(random, 0);
            // Instances without weight get no traffic: with no other, the service answers 503.
            served["weight"] = [1, 10, 65535][random.random_range(0..3)].into();
            let rows = vec![served, odd(random, 1)];
            catalog.services.insert(name.clone(), rows);
            catalog.sound.insert(name);
        }
        catalog
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        let names: Vec<_> =
            self.services.keys().map(|name| json!({"name": name, "tags": ["http"]})).collect();
        let mut set =
            |query, value: Value| facts.set(query, tera::Value::from_serializable(&value));
        set(Query::Services { scope: Scope::default() }, names.into());
        for (name, rows) in &self.services {
            let query = Query::Service { name: name.clone(), scope: Scope::default() };
            set(query, rows.clone().into());
        }
        let main = Query::Service { name: "web".into(), scope: Scope::default() };
        if facts.get(&main).is_none() {
            facts.set(main, tera::Value::from_serializable(&json!([])));
        }
        facts
    }
}

fn shipped(folder: &Path) -> Engine {
    let path = folder.join("upstreams.conf.tera");
    let source = Source { name: "t".into(), text: fs::read_to_string(path).unwrap() };
    Engine::new(&[source], &[], Surroundings::default()).unwrap()
}

fn render(engine: &Engine, facts: &Facts) -> (Texts, Outcome) {
    let mut outcome = engine.render(facts, &Memory::default(), Instant::now());
    match std::mem::replace(&mut outcome.result, Rendered::Incomplete) {
        Rendered::Complete(texts) => (texts, outcome),
        other => panic!("{other:?}"),
    }
}

/// What nginx says of the text.
fn check(folder: &Path, text: &str) -> Result<(), String> {
    fs::create_dir_all(folder.join("conf.d")).unwrap();
    fs::write(folder.join("conf.d/upstreams.conf"), text).unwrap();
    let main = folder.join("nginx.conf").display().to_string();
    let output = Command::new("nginx").args(["-t", "-q", "-c", &main]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

fn from_environment(name: &str, preset: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(preset)
}

#[test]
fn an_odd_catalog_never_stops_the_proxy() {
    require_nginx();
    let folder = tempfile::tempdir().unwrap();
    let [front, version, status] = free_ports();
    write_shipped(folder.path(), front, version, status);
    let engine = shipped(folder.path());
    let rounds = from_environment("MUSTER_ODD_ROUNDS", ROUNDS);
    let first = from_environment("MUSTER_ODD_SEED", u64::from(rand::random::<u32>()));
    for seed in first..first + rounds {
        let replay = format!(
            "MUSTER_ODD_ROUNDS=1 MUSTER_ODD_SEED={seed} cargo test -p muster-template --test odd_catalog"
        );
        println!("{replay}");
        let catalog = Catalog::make(&mut StdRng::seed_from_u64(seed));
        let (texts, outcome) = render(&engine, &catalog.facts());
        let text = &texts.texts[0];
        if let Err(said) = check(folder.path(), text) {
            panic!("{replay}\n{said}");
        }
        for name in &catalog.sound {
            let upstream = name.replace('-', "_2d");
            let served = format!("location /{name}/ {{\n        proxy_pass http://{upstream}/;");
            assert!(text.contains(&served), "{name} is not served\n{replay}");
            let address = catalog.services[name][0]["address"].as_str().unwrap();
            assert!(text.contains(address), "{name} is not served at {address}\n{replay}");
        }
        for (what, why) in &outcome.left_out {
            let named = text.contains(&format!("# left out {what}: {why}"));
            assert!(named, "{what} is left out and not named\n{replay}");
        }
    }
}

#[test]
fn instances_without_weight_alone_are_as_good_as_none() {
    require_nginx();
    let folder = tempfile::tempdir().unwrap();
    let [front, version, status] = free_ports();
    write_shipped(folder.path(), front, version, status);
    let engine = shipped(folder.path());
    let row = |id: &str, weight: u64| json!({"id": id, "node": "n", "address": "10.0.0.1", "port": 80, "status": "passing", "weight": weight});
    let services = [
        ("web", vec![row("a", 0), row("b", 0)]),
        ("idle", vec![row("a", 0)]),
        ("half", vec![row("a", 0), row("b", 1)]),
    ];
    let services = services.into_iter().map(|(name, rows)| (name.to_owned(), rows)).collect();
    let catalog = Catalog { services, ..Catalog::default() };
    let (texts, outcome) = render(&engine, &catalog.facts());
    check(folder.path(), &texts.texts[0]).unwrap();
    assert!(outcome.left_out.is_empty());
    let text = &texts.texts[0];
    assert_eq!(text.matches("upstream ").count(), 1, "{text}");
    assert_eq!(text.matches("down max_fails").count(), 1, "{text}");
    for name in ["web", "idle"] {
        assert!(text.contains(&format!("no instance of {name} is healthy")), "{text}");
    }
}

#[test]
fn odd_ones_are_left_out_and_named() {
    require_nginx();
    let folder = tempfile::tempdir().unwrap();
    let [front, version, status] = free_ports();
    write_shipped(folder.path(), front, version, status);
    let engine = shipped(folder.path());
    let row = |id: &str, address: &str, port: u64| json!({"id": id, "node": "n", "address": address, "port": port, "status": "passing", "weight": 1});
    let many = (0..1000).map(|number| row(&format!("i{number}"), "10.0.0.1", number + 1)).collect();
    let long = "x".repeat(60);
    let services = [
        (
            "web",
            vec![
                row("web-1", "10.0.0.1", 80),
                row("web-2", "10.0.0.300", 80),
                row("web-3", "10.0.0.1", 70000),
            ],
        ),
        ("Web", vec![row("w", "10.0.0.1", 80)]),
        ("shop.", vec![row("s", "10.0.0.1", 80)]),
        (long.as_str(), vec![row("l", "10.0.0.1", 80)]),
        ("many", many),
        ("none", vec![]),
    ];
    let services = services.into_iter().map(|(name, rows)| (name.to_owned(), rows)).collect();
    let catalog = Catalog { services, ..Catalog::default() };
    let (texts, outcome) = render(&engine, &catalog.facts());
    check(folder.path(), &texts.texts[0]).unwrap();
    let named: Vec<_> = outcome.left_out.keys().map(String::as_str).collect();
    assert_eq!(
        named,
        ["instance `web web-2`", "instance `web web-3`", "service `Web`", "service `shop.`"]
    );
    for served in
        ["server 10.0.0.1:80 ", &format!("location /{long}/"), "location /many/", "location /none/"]
    {
        assert!(texts.texts[0].contains(served), "{served}\n{}", texts.texts[0]);
    }
}

#[test]
fn equal_facts_give_equal_bytes() {
    let folder = tempfile::tempdir().unwrap();
    write_shipped(folder.path(), 1, 2, 3);
    let shipped = fs::read_to_string(folder.path().join("upstreams.conf.tera")).unwrap();
    let rows = (0..12).map(|number| {
        json!({"id": number.to_string(), "node": "n", "address": "10.0.0.1", "port": 80, "status": "passing",
               "weight": 1, "tags": [format!("t{}", number % 5)], "meta": {"zone": format!("z{}", 11 - number), "b": "1", "a": "2"}})
    });
    let services = [("web".to_owned(), rows.collect())].into();
    let catalog = Catalog { services, ..Catalog::default() };
    let all = r#"{% set s = service(name="web") %}{{ s }}{{ s | by_tag }}{{ s | by_meta(keys=["zone"]) }}
        {% for zone, list in s | group_by(attribute="meta.zone") %}{{ zone }}={{ list | map(attr="id") }} {% endfor %}
        {{ s | map(attr="meta.zone") | unique }}{{ {"b": 1, "a": 2} | merge(with={"d": 3, "c": 4}) }}{{ services() }}
        {{ s | first | keys }}{{ s | first | values }}{{ s | first | pairs }}"#;
    let mut seen = BTreeSet::new();
    let mut made = None;
    for _ in 0..100 {
        // Parsed anew each time, too: hash maps differ between instances as well as between processes.
        let sources =
            [&shipped, all].map(|text| Source { name: text.len().to_string(), text: text.into() });
        let engine = Engine::new(&sources, &[], Surroundings::default()).unwrap();
        let (texts, _) = render(&engine, &catalog.facts());
        made = Some(texts.texts[1].clone());
        seen.insert(texts.version);
    }
    assert_eq!(seen.len(), 1);
    let made = made.unwrap();
    let zones: Vec<_> = made
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .filter_map(|part| part.split_once('='))
        .collect();
    let zones: Vec<_> = zones.into_iter().map(|(zone, _)| zone).collect();
    assert_eq!(
        zones,
        ["z0", "z1", "z10", "z11", "z2", "z3", "z4", "z5", "z6", "z7", "z8", "z9"],
        "in byte order"
    );
}
