//! From the engine's inspection to definitions: the rules that people rely on, row by row.
//!
//! Every container is the recorded answer `inspect/compose_web.json` with the parts replaced that
//! a row is about, so each row goes the whole way from the engine's JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_client::types::CheckDefinition;
use muster_registrator::address::{self, Family, Mode};
use muster_registrator::container::{Container, DockerHealth, NetworkMode, Run};
use muster_registrator::plan::{
    self, Filter, META_CHECKS, META_CONTAINER, META_INSTANCE, NameSuffix, Plan, Settings, plan,
};
use serde_json::{Value, json};

fn recorded() -> Value {
    serde_json::from_str(include_str!("inspect/compose_web.json")).expect("JSON")
}

fn container(json: Value) -> Container {
    let answer = serde_json::from_value(json).expect("an inspection");
    Container::from_inspect(answer).expect("an id")
}

/// A container without keys, labels, health check and ports on one network.
fn plain() -> Value {
    let mut json = recorded();
    json["Config"]["Env"] = json!([]);
    json["Config"]["Labels"] = json!({});
    json["Config"]["Healthcheck"] = Value::Null;
    json["State"]["Health"] = Value::Null;
    json["Config"]["ExposedPorts"] = json!({});
    json["NetworkSettings"]["Ports"] = json!({});
    json
}

/// Ports as `80`, `53/udp` (exposed) and `80=8080` (published), keys as `E:NAME=value` (environment)
/// or `NAME=value` (label).
fn with(ports: &[&str], keys: &[&str]) -> Value {
    let mut json = plain();
    for port in ports {
        let (inside, outside) = port.split_once('=').unwrap_or((port, ""));
        let inside = if inside.contains('/') { inside.to_owned() } else { format!("{inside}/tcp") };
        json["Config"]["ExposedPorts"][&inside] = json!({});
        json["NetworkSettings"]["Ports"][&inside] = if outside.is_empty() {
            Value::Null
        } else {
            json!([{ "HostIp": "0.0.0.0", "HostPort": outside }])
        };
    }
    for key in keys {
        if let Some(entry) = key.strip_prefix("E:") {
            json["Config"]["Env"].as_array_mut().expect("list").push(json!(entry));
        } else {
            let (label, value) = key.split_once('=').expect("label=value");
            json["Config"]["Labels"][label] = json!(value);
        }
    }
    json
}

fn settings() -> Settings {
    Settings::new("host1")
}

/// One line per service: `id name address:port tags… key=value… [check]…`, without the marks of
/// ownership.
fn lines(plan: &Plan) -> Vec<String> {
    plan.services
        .iter()
        .map(|wanted| {
            let definition = &wanted.definition;
            assert_eq!(definition.id.as_ref(), Some(&wanted.id));
            assert_eq!(definition.meta.get(META_INSTANCE).map(String::as_str), Some("host1"));
            assert_eq!(definition.meta.get(META_CONTAINER), Some(&wanted.container));
            let mut words = vec![
                wanted.id.clone(),
                definition.name.clone(),
                format!("{}:{}", definition.address, definition.port),
            ];
            words.extend(definition.tags.iter().map(|tag| format!("#{tag}")));
            let own = [META_INSTANCE, META_CONTAINER, META_CHECKS];
            let meta = definition.meta.iter().filter(|(key, _)| !own.contains(&key.as_str()));
            words.extend(meta.map(|(key, value)| format!("{key}={value}")));
            words.extend(definition.checks.iter().map(|check| format!("[{}]", describe(check))));
            words.join(" ")
        })
        .collect()
}

