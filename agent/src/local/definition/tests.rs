use serde_json::json;

use super::*;

fn read_service(value: Value) -> Result<ServiceDefinition, String> {
    service(value, Source::Api, Shared::default()).map_err(|error| error.to_string())
}

fn read_check(value: Value) -> Result<CheckDefinition, String> {
    check(value, Source::Api, Shared::default()).map_err(|error| error.to_string())
}

#[test]
fn services_are_refused_in_the_reference_s_words() {
    let long = "k".repeat(129);
    let many: serde_json::Map<_, _> = (0..65).map(|n| (format!("k{n}"), json!("x"))).collect();
    let unknown = |name: &str| format!("Request decode failed: json: unknown field \"{name}\"");
    let weights = |what: &str| format!("Invalid Weights: {what}");
    let meta = |pair: &str, what: &str| {
        format!("Invalid Service Meta: Couldn't load metadata pair ({pair}): {what}")
    };
    let rows = [
        (json!({}), "Missing service name".to_owned()),
        (json!(null), "Missing service name".to_owned()),
        (json!({"ID": "x"}), "Missing service name".to_owned()),
        (json!({"Name": "a", "Bogus": 1}), unknown("Bogus")),
        (json!({"Name": "a", "Check": {"Bogus": 1}}), unknown("Bogus")),
        (json!({"Name": "a", "Checks": [{"Bogus": 1}]}), unknown("Bogus")),
        (json!({"Name": "a", "Checks": [{"TTL": "1s", "ID": "x"}]}), unknown("ID")),
        (json!({"Name": "a", "Weights": {"Bogus": 1}}), unknown("Bogus")),
        (json!({"Name": "a", "TaggedAddresses": {"lan": {"Bogus": 1}}}), unknown("Bogus")),
        (json!({"Name": "a", "Namespace": "x"}), unknown("Namespace")),
        (json!({"Name": "a", "Address": "0.0.0.0"}), "Invalid service address".to_owned()),
        (json!({"Name": "a", "Address": "[::]"}), "Invalid service address".to_owned()),
        (json!({"Name": "a", "Weights": {}}), weights("Passing must be greater than 0")),
        (
            json!({"Name": "a", "Weights": {"Passing": 1, "Warning": -1}}),
            weights("Warning must be greater or equal than 0"),
        ),
        (
            json!({"Name": "a", "Weights": {"Passing": 65536, "Warning": 1}}),
            weights("DNS Weight must be between 0 and 65535"),
        ),
        (json!({"Name": "a", "Meta": {"": "x"}}), meta("'', 'x'", "Key cannot be blank")),
        (
            json!({"Name": "a", "Meta": {"a b": "x"}}),
            meta("'a b', 'x'", "Key contains invalid characters"),
        ),
        (
            json!({"Name": "a", "Meta": {&long: "x"}}),
            meta(&format!("'{long}', 'x'"), "Key is too long (limit: 128 characters)"),
        ),
        (
            json!({"Name": "a", "Meta": {"consul-x": "x"}}),
            meta("'consul-x', 'x'", "Key prefix 'consul-' is reserved for internal use"),
        ),
        (
            json!({"Name": "a", "Meta": many}),
            "Invalid Service Meta: Node metadata cannot contain more than 64 key/value pairs"
                .to_owned(),
        ),
        (
            json!({"Name": "a", "Checks": [{}]}),
            "Invalid check: TTL must be > 0 for TTL checks".to_owned(),
        ),
        (
            json!({"Name": "a", "Checks": [null]}),
            "Invalid check: TTL must be > 0 for TTL checks".to_owned(),
        ),
        (
            json!({"Name": "a", "Check": {"TTL": "1s", "Status": "PASSING"}}),
            "Status for checks must 'passing', 'warning', 'critical'".to_owned(),
        ),
        (
            json!({"Name": "a", "Check": {"TTL": "1s", "OutputMaxSize": -1}}),
            "Invalid check: MaxOutputMaxSize must be positive".to_owned(),
        ),
        (
            json!({"Name": "a", "Kind": "connect-proxy"}),
            "Kind belongs to the service mesh, which is not supported".to_owned(),
        ),
        (
            json!({"Name": "a", "Connect": {"SidecarService": {"Port": 1}}}),
            "Connect.SidecarService belongs to the service mesh, which is not supported".to_owned(),
        ),
        (json!({"Name": "a", "Proxy": {"Bogus": 1}}), unknown("Bogus")),
    ];
    for (value, text) in rows {
        assert_eq!(read_service(value.clone()), Err(text), "{value}");
    }
    for value in [
        json!([]),
        json!("a"),
        json!({"Name": 5}),
        json!({"Name": "a", "Port": "80"}),
        json!({"Name": "a", "Port": 1.5}),
        json!({"Name": "a", "Tags": "x"}),
        json!({"Name": "a", "Tags": [1]}),
        json!({"Name": "a", "Meta": {"a": 1}}),
        json!({"Name": "a", "EnableTagOverride": "true"}),
        json!({"Name": "a", "TaggedAddresses": {"lan": "1.1.1.1"}}),
        json!({"Name": "a", "Check": "x"}),
        json!({"Name": "a", "Checks": {}}),
        json!({"Name": "a", "Check": {"TTL": "x"}}),
        json!({"Name": "a", "Check": {"TTL": "10"}}),
        json!({"Name": "a", "Check": {"TTL": "1s", "Interval": "x"}}),
        json!({"Name": "a", "Check": {"TTL": "1s", "Header": {"a": "b"}}}),
    ] {
        let error = read_service(value.clone()).unwrap_err();
        assert!(error.starts_with("Request decode failed: "), "{value}: {error}");
    }
}

