//! What is written, and what it means; what is refused, and by which words.

use std::path::PathBuf;

use super::*;
use crate::guard::OnEmpty;

/// The configuration that one file gives.
fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    let flags = Flags { config: vec![path.clone()], ..Flags::default() };
    Config::load(&flags)
        .map_err(|error| error.to_string().replace(&path.display().to_string(), "c.toml"))
}

fn flags(arguments: &[&str]) -> Result<Config, String> {
    let all = std::iter::once(&"muster-template").chain(arguments).map(std::ffi::OsString::from);
    let flags = Flags::parse_from_arguments(all).map_err(|error| error.to_string())?;
    Config::load(&flags).map_err(|error| error.to_string())
}

const TEMPLATE: &str = "[[group.template]]\nsource = \"/in\"\ndestination = \"/out\"\n";

#[test]
fn what_is_not_said_is_filled_in() {
    let config = load(&format!("[[group]]\nname = \"g\"\n{TEMPLATE}")).unwrap();
    let group = &config.groups[0];
    assert_eq!(group.pace, Pace::default());
    assert_eq!(group.limits, Limits::default());
    assert_eq!(group.sources, [Text::File("/in".into())]);
    assert_eq!(group.transaction.reload, transaction::Reload::None);
    assert_eq!(group.transaction.targets[0].mode, None);
    assert_eq!((config.http, config.child), (None, None));
    assert_eq!(config.catalog.consistency, Consistency::Default);
}

#[test]
fn everything_that_can_be_said() {
    let text = r#"
        state_dir = "/state"
        log_level = "debug"
        [catalog]
        address = "a:1"
        token = "secret"
        datacenter = "dc2"
        consistency = "stale"
        wait = "30s"
        [http]
        addr = "127.0.0.1:1"
        [exec]
        command = ["nginx", "-g", "daemon off;"]
        restart = "on-failure"
        reload_signal = "HUP"
        stop_signal = "QUIT"
        kill_timeout = "3s"
        [guard]
        max_shrink = 0.5
        keep_for = "1m"
        [[group]]
        name = "g"
        debounce = { min = "1ms", max = "2ms" }
        min_interval = "1s"
        partials = ["/p"]
        validate = { command = ["check", "{config}"], shadow = "/main", timeout = "1s" }
        reload = { child = true }
        verify = { url = "http://v", timeout = "2s" }
        guard = { on_empty = "error", min = 2 }
        [[group.template]]
        contents = "text"
        destination = "/out"
        mode = "0640"
        user = "root"
        group = "0"
        create_folders = false
    "#;
    let mut config = load(text).unwrap();
    assert_eq!(config.followed.len(), 1, "the file itself");
    config.followed.clear();
    insta::assert_debug_snapshot!(config);
}