fn describe(check: &CheckDefinition) -> String {
    let mut words = Vec::new();
    words.extend(check.http.clone());
    words.extend(check.tcp.as_ref().map(|at| format!("tcp {at}")));
    words.extend(check.grpc.as_ref().map(|at| format!("grpc {at}")));
    words.extend(check.ttl.as_ref().map(|ttl| format!("ttl {ttl}")));
    if !check.args.is_empty() {
        words.push(check.args.join("|"));
    }
    words.extend(check.docker_container_id.as_ref().map(|_| "in the container".to_owned()));
    words.extend(check.method.clone());
    words.extend(check.interval.as_ref().map(|interval| format!("every {interval}")));
    words.extend(check.timeout.as_ref().map(|timeout| format!("timeout {timeout}")));
    words.extend(check.status.map(|status| status.to_string()));
    words.extend(
        check.deregister_critical_service_after.as_ref().map(|after| format!("gone after {after}")),
    );
    words.join(" ")
}

#[track_caller]
fn check(json: Value, settings: &Settings, expected: &[&str]) -> Plan {
    let plan = plan(&container(json), None, settings);
    assert_eq!(lines(&plan), expected, "warnings {:?}, remarks {:?}", plan.warnings, plan.remarks);
    plan
}

#[test]
fn the_recorded_container_becomes_a_service() {
    let mut settings = settings();
    settings.address.mode = Mode::Internal;
    let web = container(recorded());
    assert_eq!(web.stop_signal, 3);
    assert_eq!(web.started_at, 1_714_558_830_123_456_789);
    assert_eq!(web.health, Some(DockerHealth::Starting));
    let plan = plan(&web, None, &settings);
    assert_eq!(plan.warnings, Vec::<String>::new());
    insta::assert_json_snapshot!(plan.services[0].definition);
}

#[test]
fn names_ids_and_ports() {
    let one = ["80=8080"];
    let two = ["80=8080", "443=8443"];
    let rows: &[(&[&str], &[&str], &[&str])] = &[
        // (ports, keys, services)
        (&one, &[], &["host1:shop-web-1:80 web :8080"]),
        (&two, &[], &["host1:shop-web-1:80 web-80 :8080", "host1:shop-web-1:443 web-443 :8443"]),
        // Counted after SERVICE_IGNORE: one live port keeps its plain name.
        (&two, &["SERVICE_443_IGNORE=1"], &["host1:shop-web-1:80 web :8080"]),
        (&two, &["SERVICE_400-500_IGNORE=yes"], &["host1:shop-web-1:80 web :8080"]),
        (&two, &["SERVICE_IGNORE=true"], &[]),
        (&two, &["SERVICE_IGNORE=1", "SERVICE_80_IGNORE="], &["host1:shop-web-1:80 web :8080"]),
        // A port that is not published does not count either.
        (&["80=8080", "443"], &[], &["host1:shop-web-1:80 web :8080"]),
        (&["80"], &[], &[]),
        (&[], &[], &[]),
        (&one, &["SERVICE_NAME=shop"], &["host1:shop-web-1:80 shop :8080"]),
        (&one, &["SERVICE_NAME="], &["host1:shop-web-1:80 web :8080"]),
        (&one, &["E:SERVICE_NAME=a", "SERVICE_NAME=b"], &["host1:shop-web-1:80 b :8080"]),
        (&one, &["E:SERVICE_80_NAME=a", "SERVICE_NAME=b"], &["host1:shop-web-1:80 a :8080"]),
        (
            &two,
            &["SERVICE_NAME=shop", "SERVICE_443_NAME=tls"],
            &["host1:shop-web-1:80 shop-80 :8080", "host1:shop-web-1:443 tls :8443"],
        ),
        (
            &["53=53", "53/udp=53"],
            &["SERVICE_NAME=dns"],
            &["host1:shop-web-1:53 dns-53 :53", "host1:shop-web-1:53:udp dns-53 :53 #udp"],
        ),
        // One id for two protocols of a port.
        (
            &["53=53", "53/udp=53"],
            &["SERVICE_53_ID=dns", "SERVICE_53_NAME=dns"],
            &["dns dns :53", "dns:udp dns :53 #udp"],
        ),
        (
            &two,
            &["SERVICE_80_ID=x", "SERVICE_443_ID=x"],
            &["x web-80 :8080", "x:443 web-443 :8443"],
        ),
        (&one, &["SERVICE_ID=my-web"], &["my-web web :8080"]),
        (&two, &["SERVICE_ID=my-web"], &["my-web:80 web-80 :8080", "my-web:443 web-443 :8443"]),
        (
            &two,
            &["SERVICE_ID=my-web", "SERVICE_443_ID=tls"],
            &["my-web:80 web-80 :8080", "tls web-443 :8443"],
        ),
        (&one, &["SERVICE_TAGS=a,b\\,c,,d,a"], &["host1:shop-web-1:80 web :8080 #a #b,c #d"]),
        (&one, &["SERVICE_TAGS=[\"x,y\",\"z\"]"], &["host1:shop-web-1:80 web :8080 #x,y #z"]),
        (
            &one,
            &["SERVICE_PORT=9999", "SERVICE_IP=192.0.2.9"],
            &["host1:shop-web-1:80 web 192.0.2.9:9999"],
        ),
        // Anything else is Meta; a bare number is a key like any other.
        (
            &one,
            &["E:SERVICE_TEAM=shop", "SERVICE_80_Rack=r1", "SERVICE_443_X=no", "SERVICE_8=y"],
            &["host1:shop-web-1:80 web :8080 8=y rack=r1 team=shop"],
        ),
    ];
    for (ports, keys, expected) in rows {
        check(with(ports, keys), &settings(), expected);
    }
}

