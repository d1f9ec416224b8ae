//! Arguments in, text out, as far as no agent is needed.

use super::command::{Failure, Output, Program};
use super::{COMMANDS, GROUPS, help, run};

fn called(line: &str) -> Result<Output, Failure> {
    let args: Vec<String> = line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect();
    run(Program::MUSTER, &args)
}

#[test]
fn misuse_is_told_in_the_words_and_codes_that_scripts_know() {
    let rows = [
        ("frobnicate", 127, "Usage: muster [--version] [--help] <command> [<args>]"),
        ("", 127, "Usage: muster"),
        ("kv", 1, "Usage: muster kv <subcommand>"),
        ("kv frobnicate", 1, "Usage: muster kv <subcommand>"),
        ("operator raft", 1, "Usage: muster operator raft <subcommand>"),
        ("kv get", 1, "Error! Missing KEY argument"),
        ("kv get a b", 1, "Too many arguments (expected 1, got 2)"),
        ("kv get a -detailed", 1, "Too many arguments (expected 1, got 2)"),
        ("kv get -bogus x", 1, "flag provided but not defined: -bogus"),
        ("kv get -token", 1, "flag needs an argument: -token"),
        ("kv get -detailed=foo a", 1, "invalid boolean value \"foo\" for -detailed: parse error"),
        ("kv get ---x a", 1, "bad flag syntax: ---x"),
        ("kv put", 1, "Error! Missing KEY argument"),
        ("kv put a b c", 1, "Error! Too many arguments (expected 1 or 2, got 3)"),
        (
            "kv put /a b",
            1,
            "Error! Failed writing data: Invalid key. Key must not begin with a '/': /a",
        ),
        ("kv put -cas a b", 1, "Must specify -modify-index with -cas!"),
        ("kv put -acquire a b", 1, "Error! Missing -session (required with -acquire and -release)"),
        ("kv put -flags=x a b", 1, "invalid value \"x\" for flag -flags: parse error"),
        ("kv put -base64 a !", 1, "Error! Cannot base 64 decode data:"),
        ("kv put a @/nope", 1, "Error! Failed to read file: open /nope: no such file or directory"),
        ("kv delete", 1, "Error! Missing KEY argument"),
        ("kv delete -cas a", 1, "Must specify -modify-index with -cas!"),
        ("kv delete -modify-index=1 a", 1, "Cannot specify -modify-index without -cas!"),
        ("kv delete -recurse -cas -modify-index=1 a", 1, "Cannot specify both -cas and -recurse!"),
        ("kv import", 1, "Error! Missing DATA argument"),
        ("kv import {bad", 1, "Cannot unmarshal data:"),
        (
            "kv import [{\"key\":\"q\",\"value\":\"!\"}]",
            1,
            "Error base 64 decoding value for key q:",
        ),
        ("catalog nodes x", 1, "Too many arguments (expected 0, got 1)"),
        ("members -status=(", 1, "Failed to compile status regexp:"),
        ("services register", 1, "Service registration requires at least one argument or flags."),
        (
            "services register -port=5",
            1,
            "Service registration requires at least one argument or flags.",
        ),
        (
            "services register -name=a f",
            1,
            "Service registration requires arguments or -id, not both.",
        ),
        (
            "services register -name=a -meta=x",
            1,
            "invalid value \"x\" for flag -meta: Missing \"=\" value in argument: x",
        ),
        (
            "services register /nope",
            1,
            "Error: config: Open failed on /nope. open /nope: no such file or directory",
        ),
        ("services deregister", 1, "Service deregistration requires at least one argument or -id."),
        ("event", 1, "Event name must be specified\n\nUsage: muster event [options] [payload]"),
        ("event -name=x -tag=a", 1, "Cannot provide tag filter without service filter."),
        ("event -name=x -node=(", 1, "Failed to compile node filter regexp:"),
        ("maint -enable -disable", 1, "Only one of -enable or -disable may be provided"),
        ("maint -reason=x", 1, "Reason may only be provided with -enable"),
        ("maint -service=x", 1, "Service requires either -enable or -disable"),
        ("join", 1, "At least one address to join must be specified.\n\nUsage: muster join"),
        ("force-leave", 1, "A single node name must be specified to force leave."),
        ("leave x", 1, "Error found unexpected args: [x]"),
        ("validate", 1, "Must specify at least one config file or directory"),
        ("validate /nope", 1, "Config validation failed: config: Open failed on /nope."),
        ("watch", 1, "Watch type must be specified\n\nUsage: muster watch"),
        ("watch -type=zz", 1, "Unsupported watch type: zz"),
        ("watch -type=key", 1, "Must specify a single key to watch"),
        ("watch -type=checks -state=any -service=x", 1, "Cannot specify service and state"),
        ("lock p", 1, "Key prefix and child command must be specified"),
        ("lock -n=0 p true", 1, "Lock holder limit must be positive"),
        (
            "kv get -http-addr=https://h x",
            1,
            "Error connecting to Muster agent: `https://h` is not an address of an agent",
        ),
        (
            "kv get -token-file=/nope x",
            1,
            "Error connecting to Muster agent: cannot read the token file /nope",
        ),
    ];
    for (line, code, text) in rows {
        let failure = called(line).expect_err(line);
        assert!(failure.text.starts_with(text), "{line}: {}", failure.text);
        assert_eq!(failure.code, code, "{line}");
    }
}

