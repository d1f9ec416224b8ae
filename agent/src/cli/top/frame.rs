//! From two looks to lines: what fares worst stands first, and what does not fit is counted.

use std::cmp::Reverse;

use muster_client::types::{Member, MemberStatus};

use super::look::{Health, Observation};
use crate::cli::layout::columns;
use crate::cli::members::status;
use crate::spelling::printable;

/// Room on the terminal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl Size {
    /// A file holds everything.
    pub(super) const UNLIMITED: Size = Size { columns: usize::MAX, rows: usize::MAX };
}

/// A line and how it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// Style of a line on terminals with colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// A heading.
    Bold,
    /// Something deserves a look.
    Warn,
    /// Something is broken.
    Bad,
}

impl Line {
    fn plain(text: impl Into<String>) -> Line {
        Line { text: text.into(), tone: Tone::Plain }
    }
    fn bold(text: &str) -> Line {
        Line { text: printable(text), tone: Tone::Bold }
    }
    pub(super) fn bad(text: impl Into<String>) -> Line {
        Line { text: text.into(), tone: Tone::Bad }
    }
}

/// The lines of a look; `before` is the one before it, for rates.
pub(super) fn frame(
    program: &str,
    now: &Observation,
    before: Option<&Observation>,
    size: Size,
) -> Vec<Line> {
    let role = if now.server { "server" } else { "client" };
    let mut lines = vec![Line::bold(&format!(
        "{program} top   {} ({role})   {}   {}",
        now.node,
        now.datacenter,
        if now.leader.is_empty() {
            "no leader".to_owned()
        } else {
            format!("leader {}", now.leader)
        }
    ))];
    if now.leader.is_empty() {
        lines.push(Line::bad(
            "nobody leads: nothing can be changed until a majority of the servers agrees",
        ));
    }
    lines.extend(figures(now, before).into_iter().map(Line::plain));

    let mut members: Vec<&Member> = now.members.iter().collect();
    members.sort_by_key(|member| (Reverse(badness(member)), member.name.clone()));
    let mut services: Vec<(&String, &Health)> = now.services.iter().collect();
    services.sort_by_key(|(name, health)| {
        (Reverse(health.critical), Reverse(health.warning), name.as_str())
    });

    let peers = now.peers.iter().map(|peer| {
        let state = if peer.leader { "leader" } else { "follower" };
        let voter = if peer.voter { "yes" } else { "no" };
        let cells = [peer.node.as_str(), &peer.address, state, voter];
        (cells.map(str::to_owned).to_vec(), Tone::Plain)
    });
    let members = members.into_iter().map(|member| {
        let tone = match member.status() {
            MemberStatus::Alive => Tone::Plain,
            MemberStatus::Failed => Tone::Bad,
            _ => Tone::Warn,
        };
        let role = member.tags.get("role").map(String::as_str);
        let kind = if role == Some("consul") { "server" } else { "client" };
        let address = format!("{}:{}", member.addr, member.port);
        let cells = [member.name.as_str(), &address, status(member), kind];
        (cells.map(str::to_owned).to_vec(), tone)
    });
    let services = services.into_iter().map(|(name, health)| {
        let tone = match health {
            Health { critical: 1.., .. } => Tone::Bad,
            Health { warning: 1.., .. } => Tone::Warn,
            _ => Tone::Plain,
        };
        let counts = [health.passing, health.warning, health.critical].map(|n| n.to_string());
        let cells = std::iter::once(name.clone()).chain(counts).collect();
        (cells, tone)
    });
    let sections = [
        (["Server", "Address", "State", "Voter"], peers.collect::<Vec<_>>()),
        (["Member", "Address", "Status", "Type"], members.collect()),
        (["Service", "Passing", "Warning", "Critical"], services.collect()),
    ];
    let rooms =
        rooms(size.rows.saturating_sub(lines.len()), sections.each_ref().map(|s| s.1.len()));
    for ((heading, rows), room) in sections.into_iter().zip(rooms) {
        section(&mut lines, heading, rows, room);
    }
    for line in &mut lines {
        if line.text.chars().count() > size.columns {
            line.text = line.text.chars().take(size.columns).collect();
        }
    }
    lines.truncate(size.rows);
    lines
}