#[test]
fn names_come_from_the_image_where_it_has_one() {
    let name = "shop-web-1";
    for (image, expected) in [
        ("web", "web"),
        ("web:1.2", "web"),
        ("registry.example:5000/team/web", "web"),
        ("registry.example:5000/team/web:1.2@sha256:0a1b", "web"),
        ("team/web@sha256:0a1b", "web"),
        ("sha256:0a1b2c3d4e5f", name),
        ("0a1b2c3d4e5f", name),
        ("cafe", "cafe"),
        ("", name),
    ] {
        let mut json = with(&["80=8080"], &[]);
        json["Config"]["Image"] = json!(image);
        check(json, &settings(), &[&format!("host1:shop-web-1:80 {expected} :8080")]);
    }
    let task = with(&["80=8080"], &["com.docker.swarm.service.name=shop_web"]);
    check(task, &settings(), &["host1:shop-web-1:80 shop_web :8080"]);
}

#[test]
fn flags_bend_names_tags_and_choice() {
    let two = || with(&["80=8080", "443=8443"], &["SERVICE_443_NAME=tls", "tier=front"]);
    let always = Settings { name_suffix: NameSuffix::Always, ..settings() };
    check(with(&["80=8080"], &[]), &always, &["host1:shop-web-1:80 web-80 :8080"]);
    let never = Settings { name_suffix: NameSuffix::Never, ..settings() };
    check(two(), &never, &["host1:shop-web-1:80 web :8080", "host1:shop-web-1:443 tls :8443"]);
    let explicit = Settings { explicit: true, ..settings() };
    check(two(), &explicit, &["host1:shop-web-1:443 tls :8443"]);
    let tagged = Settings {
        tags: vec!["dc1".to_owned(), "a".to_owned()],
        service_prefix: "x-".to_owned(),
        ..settings()
    };
    let json = with(&["80=8080"], &["SERVICE_TAGS=a,b"]);
    check(json, &tagged, &["host1:shop-web-1:80 x-web :8080 #a #b #dc1"]);
    for (filter, expected) in
        [("label=tier", 2), ("label=tier=front", 2), ("label=tier=back", 0), ("label=other", 0)]
    {
        let filters = vec![Filter::parse(filter).expect("a filter")];
        let plan = plan(&container(two()), None, &Settings { filters, ..settings() });
        assert_eq!(plan.services.len(), expected, "{filter}");
    }
    assert_eq!(Filter::parse("tier=front"), None);
    assert_eq!(Filter::parse("label="), None);
}

