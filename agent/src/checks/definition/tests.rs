use super::*;

/// Names and values.
type Fields<'a> = &'a [(&'a str, &'a str)];

fn written(fields: Fields<'_>) -> CheckDefinition {
    let mut check = CheckDefinition::default();
    for (name, value) in fields {
        let value = (*value).to_owned();
        match *name {
            "interval" => check.interval = Some(value),
            "ttl" => check.ttl = Some(value),
            "http" => check.http = Some(value),
            "tcp" => check.tcp = Some(value),
            "grpc" => check.grpc = Some(value),
            "udp" => check.udp = Some(value),
            "h2ping" => check.h2ping = Some(value),
            "os_service" => check.os_service = Some(value),
            "args" => check.args = vec![value],
            "docker" => check.docker_container_id = Some(value),
            "alias" => check.alias_service = Some(value),
            "timeout" => check.timeout = Some(value),
            "deregister" => check.deregister_critical_service_after = Some(value),
            "name" => check.name = value,
            other => panic!("{other}"),
        }
    }
    check
}

#[test]
fn texts_of_the_reference() {
    let both = "Interval and TTL cannot both be specified";
    let interval = "Interval must be > 0 for Script, HTTP, or TCP checks";
    let ttl = "TTL must be > 0 for TTL checks";
    let newer = "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks";
    let rows: [(Fields<'_>, &str); 18] = [
        (&[("interval", "1s"), ("ttl", "1s")], both),
        (&[("http", "x"), ("interval", "1s"), ("ttl", "1s")], both),
        (&[("http", "x")], interval),
        (&[("http", "x"), ("ttl", "1s")], interval),
        (&[("tcp", "x")], interval),
        (&[("grpc", "x")], interval),
        (&[("args", "x"), ("interval", "-1s")], interval),
        (
            &[("alias", "x"), ("interval", "1s"), ("tcp", "x")],
            "Interval cannot be set for Alias checks",
        ),
        (&[("alias", "x"), ("ttl", "1s")], "TTL must be not be set for Alias checks"),
        (&[], ttl),
        (&[("name", "x")], ttl),
        (&[("interval", "1s")], ttl),
        (&[("ttl", "-5s")], ttl),
        (&[("docker", "x"), ("interval", "1s")], ttl),
        (&[("ttl", "x")], "TTL: time: invalid duration x"),
        (&[("udp", "x")], newer),
        (&[("h2ping", "x"), ("interval", "0s")], newer),
        (&[("os_service", "x"), ("ttl", "1s")], newer),
    ];
    for (fields, text) in rows {
        let error = Definition::new(&written(fields), Shared::default()).unwrap_err();
        assert_eq!(error.to_string(), text, "{fields:?}");
    }
}

#[test]
fn kinds_and_their_defaults() {
    let rows: [(Fields<'_>, &str, u64); 11] = [
        (&[("grpc", "x:1/y"), ("interval", "10s")], "grpc", 10_000),
        (&[("h2ping", "x:1"), ("interval", "10s")], "h2ping", 10_000),
        (&[("udp", "x:1"), ("interval", "10s")], "udp", 10_000),
        (&[("os_service", "x"), ("interval", "10s")], "os_service", 10_000),
        (&[("docker", "x"), ("args", "x"), ("interval", "10s")], "docker", 10_000),
        (&[("ttl", "10s")], "ttl", 0),
        (&[("http", "http://x"), ("interval", "10s")], "http", 10_000),
        (&[("tcp", "x:1"), ("interval", "1ms")], "tcp", 1_000),
        (&[("args", "/bin/true"), ("interval", "1m")], "script", 60_000),
        (&[("alias", "web")], "alias", 0),
        (&[("alias", "web"), ("interval", "1s")], "alias", 0),
    ];
    for (fields, expected, interval_ms) in rows {
        let written = written(fields);
        assert_eq!(kind(&written), expected);
        let definition = Definition::new(&written, Shared::default()).unwrap();
        assert_eq!(definition.interval, Duration::from_millis(interval_ms), "{fields:?}");
        assert_eq!(definition.output_bytes_max, 4096);
        assert_eq!(definition.deregister_after, None);
    }
}

#[test]
fn limits_are_raised_and_lowered() {
    let mut check = written(&[("ttl", "10s"), ("deregister", "5s")]);
    let small = Shared { output_bytes_max: 100, ..Shared::default() };
    check.output_max_size = 10_000;
    let definition = Definition::new(&check, small).unwrap();
    assert_eq!(definition.deregister_after, Some(Duration::from_mins(1)));
    assert_eq!(definition.output_bytes_max, 100);
    check.output_max_size = 5;
    check.deregister_critical_service_after = Some("90m".into());
    let definition = Definition::new(&check, small).unwrap();
    assert_eq!(definition.deregister_after, Some(Duration::from_mins(90)));
    assert_eq!(definition.output_bytes_max, 5);
}

#[test]
fn a_definition_that_says_nothing_is_empty() {
    assert!(is_empty(&CheckDefinition::default()));
    assert!(is_empty(&written(&[("ttl", "0"), ("http", ""), ("interval", "0s")])));
    for field in ["ttl", "interval", "timeout", "deregister"] {
        assert!(!is_empty(&written(&[(field, "1s")])), "{field}");
    }
    for field in
        ["udp", "h2ping", "os_service", "http", "tcp", "args", "docker", "alias", "name", "grpc"]
    {
        assert!(!is_empty(&written(&[(field, "x")])), "{field}");
    }
}
