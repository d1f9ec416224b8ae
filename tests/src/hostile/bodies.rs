//! What each method takes, with values that it should not be given.

use super::value::{Random, Value, fields, text};

/// What the peer knows of the server that it attacks. To know the cluster's identity takes more than to reach the port.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server's own identity.
    pub server: [u8; 16],
    /// The identity of its cluster.
    pub cluster: [u8; 16],
}

type Make = fn(&Target, &mut Random) -> Value;

/// Every method: its number, the first byte of connections that carry it, and how its body is made.
pub const METHODS: [(u16, u8, Make); 16] = [
    (1, b'f', |_, _| Value::Nil),
    (10, b'r', |target, random| letter(target, random, append)),
    (11, b'r', |target, random| letter(target, random, voting)),
    (12, b'r', |target, random| letter(target, random, voting)),
    (13, b's', |target, random| letter(target, random, piece_of_snapshot)),
    (14, b'r', |target, random| letter(target, random, transfer)),
    (15, b'f', invitation),
    (20, b'f', |_, random| change(random)),
    (21, b'f', |_, random| text(if random.chance(2) { "Leased" } else { "Confirmed" })),
    (22, b'f', |target, random| letter(target, random, reconfiguration)),
    (30, b'f', |_, random| http(random)),
    (31, b'f', |_, random| {
        fields([("node", Value::Text(random.name())), ("after", Value::Number(random.number()))])
    }),
    (32, b'f', |_, random| lookup(random)),
    (33, b'f', |_, random| change(random)),
    (34, b'f', |_, random| Value::Text(random.name())),
    (35, b'f', |_, random| {
        let bytes = Value::Bytes(vec![7; random.below(200_000)]);
        let last = random.chance(4);
        fields([("upload", any_id(random)), ("bytes", if last { Value::Nil } else { bytes })])
    }),
];

fn any_id(random: &mut Random) -> Value {
    Value::Bytes((0..16).map(|_| random.byte()).collect())
}

fn own_id(target: &Target) -> Value {
    Value::Bytes(target.server.to_vec())
}

/// Of the server that is attacked, or of nobody.
fn id(target: &Target, random: &mut Random) -> Value {
    if random.chance(2) { own_id(target) } else { any_id(random) }
}

fn letter(target: &Target, random: &mut Random, body: fn(&Target, &mut Random) -> Value) -> Value {
    let cluster =
        if random.chance(4) { any_id(random) } else { Value::Bytes(target.cluster.to_vec()) };
    let to = if random.chance(8) { any_id(random) } else { own_id(target) };
    let from = id(target, random);
    fields([("cluster", cluster), ("from", from), ("to", to), ("body", body(target, random))])
}

fn vote(target: &Target, random: &mut Random) -> Value {
    let voted_for = id(target, random);
    let leader = fields([("term", Value::Number(random.number())), ("voted_for", voted_for)]);
    fields([("leader_id", leader), ("committed", Value::Bool(random.chance(2)))])
}

fn log_id(random: &mut Random) -> Value {
    if random.chance(4) {
        return Value::Nil;
    }
    position(random)
}

fn position(random: &mut Random) -> Value {
    let (term, index) = (random.number(), random.number());
    fields([("leader_id", Value::Number(term)), ("index", Value::Number(index))])
}

fn append(target: &Target, random: &mut Random) -> Value {
    let entries = (0..random.below(5)).map(|_| {
        let payload = match random.below(3) {
            0 => text("Blank"),
            1 => {
                let mut encoded = vec![u8::try_from(random.below(3)).unwrap_or(1)];
                let command =
                    fields([("at", Value::Number(random.number())), ("change", change(random))]);
                command.encode(&mut encoded);
                fields([("Normal", Value::Bytes(encoded))])
            }
            _ => fields([("Membership", membership(target, random))]),
        };
        fields([("log_id", position(random)), ("payload", payload)])
    });
    let entries = Value::List(entries.collect());
    fields([
        ("vote", vote(target, random)),
        ("prev_log_id", log_id(random)),
        ("entries", entries),
        ("leader_commit", log_id(random)),
    ])
}