#[test]
fn addresses() {
    let internal = |ports: &[&str], keys: &[&str]| {
        let mut keys = keys.to_vec();
        keys.push("SERVICE_ADDRESS_MODE=internal");
        with(ports, &keys)
    };
    check(internal(&["80"], &[]), &settings(), &["host1:shop-web-1:80 web 172.21.0.5:80"]);
    check(internal(&["80=8080"], &[]), &settings(), &["host1:shop-web-1:80 web 172.21.0.5:80"]);
    // Nothing declared: the keys say which port it is.
    check(
        internal(&[], &["SERVICE_9090_NAME=m"]),
        &settings(),
        &["host1:shop-web-1:9090 m 172.21.0.5:9090"],
    );
    check(
        internal(&[], &["SERVICE_PORT=9090"]),
        &settings(),
        &["host1:shop-web-1:9090 web 172.21.0.5:9090"],
    );
    let plan = check(internal(&["80"], &["SERVICE_NETWORK=other"]), &settings(), &[]);
    assert_eq!(
        plan.warnings,
        ["port 80/tcp: not registered: the container is not attached to network `other`"]
    );

    let host_ip = Settings {
        address: address::Settings {
            host_ip: "192.0.2.1".parse().ok(),
            ip_label: Some("public.ip".to_owned()),
            ..address::Settings::default()
        },
        ..settings()
    };
    check(with(&["80=8080"], &[]), &host_ip, &["host1:shop-web-1:80 web 192.0.2.1:8080"]);
    check(
        with(&["80=8080"], &["public.ip=198.51.100.4/24"]),
        &host_ip,
        &["host1:shop-web-1:80 web 198.51.100.4:8080"],
    );

    for bad in ["127.0.0.1", "0.0.0.0", "nonsense", "::1", "224.0.0.1"] {
        let json = with(&["80=8080"], &[&format!("SERVICE_IP={bad}")]);
        let plan = check(json, &settings(), &["host1:shop-web-1:80 web :8080"]);
        assert_eq!(plan.warnings.len(), 1, "{bad}");
    }

    let mut loopback = with(&["80=8080"], &[]);
    loopback["NetworkSettings"]["Ports"]["80/tcp"][0]["HostIp"] = json!("127.0.0.1");
    let plan = check(loopback, &settings(), &[]);
    assert_eq!(plan.warnings.len(), 1);

    let mut six = internal(&["80"], &["SERVICE_CHECK_TCP=1"]);
    six["NetworkSettings"]["Networks"]["shop_mesh"]["GlobalIPv6Address"] = json!("fd00::5");
    let mut v6 = settings();
    v6.address.family = Family::V6;
    check(six.clone(), &v6, &["host1:shop-web-1:80 web fd00::5:80 [tcp [fd00::5]:80 every 10s]"]);
    v6.address.family = Family::Dual;
    let plan = plan::plan(&container(six), None, &v6);
    let tagged: Vec<String> = plan.services[0]
        .definition
        .tagged_addresses
        .iter()
        .map(|(name, at)| format!("{name} {}:{}", at.address, at.port))
        .collect();
    assert_eq!(tagged, ["lan_ipv4 172.21.0.5:80", "lan_ipv6 fd00::5:80"]);
}