#[test]
fn fields_are_taken_in_every_spelling() {
    let camel = json!({
        "ID": "i", "Name": "n", "Tags": ["a"], "Address": "x", "Port": 8,
        "Meta": {"k_1": "v"}, "EnableTagOverride": true,
        "TaggedAddresses": {"lan_ipv4": {"Address": "1.2.3.4", "Port": 5}},
        "Weights": {"Passing": 2, "Warning": 1}, "Token": "t", "Proxy": {"MeshGateway": {}}, "Connect": {"Native": true},
        "Check": {
            "CheckID": "c", "Name": "cn", "ScriptArgs": ["x"], "Interval": 1_000_000_000u64,
            "Timeout": "2s", "Status": "passing", "DeregisterCriticalServiceAfter": "90m",
            "SuccessBeforePassing": 2, "FailuresBeforeCritical": 3, "OutputMaxSize": 10,
            "DockerContainerID": "", "TLSSkipVerify": true, "Header": {"A": ["b"]},
        },
    });
    let snake = json!({
        "id": "i", "name": "n", "tags": ["a"], "address": "x", "port": 8,
        "meta": {"k_1": "v"}, "enable_tag_override": true,
        "tagged_addresses": {"lan_ipv4": {"address": "1.2.3.4", "port": 5}},
        "weights": {"passing": 2, "warning": 1}, "token": "t",
        "check": {
            "check_id": "c", "name": "cn", "args": ["x"], "interval": "1000000000ns",
            "timeout": "2s", "status": "passing", "deregister_critical_service_after": "90m",
            "success_before_passing": 2, "failures_before_critical": 3, "output_max_size": 10,
            "tls_skip_verify": true, "header": {"A": ["b"]},
        },
    });
    let upper = json!({"NAME": "n", "PORT": 1});
    let read = read_service(camel).unwrap();
    assert_eq!(read, read_service(snake).unwrap());
    assert_eq!(read.check.unwrap().success_before_passing, 2);
    assert_eq!(read.meta["k_1"], "v");
    assert_eq!(read.tagged_addresses["lan_ipv4"].port, 5);
    assert_eq!(read_service(upper).unwrap().port, 1);
}