#[test]
fn mistakes_are_named() {
    let group = |more: &str, template: &str| format!("[[group]]\nname = \"g\"\n{more}\n{template}");
    let template = |more: &str| format!("[[group.template]]\ndestination = \"/out\"\n{more}");
    for (text, expected) in [
        ("colour = 1".to_owned(), "unknown field `colour`"),
        ("[catalog]\nadress = \"x\"".to_owned(), "unknown field `adress`"),
        ("[[group]\n".to_owned(), "TOML parse error at line 1"),
        (group("", ""), "group `g`: it has no template"),
        (format!("[[group]]\nname = \"a b\"\n{TEMPLATE}"), "group `a b`: a name has letters"),
        (format!("[[group]]\nname = \"..\"\n{TEMPLATE}"), "group `..`: a name has letters"),
        (group("", TEMPLATE) + &group("", TEMPLATE), "there are two groups `g`"),
        (group("", &format!("{TEMPLATE}{TEMPLATE}")), "`/out` is the destination of two templates"),
        (group("", &template("")), "needs either `source` or `contents`"),
        (
            group("", &template("source = \"/a\"\ncontents = \"b\"")),
            "needs either `source` or `contents`",
        ),
        (
            group("", &template("source = \"/a\"\nmode = \"999\"")),
            "mode `999` is not such as `0644`",
        ),
        (
            group("", &template("source = \"/a\"\nuser = \"nobody-here\"")),
            "there is no user `nobody-here`",
        ),
        (
            group("", "[[group.template]]\nsource = \"/a\"\ndestination = \"out\""),
            "destination `out` is not the full path of a file",
        ),
        (group("reload = { child = true }", TEMPLATE), "reload.child: there is no `exec`"),
        (
            group("reload = { child = false }", TEMPLATE),
            "needs either `child = true` or a `command`",
        ),
        (group("reload = { command = [] }", TEMPLATE), "reload.command: is empty"),
        (group("validate = { command = \"a b\", shadow = \"/m\" }", TEMPLATE), "needs `{config}`"),
        (group("verify = { url = \"https://x\" }", TEMPLATE), "does not begin with `http://`"),
        (
            group("debounce = { min = \"2s\", max = \"1s\" }", TEMPLATE),
            "`min` is longer than `max`",
        ),
        (group("min_interval = \"5\"", TEMPLATE), "`5` is not a duration"),
        (group("guard = { max_shrink = 2.0 }", TEMPLATE), "a share from 0.0 to 1.0, not 2"),
        (group("guard = { on_empty = \"maybe\" }", TEMPLATE), "unknown variant `maybe`"),
        ("[http]\naddr = \"8599\"".to_owned(), "http.addr: `8599` is not an address and port"),
        ("[exec]\ncommand = \"\"".to_owned(), "exec.command: is empty"),
        (
            "[exec]\ncommand = \"a\"\nstop_signal = \"NOPE\"".to_owned(),
            "exec: `NOPE` is not a signal",
        ),
        ("[catalog]\nconsistency = \"maybe\"".to_owned(), "catalog.consistency: `maybe` is not"),
        ("[catalog]\nwait = \"1ms\"".to_owned(), "catalog.wait: must be from 1s to 10m"),
        (
            "[catalog]\ntoken = \"a\"\ntoken_file = \"/b\"".to_owned(),
            "`token` and `token_file` exclude",
        ),
        (
            "[catalog]\ntoken_file = \"/nope\"".to_owned(),
            "cannot read the token file /nope: No such file",
        ),
    ] {
        let error = load(&text).expect_err(&text);
        assert!(error.contains(expected), "{text}\n{error}");
    }
}

#[test]
fn later_files_win_and_groups_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "b.toml",
        &format!("state_dir = \"/b\"\n[[group]]\nname = \"b\"\n{}", TEMPLATE.replace("/out", "/b")),
    );
    write(
        "a.json",
        r#"{"state_dir": "/a", "log_level": "warn", "group": [{"name": "a", "template":
        [{"contents": "x", "destination": "/a"}]}]}"#,
    );
    write("ignored.txt", "nonsense");
    let config =
        Config::load(&Flags { config: vec![folder.path().into()], ..Flags::default() }).unwrap();
    assert_eq!(config.state_dir, PathBuf::from("/b"));
    assert_eq!(config.log_level, "warn");
    let names: Vec<_> = config.groups.iter().map(|group| group.transaction.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    write("c.hcl", "");
    let hcl =
        Config::load(&Flags { config: vec![folder.path().join("c.hcl")], ..Flags::default() });
    assert!(hcl.unwrap_err().to_string().contains("HCL is not read here"));
}