#[test]
fn a_port_of_one_family_needs_an_address_of_that_family() {
    let only_v6 = |keys: &[&str]| {
        let mut json = with(&["80=8080"], keys);
        let ports = json.pointer_mut("/NetworkSettings/Ports").expect("ports");
        *ports = json!({ "80/tcp": [{ "HostIp": "::", "HostPort": "8080" }] });
        json
    };
    let mut settings = settings();
    settings.agent_host = Some("192.0.2.10".to_owned());
    let plan = check(only_v6(&[]), &settings, &[]);
    assert_eq!(
        plan.warnings,
        ["port 80/tcp: not registered: it is published for IPv6 only, and no IPv6 address of the \
         host is known: give one with --ip or SERVICE_IP"]
    );
    let named = ["host1:shop-web-1:80 web 2001:db8::9:8080"];
    check(only_v6(&["SERVICE_IP=2001:db8::9"]), &settings, &named);
    settings.address.host_ip = "2001:db8::9".parse().ok();
    check(only_v6(&[]), &settings, &named);
    settings.address.host_ip = None;
    settings.agent_host = Some("2001:db8::10".to_owned());
    check(only_v6(&[]), &settings, &["host1:shop-web-1:80 web :8080"]);
}

#[test]
fn network_modes() {
    let mut host = with(&["80"], &[]);
    host["HostConfig"]["NetworkMode"] = json!("host");
    host["NetworkSettings"]["Networks"] = json!({ "host": { "IPAddress": "" } });
    host["NetworkSettings"]["Ports"] = json!({});
    check(host, &settings(), &["host1:shop-web-1:80 web :80"]);

    let mut none = with(&["80"], &["SERVICE_ADDRESS_MODE=internal"]);
    none["HostConfig"]["NetworkMode"] = json!("none");
    none["NetworkSettings"]["Networks"] = json!({ "none": { "IPAddress": "" } });
    check(none, &settings(), &[]);

    let owner = container(with(&["80=8080"], &[]));
    let mut guest = plain();
    guest["Id"] = json!("beef".repeat(16));
    guest["Name"] = json!("/sidecar");
    guest["HostConfig"]["NetworkMode"] = json!(format!("container:{}", owner.id));
    guest["NetworkSettings"]["Networks"] = json!({});
    let mut guest = container(guest);
    assert_eq!(guest.network_mode, NetworkMode::Container(owner.id.clone()));
    let mut settings = settings();
    // It only shares the network, and asks for nothing: it is not its owner's double.
    assert_eq!(lines(&plan(&guest, Some(&owner), &settings)), Vec::<String>::new());
    guest.labels.insert("SERVICE_NAME".to_owned(), "web".to_owned());
    assert_eq!(lines(&plan(&guest, Some(&owner), &settings)), ["host1:sidecar:80 web :8080"]);
    settings.address.mode = Mode::Internal;
    let internal = lines(&plan(&guest, Some(&owner), &settings));
    assert_eq!(internal, ["host1:sidecar:80 web 172.21.0.5:80"]);
    assert_eq!(lines(&plan(&guest, None, &settings)), Vec::<String>::new());
}