fn membership(target: &Target, random: &mut Random) -> Value {
    let server =
        fields([("name", Value::Text(random.name())), ("address", Value::Text(random.name()))]);
    let nodes = if random.chance(2) { vec![(id(target, random), server)] } else { Vec::new() };
    let config = |random: &mut Random| {
        let voters = (0..random.below(3)).map(|_| id(target, random));
        Value::List(voters.collect())
    };
    let configs = (0..random.below(4)).map(|_| config(random));
    let configs = Value::List(configs.collect());
    fields([("configs", configs), ("nodes", Value::Map(nodes))])
}

fn voting(target: &Target, random: &mut Random) -> Value {
    let hand_over = Value::Bool(random.chance(2));
    fields([
        ("vote", vote(target, random)),
        ("last_log_id", log_id(random)),
        ("leadership_transfer", hand_over),
    ])
}

fn piece_of_snapshot(target: &Target, random: &mut Random) -> Value {
    let mut bytes = if random.chance(2) { b"MUSTSNAP\x01\0\0\0".to_vec() } else { Vec::new() };
    bytes.extend((0..random.below(64)).map(|_| random.byte()));
    let servers = fields([("log_id", log_id(random)), ("membership", membership(target, random))]);
    let meta = fields([
        ("last_log_id", log_id(random)),
        ("last_membership", servers),
        ("snapshot_id", text("")),
    ]);
    fields([
        ("vote", vote(target, random)),
        ("meta", meta),
        ("total", Value::Number(random.number())),
        ("offset", Value::Number(random.number())),
        ("bytes", Value::Bytes(bytes)),
    ])
}

fn transfer(target: &Target, random: &mut Random) -> Value {
    fields([
        ("from_leader", vote(target, random)),
        ("to_node_id", id(target, random)),
        ("last_log_id", log_id(random)),
    ])
}

fn invitation(target: &Target, random: &mut Random) -> Value {
    let void = (0..random.below(20)).map(|_| any_id(random));
    let void = Value::List(void.collect());
    let founder = id(target, random);
    fields([
        ("to", own_id(target)),
        ("from", if random.chance(2) { founder.clone() } else { Value::Nil }),
        ("asks", Value::Bool(random.chance(3))),
        ("cluster", any_id(random)),
        ("founder", founder),
        ("formed", Value::Bool(random.chance(2))),
        ("void", void),
    ])
}

fn reconfiguration(target: &Target, random: &mut Random) -> Value {
    match random.below(3) {
        0 => text("Release"),
        1 => fields([("HandOver", Value::Nil)]),
        _ => fields([("HandOver", id(target, random))]),
    }
}

fn change(random: &mut Random) -> Value {
    let name = |random: &mut Random| Value::Text(random.name());
    match random.below(9) {
        0 => text("Noop"),
        1 => {
            let verbs = ["Set", "Delete", "DeleteTree"];
            let verb = match random.below(5) {
                0 => fields([("Cas", Value::Number(random.number()))]),
                1 => fields([("Lock", name(random))]),
                other => text(verbs[other - 2]),
            };
            let value = Value::Bytes(vec![7; random.below(1000)]);
            let flags = Value::Number(random.number());
            // What the caller watches lies elsewhere.
            let key = Value::Text(format!("hostile/{}", random.name()));
            let kv = fields([("verb", verb), ("key", key), ("value", value), ("flags", flags)]);
            fields([("Kv", kv)])
        }
        2 => fields([("TombstonesReap", fields([("up_to", Value::Number(random.number()))]))]),
        3 => restore(random),
        4 => {
            let gone = fields([
                ("node", name(random)),
                ("service_id", Value::Nil),
                ("check_id", Value::Nil),
            ]);
            fields([("Deregister", gone)])
        }
        5 => {
            let row = fields([
                ("last_contact_threshold_ns", Value::Number(random.number())),
                ("max_trailing_logs", Value::Number(random.number())),
                ("min_quorum", Value::Number(random.number())),
                ("server_stabilization_time_ns", Value::Number(random.number())),
            ]);
            fields([("Autopilot", fields([("row", row), ("cas", Value::Nil)]))])
        }
        6 => {
            let session = fields([
                ("id", name(random)),
                ("name", name(random)),
                ("node", name(random)),
                ("lock_delay_ns", Value::Number(random.number())),
                ("behavior", text("Delete")),
                ("ttl", text("9223372036s")),
                ("node_checks", Value::List(Vec::new())),
                ("service_checks", Value::List(Vec::new())),
                ("create_index", Value::Number(random.number())),
                ("modify_index", Value::Number(random.number())),
            ]);
            fields([("SessionCreate", session)])
        }
        7 => register(random),
        _ => fields([("Nonsense", Value::Number(random.number()))]),
    }
}