#[test]
fn one_dash_or_two() {
    for dashes in ["-", "--"] {
        let arguments = [
            format!("{dashes}template=/in:/out:nginx -s reload; echo a:b"),
            format!("{dashes}consul-addr=x:1"),
            format!("{dashes}consul-token"),
            "t".to_owned(),
            format!("{dashes}wait=1s:3s"),
            format!("{dashes}log-level=ERR"),
        ];
        let config = flags(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert_eq!(config.catalog.address.as_deref(), Some("x:1"));
        assert_eq!(config.catalog.token, Some(Token::Text(Secret::new("t"))));
        assert_eq!(config.log_level, "error");
        let group = &config.groups[0];
        assert_eq!(group.transaction.name, "0-out");
        assert_eq!(
            (group.pace.quiet_min, group.pace.quiet_max),
            (Duration::from_secs(1), Duration::from_secs(3))
        );
        let command = ["sh", "-c", "nginx -s reload; echo a:b"].map(str::to_owned).to_vec();
        let reload = transaction::Reload::Command { command, timeout: RELOAD_TIMEOUT };
        assert_eq!(group.transaction.reload, reload);
    }
}

#[test]
fn an_exec_flag_reloads_its_child() {
    let config = flags(&["-template", "/in:/out", "-exec", "nginx -g 'daemon off;'"]).unwrap();
    let child = config.child.unwrap();
    assert_eq!(child.command, ["nginx", "-g", "daemon off;"]);
    assert_eq!((child.restart, child.reload), (child::Restart::Never, child::Reload::Restart));
    assert_eq!(config.groups[0].transaction.reload, transaction::Reload::Child);
    let preset = flags(&["-template", "/in:/out", "-wait", "2s"]).unwrap().groups[0].pace;
    assert_eq!(
        (preset.quiet_min, preset.quiet_max),
        (Duration::from_secs(2), Duration::from_secs(8))
    );
}

#[test]
fn a_token_is_not_shown() {
    let config = flags(&["-template", "/in:/out", "-consul-token", "very-secret"]).unwrap();
    assert!(!format!("{config:?}").contains("very-secret"));
}

#[test]
fn limits_of_a_group_go_before_those_of_all() {
    let text = format!(
        "[guard]\non_empty = \"render\"\nmin = 1\n[[group]]\nname = \"g\"\nguard = {{ min = 3 }}\n{TEMPLATE}"
    );
    let limits = load(&text).unwrap().groups[0].limits.clone();
    assert_eq!((limits.on_empty, limits.min), (OnEmpty::Render, 3));
}

#[test]
fn levels_of_the_log() {
    for (written, expected) in [
        ("info", Ok("info")),
        ("ERR", Ok("error")),
        ("warning", Ok("warn")),
        ("muster_template=debug,warn", Ok("muster_template=debug,warn")),
        ("nonsense", Err("`nonsense` is not a level")),
        ("info,verbose", Err("`verbose` is not a level")),
        ("x=loud", Err("`loud` is not a level")),
        ("", Err("`` is not a level")),
    ] {
        let flag = flags(&["-template", "/in:/out", "-log-level", written]);
        let file = load(&format!("log_level = \"{written}\"\n"));
        for level in [flag, file].map(|config| config.map(|config| config.log_level)) {
            match expected {
                Ok(expected) => assert_eq!(level.unwrap(), expected),
                Err(expected) => {
                    let error = level.unwrap_err();
                    assert!(error.contains(expected), "{written}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_time_to_end_is_for_runs_that_end() {
    let config = flags(&["-template", "/in:/out", "-once", "-timeout", "5s"]).unwrap();
    assert_eq!(config.timeout, Some(Duration::from_secs(5)));
    let error = flags(&["-template", "/in:/out", "-timeout", "5s"]).unwrap_err();
    assert!(error.contains("give `-once`, too"), "{error}");
    let error = flags(&["-template", "/in:/out", "-once", "-timeout", "soon"]).unwrap_err();
    assert!(error.contains("-timeout: `soon` is not a duration"), "{error}");
}

#[test]
fn flags_of_consul_template_that_mean_nothing_here_get_a_hint() {
    for (flag, hint) in [
        ("-consul-ssl", "TLS to an agent is not spoken yet"),
        ("-consul-ssl-ca-cert=/x", "TLS to an agent is not spoken yet"),
        ("-max-stale=10s", "catalog.consistency"),
        ("-reload-signal=HUP", "HUP reads the configuration again"),
        ("-kill-signal=INT", "TERM, INT and QUIT"),
        ("-dump-signal=QUIT", "muster-template status"),
        ("-retry=5s", "retries never end"),
        ("-vault-addr=x", "Vault is not supported"),
        ("-nomad-addr=x", "Nomad is not supported"),
        ("-log-rotate-bytes=5", "service manager"),
    ] {
        let error = flags(&["-template", "/in:/out", flag]).unwrap_err();
        assert!(error.contains("is not supported") && error.contains(hint), "{flag}: {error}");
    }
}