#[test]
fn slips_of_the_finger_get_a_hint() {
    let rows = [
        ("catalgo", "did you mean `catalog`?"),
        ("agnet", "did you mean `agent`?"),
        ("kv gte", "did you mean `get`?"),
        ("kv get -detialed x", "did you mean `-detailed`?"),
        ("kv get -ca-file=x x", "HTTPS is not supported yet"),
        ("watch -type=sevrice", "did you mean `service`?"),
        (
            "-http-addr=x kv get",
            "`-http-addr=x` comes before the command: put flags after it, as in `muster kv get -http-addr=x ...`",
        ),
        ("kv get -token", "`muster kv get -help` lists the flags"),
    ];
    for (line, hint) in rows {
        assert_eq!(called(line).expect_err(line).hint.as_deref(), Some(hint), "{line}");
    }
}

#[test]
fn every_command_explains_itself() {
    for spec in COMMANDS {
        for flag in ["-h", "-help", "--help"] {
            let text = called(&format!("{} {flag}", spec.path)).expect(spec.path);
            let text = String::from_utf8(text.stdout).unwrap();
            assert!(text.starts_with(&format!("Usage: muster {} [options]", spec.path)), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        let names: Vec<_> = spec.flags.iter().map(|flag| flag.name).collect();
        assert!(names.is_sorted(), "{}: {names:?}", spec.path);
    }
    for group in GROUPS {
        assert!(called(&format!("{} -help", group.path)).is_ok(), "{}", group.path);
        assert!(!help::below(group.path, COMMANDS, GROUPS).is_empty());
    }
    let overview = String::from_utf8(called("-help").unwrap().stdout).unwrap();
    assert!(overview.contains("\n    agent    ") && overview.contains("\n    kv       "));
}

#[test]
fn a_childs_arguments_are_its_own() {
    // No help here: `-h` belongs to the child. The lock itself fails for want of an agent.
    let failure = called("lock -http-addr=unix:///nope -timeout=1s p ls -h").expect_err("no agent");
    assert!(
        failure.text.starts_with("Lock acquisition failed: no agent answers"),
        "{}",
        failure.text
    );
    assert!(failure.hint.is_some());
}

#[test]
fn under_the_references_name_it_speaks_as_it_does() {
    let args = ["version".to_owned()];
    let text = |program| String::from_utf8(run(program, &args).unwrap().stdout).unwrap();
    assert!(text(Program::called("/usr/bin/consul")).starts_with("Consul v1."));
    assert!(text(Program::called("target/debug/muster")).starts_with("Muster v"));
    let usage = run(Program::CONSUL, &[]).expect_err("no command").text;
    assert!(usage.starts_with("Usage: consul "), "{usage}");
}