#[test]
fn checks_from_keys() {
    let id12 = "4f1c0e6a8a3b";
    let rows: &[(&[&str], &str)] = &[
        (&["CHECK_HTTP=/health"], "[http://172.21.0.5:80/health every 10s]"),
        (&["CHECK_HTTP=health"], "[http://172.21.0.5:80/health every 10s]"),
        (
            &["CHECK_HTTPS=/", "CHECK_HTTPS_METHOD=head", "CHECK_TIMEOUT=1s"],
            "[https://172.21.0.5:80/ HEAD every 10s timeout 1s]",
        ),
        (
            &["CHECK_TCP=true", "CHECK_INTERVAL=1m30s", "CHECK_INITIAL_STATUS=passing"],
            "[tcp 172.21.0.5:80 every 1m30s passing]",
        ),
        (&["CHECK_TCP=false"], ""),
        (&["CHECK_TCP=1", "CHECK_PORT=81"], "[tcp 172.21.0.5:81 every 10s]"),
        (&["CHECK_GRPC=true"], "[grpc 172.21.0.5:80 every 10s]"),
        (&["CHECK_GRPC=my.Service"], "[grpc 172.21.0.5:80/my.Service every 10s]"),
        (&["CHECK_TTL=30s", "CHECK_DEREGISTER_AFTER=10m"], "[ttl 30s gone after 10m0s]"),
        (
            &["CHECK_SCRIPT=ping $SERVICE_IP:$SERVICE_PORT"],
            "[/bin/sh|-c|ping 172.21.0.5:80 every 10s]",
        ),
        (&["CHECK_CMD=/check.sh"], &format!("[check-cmd|{id12}|80|/check.sh every 10s]")),
        (&["CHECK_DOCKER=true"], "[/bin/sh|-c|true in the container every 10s]"),
        (
            &["CHECK_HTTP=/a", "CHECK_2_TCP=1", "CHECK_2_INTERVAL=5s"],
            "[http://172.21.0.5:80/a every 10s] [tcp 172.21.0.5:80 every 5s]",
        ),
        // The first kind counts; the other one is reported.
        (&["CHECK_HTTP=/a", "CHECK_TCP=1"], "[http://172.21.0.5:80/a every 10s]"),
        // Bad values fall back to the default.
        (&["CHECK_TCP=1", "CHECK_INTERVAL=soon"], "[tcp 172.21.0.5:80 every 10s]"),
        (&["CHECK_TCP=1", "CHECK_INTERVAL=0s"], "[tcp 172.21.0.5:80 every 10s]"),
        (&["CHECK_TCP=1", "CHECK_INITIAL_STATUS=fine"], "[tcp 172.21.0.5:80 every 10s]"),
        (&["CHECK_TCP=1", "CHECK_PORT=99999"], "[tcp 172.21.0.5:80 every 10s]"),
        (&["CHECK_TTL=soon"], ""),
    ];
    for (keys, expected) in rows {
        let keys: Vec<String> = keys.iter().map(|key| format!("SERVICE_{key}")).collect();
        let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        keys.push("SERVICE_ADDRESS_MODE=internal");
        let line = format!("host1:shop-web-1:80 web 172.21.0.5:80 {expected}");
        check(with(&["80"], &keys), &settings(), &[line.trim_end()]);
    }
}

#[test]
fn checks_over_tcp_are_not_asked_of_udp_ports() {
    for (key, udp) in [
        ("SERVICE_CHECK_TCP=1", ""),
        ("SERVICE_CHECK_HTTP=/", ""),
        ("SERVICE_CHECK_TTL=9s", " [ttl 9s]"),
        ("SERVICE_53_CHECK_TCP=1", " [tcp 127.0.0.1:53 every 10s]"),
    ] {
        let line = format!("host1:shop-web-1:53:udp web :53 #udp{udp}");
        check(with(&["53/udp=53"], &[key]), &settings(), &[&line]);
    }
}