fn register(random: &mut Random) -> Value {
    let none = || Value::Map(Vec::new());
    let node = fields([
        ("id", Value::Text(random.name())),
        ("name", Value::Text(random.name())),
        ("address", Value::Text(random.name())),
        ("datacenter", Value::Text(random.name())),
        ("tagged_addresses", none()),
        ("meta", none()),
        ("create_index", Value::Number(random.number())),
        ("modify_index", Value::Number(random.number())),
    ]);
    let register = fields([
        ("node", node),
        ("skip_node_update", Value::Bool(random.chance(2))),
        ("service", Value::Nil),
        ("checks", Value::List(Vec::new())),
    ]);
    fields([("Register", register)])
}

fn restore(random: &mut Random) -> Value {
    let id = || text("hostile");
    let step = match random.below(4) {
        0 => ("Begin", fields([("id", id())])),
        1 => {
            let format = [0, 1, 2, 3, 65_535][random.below(5)];
            let records = (0..random.below(100)).map(|_| random.byte()).collect();
            let rows = fields([
                ("id", id()),
                ("number", Value::Number(random.number())),
                ("format", Value::Number(format)),
                ("records", Value::Bytes(records)),
            ]);
            ("Rows", rows)
        }
        2 => ("Commit", fields([("id", id()), ("parts", Value::Number(random.number()))])),
        _ => ("Abandon", fields([("id", id())])),
    };
    fields([("Restore", fields([step]))])
}

fn http(random: &mut Random) -> Value {
    let methods = ["GET", "PUT", "POST", "HEAD", "NONSENSE", "\n"];
    let paths = [
        "/v1/kv/hostile/a",
        "/v1/catalog/nodes",
        "/v1/health/state/any",
        "/v1/txn",
        "/v1/snapshot",
        "/v1/session/create",
        "/v1/event/fire/x",
        "/v1/coordinate/update",
        "/v1/agent/leave",
        "/",
    ];
    let query = match random.below(4) {
        0 => format!("index={}&wait=600s", random.number()),
        1 => format!("filter={}", "(".repeat(random.below(5000))),
        2 => random.name(),
        _ => String::new(),
    };
    let agent = fields([
        ("node_name", Value::Text(random.name())),
        ("kv_value_bytes_max", Value::Number(random.number())),
        ("txn_body_bytes_max", Value::Number(random.number())),
        (
            "discovery_max_stale",
            fields([("secs", Value::Number(random.number())), ("nanos", Value::Number(0))]),
        ),
    ]);
    let accept = Value::List(vec![text("accept"), Value::Bytes(b"text/event-stream".to_vec())]);
    let headers = if random.chance(3) { vec![accept] } else { Vec::new() };
    let upload = if random.chance(4) { any_id(random) } else { Value::Nil };
    let body = vec![b'x'; random.below(100_000)];
    fields([
        ("method", text(methods[random.below(methods.len())])),
        ("path", text(paths[random.below(paths.len())])),
        ("query", Value::Text(query)),
        ("headers", Value::List(headers)),
        ("body", Value::Bytes(body)),
        ("cut", Value::Bool(random.chance(4))),
        ("upload", upload),
        ("agent", agent),
    ])
}

fn lookup(random: &mut Random) -> Value {
    let name = Value::Text(random.name());
    let wanted = if random.chance(2) {
        fields([("Node", fields([("name", name)]))])
    } else {
        fields([("Service", fields([("name", name), ("tag", Value::Nil)]))])
    };
    let max = fields([("secs", Value::Number(random.number())), ("nanos", Value::Number(0))]);
    let freshness =
        if random.chance(2) { text("Leader") } else { fields([("Stale", fields([("max", max)]))]) };
    Value::List(vec![wanted, freshness])
}