/// Lines that a section takes beside its rows: an empty one, the heading, and the count of what is left out.
const AROUND: usize = 3;

/// Divides the lines among the sections: what one does not need, the later ones get.
fn rooms(lines: usize, wanted: [usize; 3]) -> [usize; 3] {
    let mut left = lines.saturating_sub(AROUND * wanted.len());
    let mut rooms = [0; 3];
    for (at, wanted) in wanted.into_iter().enumerate() {
        let share = left / (3 - at);
        rooms[at] = wanted.min(share);
        left -= rooms[at];
    }
    rooms
}

fn section(lines: &mut Vec<Line>, heading: [&str; 4], rows: Vec<(Vec<String>, Tone)>, room: usize) {
    if rows.is_empty() {
        return;
    }
    let count = rows.len();
    let mut table = vec![heading.map(str::to_owned).to_vec()];
    let mut tones = vec![Tone::Bold];
    for (cells, tone) in rows.into_iter().take(room) {
        table.push(cells.iter().map(|cell| printable(cell)).collect());
        tones.push(tone);
    }
    lines.push(Line::plain(""));
    let text = columns(&table, 2);
    lines.extend(
        text.lines().zip(tones).map(|(text, tone)| Line { text: text.trim_end().to_owned(), tone }),
    );
    if count > room {
        lines.push(Line::plain(format!("... and {} more", count - room)));
    }
}

fn badness(member: &Member) -> u8 {
    match member.status() {
        MemberStatus::Failed => 4,
        MemberStatus::None => 3,
        MemberStatus::Leaving => 2,
        MemberStatus::Left => 1,
        MemberStatus::Alive => 0,
    }
}

