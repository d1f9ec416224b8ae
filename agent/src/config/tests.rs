//! Mistakes, harness keys, merging, flags.

use std::time::Duration;

use super::written::Written;
use super::*;

fn resolved(json: &str) -> Result<Config, String> {
    let written = Written::from_text(json, "json").map_err(|e| e.0)?;
    resolve(&written, false).map_err(|e| e.0)
}

#[test]
fn numbers_of_definitions_are_whole_and_names_and_networks_are_judged_at_once() {
    let with = |keys: &str| {
        resolved(&format!(r#"{{"data_dir":"/nonexistent","bind_addr":"127.0.0.1",{keys}}}"#))
    };
    let config = with(r#""service":{"name":"a","port":80.0,"weights":{"passing":2.5}}"#).unwrap();
    let service = &config.local.services[0];
    assert_eq!((&service["port"], &service["weights"]["passing"]), (&80.into(), &2.into()));
    config.judge_definitions().unwrap();
    for (keys, why) in [
        (r#""datacenter":"""#, "datacenter cannot be empty"),
        (r#""primary_datacenter":"a b""#, "primary_datacenter cannot be \"a b\""),
        (
            r#""http_config":{"allow_origins":["https://ui.example","ui.example/x"]}"#,
            "http_config.allow_origins: `ui.example/x` is not an origin",
        ),
        (
            r#""http_config":{"allow_write_http_from":["10.0.0.0/8","a b"]}"#,
            "allow_write_http_from: invalid cidr: a b",
        ),
    ] {
        let error = with(keys).unwrap_err();
        assert!(error.contains(why), "{keys}: {error}");
    }
}

#[test]
fn what_has_no_effect_is_said_unless_it_asks_for_nothing() {
    let warnings = |keys: &str| {
        let text = format!(r#"{{"data_dir":"/nonexistent","bind_addr":"127.0.0.1",{keys}}}"#);
        let written = Written::from_text(&text, "json").unwrap();
        resolve(&written, false).unwrap().warnings
    };
    let silent = [
        r#""primary_datacenter":"DC1""#,
        r#""disable_update_check":true"#,
        r#""limits":{"rpc_max_burst":7}"#,
        r#""tagged_addresses":{"rack":"10.0.0.1"}"#,
        r#""node_meta":{"a":"b"}"#,
        r#""enable_debug":true"#,
    ];
    for keys in silent {
        assert_eq!(warnings(keys), Vec::<String>::new(), "{keys}");
    }
    let said = [
        (r#""primary_datacenter":"dc2""#, "`primary_datacenter` has no effect yet"),
        (r#""ae_interval":"5m""#, "`ae_interval` has no effect yet"),
        (r#""sync_coordinate_rate_target":1.5"#, "`sync_coordinate_rate_target` has no effect yet"),
    ];
    for (keys, expected) in said {
        let found = warnings(keys);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{keys}: {found:?}");
    }
}

#[test]
fn mistakes_are_refused_in_the_words_that_scripts_know() {
    let rows = [
        (r#"{"bind_addr":"127.0.0.1"}"#, "data_dir cannot be empty"),
        (r#"{"bogus_key":1}"#, "1 error occurred:\n\t* invalid config key bogus_key\n\n"),
        (
            r#"{"bogus_key":1,"other":2,"performance":{"x":1}}"#,
            "3 errors occurred:\n\t* invalid config key performance.x\n\t* invalid config key bogus_key\n\t* invalid config key other\n\n",
        ),
        (
            r#"{"ports":{"http":"abc"}}"#,
            "'ports.http' expected type 'int', got unconvertible type 'string'",
        ),
        (
            r#"{"data_dir":"d","bind_addr":"127.0.0.1","bootstrap_expect":2}"#,
            "'bootstrap_expect > 0' requires 'server = true'",
        ),
        (
            r#"{"data_dir":"d","server":true,"bootstrap":true,"bootstrap_expect":2}"#,
            "mutually exclusive",
        ),
        (
            r#"{"data_dir":"d","datacenter":"DC 1"}"#,
            "datacenter cannot be \"dc 1\". Please use only [a-z0-9-_]",
        ),
        (
            r#"{"data_dir":"d","performance":{"raft_multiplier":20}}"#,
            "cannot be 20. Must be between 1 and 10",
        ),
        (
            r#"{"data_dir":"d","check_update_interval":"abc"}"#,
            "check_update_interval: invalid duration: \"abc\"",
        ),
        (r#"{"data_dir":"d","ports":{"http":70000}}"#, "ports.http: invalid port: 70000"),
        (
            r#"{"data_dir":"d","bind_addr":"127.0.0.1","ports":{"http":8500,"dns":8500}}"#,
            "HTTP address 127.0.0.1:8500 already configured for DNS",
        ),
        (r#"{"data_dir":"d","node_meta":{"a b":"c"}}"#, "Key contains invalid characters"),
        (r#"{"data_dir":"d","acl":{"enabled":true}}"#, "`acl.enabled` is not supported yet"),
        (
            r#"{"data_dir":"d","services":[{"name":"a","check":{"intervall":"1s"}}]}"#,
            "1 error occurred:\n\t* invalid config key services[0].check.intervall\n\n\nhint: line 1: did you mean `services[0].check.interval`?",
        ),
        (
            r#"{"data_dir":"d","acl":{"enabled":true},"verify_outgoing":true,"bogus":1}"#,
            "3 errors occurred:\n\t* invalid config key bogus\n\t* `acl.enabled` is not supported yet: there is no access",
        ),
        (
            "{\"data_dir\":\"d\",\n\"server\":true,\n\"key_file\":\"x\"}",
            "\nhint: line 3: remove `key_file`, or give it no value",
        ),
        (r#"{"data_dir":"d","bogus":null}"#, "invalid config key bogus"),
        (r#"{"data_dir":"#, "EOF|unexpected end of JSON input"),
        ("[]", "cannot unmarshal array"),
    ];
    for (json, expected) in rows {
        let error = resolved(json).expect_err(json);
        assert!(expected.split('|').any(|part| error.contains(part)), "{json}: {error}");
    }
}

#[test]
fn names_are_not_particular_about_case() {
    let config =
        resolved(r#"{"Data_Dir":"d","BIND_ADDR":"127.0.0.1","Ports":{"HTTP":21000}}"#).expect("ok");
    assert_eq!(config.ports.http, Some(21000));
}

#[test]
fn what_has_no_effect_yet_is_said_once_and_what_is_harmless_is_not() {
    let config = resolved(
        r#"{"data_dir":"d","bind_addr":"127.0.0.1","disable_update_check":true,
            "raft_snapshot_interval":"10s"}"#,
    )
    .expect("ok");
    let said: Vec<_> = config.warnings.iter().filter(|text| text.contains("no effect")).collect();
    assert_eq!(said, ["`raft_snapshot_interval` has no effect yet"]);
}

#[test]
fn definitions_are_judged_without_an_agent() {
    let judged = |json: &str| {
        resolved(json).expect("the keys are known").judge_definitions().map_err(|e| e.0)
    };
    let file =
        |definitions: &str| format!(r#"{{"data_dir":"d","bind_addr":"127.0.0.1",{definitions}}}"#);
    let fine = r#""service":{"name":"a","check":{"ttl":"10s"}},"check":{"name":"b","ttl":"5s","service_id":"a"}"#;
    assert_eq!(judged(&file(fine)), Ok(()));
    let rows = [
        (r#""service":{"port":80}"#, "service definition number 1: Missing service name"),
        (
            r#""check":{"name":"b","ttl":"5s","service_id":"zz"}"#,
            "check definition `b`: ServiceID \"zz\" does not exist",
        ),
        (
            r#""check":{"name":"b","args":["x"],"interval":"5s"}"#,
            "check definition `b`: Scripts are disabled on this agent",
        ),
    ];
    for (definitions, expected) in rows {
        let error = judged(&file(definitions)).expect_err(definitions);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn all_wrong_definitions_of_all_files_are_told_each_with_its_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("a.json", r#"{"data_dir":"d","bind_addr":"127.0.0.1","node_name":"n"}"#);
    write(
        "b.json",
        r#"{"services":[{"name":"fine"},{"port":80},{"name":"odd","check":{"interval":"5s"}}],
            "watches":[{"type":"nodes","args":["true"]},{"type":"kye","args":["true"]}]}"#,
    );
    write(
        "c.hcl",
        r#"service { id = "x" port = 80 }
           check { name = "lost" ttl = "5s" service_id = "zz" }
           check { name = "of-odd" ttl = "5s" service_id = "odd" }
           watches { type = "key" args = ["true"] }"#,
    );
    let judged = |file: &str| {
        let files = ["a.json", file].map(|name| folder.path().join(name));
        let config = validate(&files, None).unwrap();
        config.judge_definitions().unwrap_err().0
    };
    let whole = validate(&[folder.path().to_owned()], None).unwrap();
    let said = whole.judge_definitions().unwrap_err().0;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (b, c) = (file("b.json"), file("c.hcl"));
    let expected = [
        format!("{b}: service definition number 2: Missing service name"),
        format!("{b}: service definition `odd`: "),
        format!("{c}: service definition `x`: Missing service name"),
        format!("{c}: check definition `lost`: ServiceID \"zz\" does not exist"),
        format!("{b}: watches[1]: Unsupported watch type: kye"),
        format!("{c}: watches[0]: Must specify a single key to watch"),
    ];
    assert!(said.starts_with("6 errors occurred:\n\t* "), "{said}");
    for line in &expected {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    assert!(!said.contains("of-odd"), "{said}");
    // Those of one file alone.
    assert!(judged("b.json").starts_with("3 errors occurred:"), "{}", judged("b.json"));
    let error = services(&[folder.path().to_owned()]).unwrap_err().0;
    assert!(error.starts_with("3 errors occurred:") && error.contains(&expected[2]), "{error}");
}

#[test]
fn times_below_zero_are_taken_as_the_reference_does() {
    let config = resolved(
        r#"{"data_dir":"d","bind_addr":"127.0.0.1","session_ttl_min":"-5s",
            "check_update_interval":"-5s","dns_config":{"node_ttl":"-1s","service_ttl":{"a":"-1s"}}}"#,
    )
    .expect("ok");
    assert_eq!(config.http.session_ttl_min, Duration::ZERO);
    assert_eq!(config.local.check_update_interval, Duration::ZERO);
    assert_eq!(config.dns.node_ttl, Duration::ZERO);
    let shown = |config: &Config| config.debug("id", "1")["SessionTTLMin"].clone();
    assert_eq!(shown(&config), "-5s");
    let usual = resolved(r#"{"data_dir":"d","bind_addr":"127.0.0.1"}"#).expect("ok");
    assert_eq!(usual.http.session_ttl_min, Duration::from_secs(10));
    assert_eq!(shown(&usual), "0s");
    let error = resolved(r#"{"gossip_lan":{"probe_interval":"-1s"},"data_dir":"d"}"#).unwrap_err();
    assert!(error.contains("gossip_lan.probe_interval: cannot be -1s"), "{error}");
}

#[test]
fn intervals_of_checks_are_shown_as_they_are() {
    let config = resolved(
        r#"{"data_dir":"d","bind_addr":"127.0.0.1","check_deregister_interval_min":"7s",
            "check_reap_interval":"9s"}"#,
    )
    .expect("ok");
    let shown = config.debug("id", "1");
    assert_eq!(shown["CheckDeregisterIntervalMin"], "7s");
    assert_eq!(shown["CheckReapInterval"], "9s");
}

#[test]
fn the_keys_of_test_harnesses_are_taken() {
    let config = resolved(
        r#"{"node_name":"node-1","node_id":"5d4c1a2e-5b7b-4c55-9d06-9a1a0e1d1f10",
            "performance":{"raft_multiplier":1},"bootstrap":true,"server":true,"data_dir":"/nonexistent",
            "disable_update_check":true,"log_level":"debug","bind_addr":"127.0.0.1","segments":null,
            "addresses":{},"acl":{"tokens":{}},"raft_protocol":3,"enable_debug":true,
            "ports":{"dns":20001,"http":20002,"https":20003,"serf_lan":20004,"serf_wan":20005,"server":20006,"grpc":20007},
            "connect":{"enabled":true,"ca_config":{"cluster_id":"x"}}}"#,
    )
    .expect("valid");
    assert_eq!(config.ports.http, Some(20002));
    assert!(config.warnings.iter().any(|w| w.contains("`connect`")));
    assert!(config.warnings.iter().any(|w| w.contains("ports.https")));
}

#[test]
fn later_sources_win_and_lists_append() {
    let mut first = Written::from_text(
        r#"{"node_name":"a","service":{"name":"x"},"node_meta":{"k":"1"}}"#,
        "json",
    )
    .expect("valid");
    first.merge(
        Written::from_text(
            r#"{"node_name":"b","services":[{"name":"y"}],"node_meta":{"l":"2"}}"#,
            "json",
        )
        .expect("valid"),
    );
    assert_eq!(first.text("node_name"), Some("b"));
    assert_eq!(first.definitions(&["service", "services"]).len(), 2);
    assert_eq!(first.map("node_meta").len(), 2);
}

#[test]
fn flags_are_keys_in_another_spelling() {
    let args: Vec<String> = [
        "-server",
        "--bootstrap-expect=1",
        "-data-dir",
        "/nonexistent",
        "-node=n",
        "-bind",
        "127.0.0.1",
        "-http-port=21000",
        "-node-meta",
        "rack:7",
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    let Ok(Wanted::Agent(config)) = from_args(&args) else { panic!("valid") };
    assert!(config.server && config.bootstrap_expect == 1);
    assert_eq!(config.ports.http, Some(21000));
    assert_eq!(config.local.node_meta.get("rack").map(String::as_str), Some("7"));
    let error = from_args(&["-bogus".to_owned()]).expect_err("unknown");
    assert!(error.0.contains("flag provided but not defined: -bogus"));
}