#[test]
fn faults_are_named_and_the_container_still_registers() {
    let long = "x".repeat(513);
    let long_key = format!("SERVICE_{}=1", "K".repeat(129));
    let long_value = format!("SERVICE_LONG={long}");
    let rows: &[(&[&str], &str)] = &[
        (
            &["SERVICE_foo.bar=x"],
            "port 80/tcp: `SERVICE_FOO.BAR` is dropped: only letters, digits, `-` and `_` are allowed in its name",
        ),
        (
            &[&long_value],
            "port 80/tcp: `SERVICE_LONG` is dropped: its value is longer than 512 characters",
        ),
        (
            &["SERVICE_consul-x=1"],
            "port 80/tcp: `SERVICE_CONSUL-X` is dropped: its prefix is reserved",
        ),
        (
            &["SERVICE_MUSTER-REGISTRATOR=me"],
            "port 80/tcp: `SERVICE_MUSTER-REGISTRATOR` is dropped: its prefix is reserved",
        ),
        (
            &["SERVICE_WEIGHT=0"],
            "port 80/tcp: `SERVICE_WEIGHT`: `0` is not a weight from 1 to 65535; ignored",
        ),
        (
            &["SERVICE_WEIGHT_WARNING=-1"],
            "port 80/tcp: `SERVICE_WEIGHT_WARNING`: `-1` is not a weight from 0 to 65535; ignored",
        ),
        (&["SERVICE_PORT=http"], "port 80/tcp: `SERVICE_PORT`: `http` is not a port; ignored"),
        (
            &["SERVICE_DRAIN=long"],
            "port 80/tcp: `SERVICE_DRAIN`: `long` is not a duration such as 5s; ignored",
        ),
        (
            &["SERVICE_DEREGISTER=maybe"],
            "`SERVICE_DEREGISTER`: `maybe` is not always, on-success or never",
        ),
        (
            &["SERVICE_ADDRESS_MODE=any"],
            "port 80/tcp: `SERVICE_ADDRESS_MODE`: `any` is not published, internal or auto",
        ),
        (
            &["SERVICE_ENABLE_TAG_OVERRIDE=perhaps"],
            "port 80/tcp: `SERVICE_ENABLE_TAG_OVERRIDE`: `perhaps` is not a yes or no; ignored",
        ),
        (
            &["SERVICE_Name=web", "SERVICE_NAME=web"],
            "`SERVICE_NAME` and `SERVICE_Name` are the same key: `SERVICE_NAME` is used",
        ),
    ];
    for (keys, warning) in rows {
        let plan = check(with(&["80=8080"], keys), &settings(), &["host1:shop-web-1:80 web :8080"]);
        assert_eq!(plan.warnings, [*warning]);
    }
    let plan =
        check(with(&["80=8080"], &[&long_key]), &settings(), &["host1:shop-web-1:80 web :8080"]);
    assert!(plan.warnings[0].ends_with("its name is longer than 128 characters"));

    // A fault in a key for all ports is named once.
    let plan = plan::plan(
        &container(with(&["80=8080", "81=8081"], &["SERVICE_a.b=x"])),
        None,
        &settings(),
    );
    assert_eq!((plan.services.len(), plan.warnings.len()), (2, 1));

    // With too many pairs, the last by name are dropped and there is room for the marks.
    let keys: Vec<String> = (0..70).map(|n| format!("SERVICE_K{n:02}=v")).collect();
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keys.push("SERVICE_CHECK_TCP=1");
    let plan = plan::plan(&container(with(&["80=8080"], &keys)), None, &settings());
    let meta = &plan.services[0].definition.meta;
    assert_eq!(meta.len(), 64);
    assert!(meta.contains_key("k60") && !meta.contains_key("k61"));
    assert_eq!(plan.warnings.len(), 9);
}

#[test]
fn weights_override_and_drain_are_read() {
    let keys = ["SERVICE_WEIGHT=10", "SERVICE_ENABLE_TAG_OVERRIDE=true", "SERVICE_DRAIN=5"];
    let plan = plan(&container(with(&["80=8080"], &keys)), None, &settings());
    let wanted = &plan.services[0];
    let weights = wanted.definition.weights.expect("weights");
    assert_eq!((weights.passing, weights.warning), (10, 1));
    assert!(wanted.definition.enable_tag_override);
    assert_eq!(wanted.drain, Some(Duration::from_secs(5)));
}