#[test]
fn checks_alone_are_refused_in_the_reference_s_words() {
    let rows = [
        (json!({}), "Missing check name"),
        (json!({"ID": "x"}), "Missing check name"),
        (json!({"Name": "k"}), "Invalid check: TTL must be > 0 for TTL checks"),
        (json!({"Name": "k", "Status": "bad"}), "Bad check status"),
        (
            json!({"Name": "k", "TTL": "1s", "Interval": "1s"}),
            "Invalid check: Interval and TTL cannot both be specified",
        ),
        (json!({"Name": "k", "Bogus": 1}), "Request decode failed: json: unknown field \"Bogus\""),
        (
            json!({"Name": "k", "TTL": "1s", "CheckID": "x"}),
            "Request decode failed: json: unknown field \"CheckID\"",
        ),
        (
            json!({"Name": "k", "Script": "x", "Interval": "1s"}),
            "Request decode failed: json: unknown field \"Script\"",
        ),
    ];
    for (value, text) in rows {
        assert_eq!(read_check(value.clone()), Err(text.to_owned()), "{value}");
    }
    let read =
        read_check(json!({"id": "x", "Name": "k", "ttl": 60_000_000_000u64, "service_id": "s"}));
    let read = read.unwrap();
    assert_eq!(read.id.as_deref(), Some("x"));
    assert_eq!(read.ttl.as_deref(), Some("60000000000ns"));
    assert_eq!(read.service_id.as_deref(), Some("s"));
}

#[test]
fn rows_are_filled_in() {
    let definition = read_service(json!({
        "Name": "web", "ID": "w1", "Tags": ["t"], "Address": "10.0.0.1", "Port": 80,
        "TaggedAddresses": {"lan_ipv4": {"Address": "9.9.9.9", "Port": 1}},
        "Check": {"TTL": "0s"},
        "Checks": [{"TTL": "1s"}, {"TCP": "x:1", "Interval": "1s", "CheckID": "mine", "Name": "n"}],
    }));
    let read = Registration::new(&definition.unwrap(), "n1", Shared::default()).unwrap();
    assert_eq!(&*read.row.id, "w1");
    assert_eq!(read.row.tagged_addresses["lan_ipv4"].address, "9.9.9.9");
    assert_eq!(read.row.tagged_addresses["wan_ipv4"], stored("10.0.0.1", 80));
    assert_eq!(read.row.weights, store::Weights { passing: 1, warning: 1 });
    let shown: Vec<_> = read
        .checks
        .iter()
        .map(|c| (&*c.row.id, c.row.name.as_str(), c.row.status.as_str(), c.row.kind.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            ("service:w1:1", "Service 'web' check", "critical", "ttl"),
            ("mine", "n", "critical", "tcp")
        ]
    );
    assert_eq!(read.checks[0].row.service_tags, ["t"]);
    // The empty check does not count: the numbers begin with the first that is one.
    let one = ServiceDefinition {
        name: "web".into(),
        check: Some(CheckDefinition { ttl: Some("1s".into()), ..CheckDefinition::default() }),
        ..ServiceDefinition::default()
    };
    let read = Registration::new(&one, "n1", Shared::default()).unwrap();
    assert_eq!(&*read.checks[0].row.id, "service:web");
}

#[test]
fn families_of_tagged_addresses() {
    let rows = [
        ("lan_ipv4", "1.2.3.4", true),
        ("lan_ipv4", "::1", false),
        ("wan_ipv4", "x", false),
        ("lan_ipv6", "::1", true),
        ("lan_ipv6", "1.2.3.4", false),
        ("wan_ipv6", "", true),
        ("lan", "anything", true),
    ];
    for (name, address, fits) in rows {
        let definition =
            read_service(json!({"Name": "a", "TaggedAddresses": {name: {"Address": address}}}));
        let read = Registration::new(&definition.unwrap(), "n1", Shared::default()).unwrap();
        assert_eq!(validate_families(&read.row).is_ok(), fits, "{name} {address}");
    }
}