/// Counts and rates, as far as the agent tells them.
fn figures(now: &Observation, before: Option<&Observation>) -> Vec<String> {
    let gauge = |name: &str| now.figures.get(name).copied();
    let whole = |value: f64, what: &str| format!("{value:.0} {what}");
    let rate = |name: &str, what: &str| {
        let before = before?;
        let passed = now.taken.saturating_duration_since(before.taken).as_secs_f64();
        let grown = gauge(name)? - before.figures.get(name)?;
        // What begins anew with a restart has no rate.
        (passed > 0.0 && grown >= 0.0).then(|| format!("{:.1} {what}/s", grown / passed))
    };
    let count = |status: MemberStatus| {
        now.members.iter().filter(|member| member.status() == status).count()
    };
    let alive = count(MemberStatus::Alive);
    let mut there = vec![format!("{alive} alive")];
    for (status, name) in [
        (MemberStatus::Failed, "failed"),
        (MemberStatus::Leaving, "leaving"),
        (MemberStatus::Left, "left"),
    ] {
        let count = count(status);
        if count > 0 {
            there.push(format!("{count} {name}"));
        }
    }
    let holds = [
        ("catalog.nodes", "nodes"),
        ("catalog.instances", "instances"),
        ("catalog.checks", "checks"),
        ("kv.keys", "keys"),
        ("sessions", "sessions"),
    ];
    let holds = holds.iter().filter_map(|(name, what)| Some(whole(gauge(name)?, what))).collect();
    let rates = [
        rate("raft.index", "changes"),
        rate("read.evaluations", "evaluations"),
        rate("read.shared", "shared answers"),
        rate("read.wakes", "wakes"),
    ];
    let mut works: Vec<String> = rates.into_iter().flatten().collect();
    works.extend(gauge("read.waiting").map(|count| whole(count, "waiting")));
    works.extend(gauge("runtime.rss_bytes").map(|bytes| format!("{:.1} MiB", bytes / 1_048_576.0)));
    let lines: [(&str, Vec<String>); 3] = [("members", there), ("holds", holds), ("works", works)];
    lines
        .into_iter()
        .filter(|(_, words)| !words.is_empty())
        .map(|(name, words)| format!("{name:9}{}", words.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::look::Peer;
    use super::*;

    fn look() -> Observation {
        let member = |name: &str, status: u8| -> Member {
            let json = serde_json::json!({
                "Name": name, "Addr": "10.0.0.1", "Port": 8301, "Status": status,
            });
            serde_json::from_value(json).expect("a member")
        };
        Observation {
            taken: Instant::now(),
            node: "n1".into(),
            datacenter: "dc1".into(),
            server: true,
            leader: "10.0.0.1:8300".into(),
            members: vec![member("a", 1), member("b", 4)],
            peers: vec![Peer {
                node: "n1".into(),
                address: "10.0.0.1:8300".into(),
                leader: true,
                voter: true,
            }],
            services: [
                ("api".to_owned(), Health { passing: 2, ..Health::default() }),
                ("web".to_owned(), Health { passing: 1, critical: 1, ..Health::default() }),
            ]
            .into(),
            figures: [("raft.index".to_owned(), 30.0), ("kv.keys".to_owned(), 7.0)].into(),
        }
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|line| line.text.clone() + "\n").collect::<Vec<_>>().concat()
    }

    #[test]
    fn what_fares_worst_stands_first() {
        let mut before = look();
        before.figures.insert("raft.index".to_owned(), 10.0);
        let mut now = look();
        now.taken = before.taken + Duration::from_secs(2);
        let lines = frame("muster", &now, Some(&before), Size::UNLIMITED);
        let expected = "\
muster top   n1 (server)   dc1   leader 10.0.0.1:8300
members  1 alive, 1 failed
holds    7 keys
works    10.0 changes/s

Server  Address        State   Voter
n1      10.0.0.1:8300  leader  yes

Member  Address        Status  Type
b       10.0.0.1:8301  failed  client
a       10.0.0.1:8301  alive   client

Service  Passing  Warning  Critical
web      1        0        1
api      2        0        0
";
        assert_eq!(text(&lines), expected);
        let tone =
            |start: &str| lines.iter().find(|line| line.text.starts_with(start)).map(|l| l.tone);
        assert_eq!(tone("web"), Some(Tone::Bad));
        assert_eq!(tone("a "), Some(Tone::Plain));
    }

    #[test]
    fn names_do_not_steer_the_terminal() {
        let mut now = look();
        now.node = "n\u{1b}[2J".to_owned();
        now.members[0].addr = "\u{1b}]0;".to_owned();
        now.services.insert("a\nb".to_owned(), Health::default());
        let lines = frame("muster", &now, None, Size::UNLIMITED);
        assert!(lines.iter().all(|line| !line.text.contains(char::is_control)), "{lines:?}");
        assert!(lines.iter().any(|line| line.text.starts_with(r"a\nb  ")), "{lines:?}");
    }

    #[test]
    fn a_frame_fits_its_terminal() {
        let mut many = look();
        for number in 0..500 {
            many.services.insert(format!("service-{number:03}"), Health::default());
        }
        many.leader.clear();
        for rows in [0, 1, 5, 24, 50, 200] {
            for columns in [0, 1, 20, 80] {
                let lines = frame("muster", &many, Some(&look()), Size { columns, rows });
                assert!(lines.len() <= rows, "{rows} rows");
                assert!(lines.iter().all(|line| line.text.chars().count() <= columns));
            }
        }
        let lines = frame("muster", &many, None, Size { columns: 80, rows: 30 });
        assert!(lines.iter().any(|line| line.text.ends_with(" more")), "{lines:?}");
        assert!(lines[1].text.starts_with("nobody leads"));
    }
}