#[test]
fn docker_health_becomes_a_ttl_check() {
    let health = |status: &str, keys: &[&str]| {
        let mut json = with(&["80=8080"], keys);
        json["State"]["Health"] = json!({ "Status": status, "FailingStreak": 0, "Log": [] });
        json
    };
    let line = |status: &str| format!("host1:shop-web-1:80 web :8080 [ttl 1m0s {status}]");
    for (status, keys, expected) in [
        ("starting", &[][..], "critical"),
        ("starting", &["SERVICE_CHECK_INITIAL_STATUS=passing"], "passing"),
        ("healthy", &[], "passing"),
        ("unhealthy", &["SERVICE_CHECK_INITIAL_STATUS=passing"], "critical"),
    ] {
        let plan = check(health(status, keys), &settings(), &[&line(expected)]);
        let beat = plan.services[0].beat.as_ref().expect("a beat");
        assert_eq!(beat.check_id, "service:host1:shop-web-1:80:docker");
        assert_eq!(beat.status.as_str(), expected);
        assert_eq!(beat.output, format!("Docker says: {status}"));
    }
    let off = ["SERVICE_CHECK_DOCKER_HEALTH=false"];
    check(health("healthy", &off), &settings(), &["host1:shop-web-1:80 web :8080"]);

    // Declared but without a verdict yet.
    let mut declared = with(&["80=8080"], &[]);
    declared["Config"]["Healthcheck"] = json!({ "Test": ["CMD", "true"] });
    check(declared.clone(), &settings(), &[&line("critical")]);
    declared["Config"]["Healthcheck"] = json!({ "Test": ["NONE"] });
    check(declared, &settings(), &["host1:shop-web-1:80 web :8080"]);

    // The verdict is no part of the fingerprint, the lifetime is.
    let print = |json: Value, settings: &Settings| {
        plan(&container(json), None, settings).services[0].definition.meta[META_CHECKS].clone()
    };
    let longer = Settings { health_ttl: Duration::from_secs(90), ..settings() };
    let starting = print(health("starting", &[]), &settings());
    assert_eq!(starting, print(health("healthy", &[]), &settings()));
    assert_ne!(starting, print(health("starting", &[]), &longer));
}

#[test]
fn paused_and_ended_containers() {
    let mut json = with(&["80=8080"], &[]);
    json["State"]["Paused"] = json!(true);
    json["State"]["Status"] = json!("paused");
    check(json.clone(), &settings(), &[]);
    json["State"]["Health"] = json!({ "Status": "healthy" });
    let plan = check(json, &settings(), &["host1:shop-web-1:80 web :8080 [ttl 1m0s critical]"]);
    assert_eq!(plan.services[0].beat.as_ref().expect("beat").output, "the container is paused");

    for (state, run) in [
        (json!({ "Status": "exited", "Running": false, "ExitCode": 3 }), Run::Exited(3)),
        (json!({ "Status": "created", "Running": false }), Run::Exited(0)),
        (
            json!({ "Status": "restarting", "Running": true, "Restarting": true, "ExitCode": 1 }),
            Run::Exited(1),
        ),
    ] {
        let mut json = with(&["80=8080"], &[]);
        json["State"] = state;
        assert_eq!(container(json.clone()).run, run);
        check(json, &settings(), &[]);
    }
}

#[test]
fn a_heartbeat_is_added_where_docker_gives_no_verdict() {
    let settings = Settings { heartbeat: Some(Duration::from_secs(30)), ..settings() };
    let plan = check(
        with(&["80=8080"], &[]),
        &settings,
        &["host1:shop-web-1:80 web :8080 [ttl 30s passing]"],
    );
    let beat = plan.services[0].beat.as_ref().expect("a beat");
    assert_eq!(beat.check_id, "service:host1:shop-web-1:80:registrator");
}

#[test]
fn the_same_container_always_gives_the_same_plan() {
    let keys = ["SERVICE_a=1", "SERVICE_B=2", "E:SERVICE_A=3", "SERVICE_CHECK_TCP=1"];
    let json = with(&["80=8080", "81=8081", "53/udp=53"], &keys);
    let first = plan(&container(json.clone()), None, &settings());
    for _ in 0..20 {
        // Labels and ports pass through hash maps with random order on the way.
        assert_eq!(plan(&container(json.clone()), None, &settings()), first);
    }
}

#[test]
fn odd_answers_do_not_panic() {
    let empty = serde_json::from_value(json!({})).expect("an inspection");
    assert_eq!(Container::from_inspect(empty), None);
    let bare = container(json!({ "Id": "x" }));
    assert_eq!(bare.short_id(), "x");
    assert_eq!(bare.labels, BTreeMap::new());
    assert!(plan(&bare, None, &settings()).services.is_empty());
}
