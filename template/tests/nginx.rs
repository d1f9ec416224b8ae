//! The shipped proxy with the real nginx: what the catalog says is what nginx serves, and nothing else disturbs it.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use muster_testing::free_ports;
use nix::sys::signal::Signal;
use support::{
    Daemon, FakeCatalog, NGINX_WORKERS, eventually, instance, page, request, require_nginx,
    write_shipped,
};
use tokio_util::sync::CancellationToken;

/// The shipped files in a folder of their own, with paths and ports of their own.
struct Proxy {
    folder: tempfile::TempDir,
    catalog: FakeCatalog,
    daemon: Daemon,
    front: SocketAddr,
    status: SocketAddr,
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

impl Proxy {
    /// Writes the files and starts the daemon; does not wait for anything.
    async fn start() -> Self {
        require_nginx();
        let catalog = FakeCatalog::start().await;
        let folder = tempfile::tempdir().unwrap();
        let [front, version, status] = free_ports();
        write_shipped(folder.path(), front, version, status);
        let daemon = Self::daemon(&folder, &catalog);
        Self { folder, catalog, daemon, front: loopback(front), status: loopback(status) }
    }

    fn daemon(folder: &tempfile::TempDir, catalog: &FakeCatalog) -> Daemon {
        let config = folder.path().join("muster-template.toml").display().to_string();
        let state = folder.path().join("state").display().to_string();
        Daemon::start(folder.path(), catalog.address, &["-config", &config, "-state-dir", &state])
    }

    /// The distinct answers of many requests.
    async fn reached(&self, path: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for _ in 0..12 {
            match request(self.front, "GET", path, "").await {
                Ok((200, body)) => names.insert(body),
                Ok((status, _)) => names.insert(status.to_string()),
                Err(error) => names.insert(error),
            };
        }
        names
    }

    async fn reaches(&self, path: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
        let what = format!("{path} reaches {expected:?}");
        eventually(&what, async || (self.reached(path).await == expected).then_some(())).await;
    }

    async fn ready(&self) {
        eventually("the daemon is ready", async || page(self.status, "/readyz").await).await;
    }

    /// Waits until the workers of before the last reload are gone: one that was told to end may still accept one more
    /// connection before it hears of it.
    async fn settled(&self) {
        eventually("only the newest workers run", async || {
            let workers = muster_template::processes::children(self.nginx()?.as_raw());
            (workers.len() == NGINX_WORKERS).then_some(())
        })
        .await;
    }

    /// The running nginx.
    fn nginx(&self) -> Option<nix::unistd::Pid> {
        let pid = fs::read_to_string(self.folder.path().join("nginx.pid")).ok()?;
        Some(nix::unistd::Pid::from_raw(pid.trim().parse().ok()?))
    }

    /// Waits until another nginx serves than the one that was killed, whose workers must be gone then.
    async fn serves_again_after(&self, killed: nix::unistd::Pid) {
        eventually("another nginx serves", async || {
            let now = self.nginx().filter(|pid| *pid != killed)?;
            let workers = muster_template::processes::children(now.as_raw());
            (!workers.is_empty() && page(self.front, "/").await.as_deref() == Some("one"))
                .then_some(())
        })
        .await;
        let left = muster_template::processes::group(killed.as_raw());
        assert_eq!(left, [].into(), "its workers are gone");
    }

    async fn commits(&self) -> u64 {
        self.report().await["groups"]["nginx"]["counts"]["commits"].as_u64().unwrap_or_default()
    }

    async fn report(&self) -> serde_json::Value {
        let text = page(self.status, "/v1/templates").await.expect("the status answers");
        serde_json::from_str(&text).unwrap()
    }

    fn destination(&self) -> PathBuf {
        self.folder.path().join("conf.d/upstreams.conf")
    }

    fn template(&self) -> PathBuf {
        self.folder.path().join("upstreams.conf.tera")
    }
}

#[tokio::test]
async fn a_change_in_the_catalog_is_served() {
    let proxy = Proxy::start().await;
    let (one, two, api) = (instance("one").await, instance("two").await, instance("api").await);
    // Nobody is there yet: nginx runs and says so.
    proxy.reaches("/", &["503"]).await;
    proxy.ready().await;

    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.reaches("/", &["one"]).await;
    proxy.catalog.set_service("web", &[("web-1", one, "passing"), ("web-2", two, "passing")]);
    proxy.reaches("/", &["one", "two"]).await;
    proxy.catalog.set_service("api", &[("api-1", api, "passing")]);
    proxy.reaches("/api/", &["api"]).await;
    proxy.settled().await;
    let posted = request(proxy.front, "POST", "/api/x", "body").await;
    assert_eq!(posted, Ok((200, "api body".to_owned())));
    proxy.catalog.set_service("web", &[("web-1", one, "critical"), ("web-2", two, "passing")]);
    proxy.reaches("/", &["two"]).await;
    // What belonged to a service that is gone is not answered by another one.
    proxy.catalog.remove_service("api");
    proxy.reaches("/api/", &["503"]).await;
    proxy.reaches("/", &["two"]).await;
}

#[tokio::test]
async fn what_belonged_to_a_service_that_is_gone_stays_its_own_after_a_restart() {
    let mut proxy = Proxy::start().await;
    let (one, api) = (instance("one").await, instance("api").await);
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.catalog.set_service("api", &[("api-1", api, "passing")]);
    proxy.reaches("/api/", &["api"]).await;
    proxy.ready().await;
    proxy.daemon.signal(Signal::SIGTERM);
    assert_eq!(proxy.daemon.wait().await, Some(0), "{}", proxy.daemon.log());
    proxy.catalog.remove_service("api");
    proxy.daemon = Proxy::daemon(&proxy.folder, &proxy.catalog);
    proxy.reaches("/api/", &["503"]).await;
    proxy.reaches("/", &["one"]).await;
    eventually("nobody asks for its instances any more", async || {
        let asks = proxy.report().await["groups"]["nginx"]["asks"].to_string();
        (!asks.contains("service(api)")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_last_instance_that_is_gone_on_purpose_is_gone_at_once() {
    for drained in [true, false] {
        let proxy = Proxy::start().await;
        let one = instance("one").await;
        proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
        proxy.reaches("/", &["one"]).await;
        if drained {
            proxy.catalog.set_service("web", &[("_service_maintenance", one, "critical")]);
        } else {
            proxy.catalog.remove_service("web");
        }
        proxy.reaches("/", &["503"]).await;
        assert_eq!(proxy.report().await["groups"]["nginx"]["held"], serde_json::json!({}));
    }
}

#[tokio::test]
async fn equal_answers_cause_no_reload() {
    let proxy = Proxy::start().await;
    let one = instance("one").await;
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.reaches("/", &["one"]).await;
    proxy.ready().await;
    let commits = proxy.commits().await;
    // The index moves, the rows change (a service that is not shown, a check's order), the text does not.
    proxy.catalog.set_service("other", &[]);
    proxy.catalog.set_service("other", &[("other-1", one, "critical")]);
    eventually("the new service is asked for", async || {
        (proxy.catalog.asked("health/other") > 0).then_some(())
    })
    .await;
    proxy.ready().await;
    assert_eq!(proxy.commits().await, commits);
}

#[tokio::test]
async fn a_broken_template_keeps_the_last_good_file() {
    let proxy = Proxy::start().await;
    let (one, two) = (instance("one").await, instance("two").await);
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.reaches("/", &["one"]).await;
    proxy.settled().await;
    let good = fs::read_to_string(proxy.template()).unwrap();
    let served = fs::read_to_string(proxy.destination()).unwrap();
    let reason =
        async || proxy.report().await["groups"]["nginx"]["reason"].as_str().map(str::to_owned);
    let failed = async |part: &str| {
        let what = format!("the daemon complains about {part}");
        eventually(&what, async || reason().await.filter(|reason| reason.contains(part))).await;
        assert_eq!(fs::read_to_string(proxy.destination()).unwrap(), served);
        assert_eq!(proxy.reached("/").await, ["one".to_owned()].into());
        assert!(page(proxy.status, "/readyz").await.is_none(), "and is not ready");
    };

    // Does not parse; does not render; is not what nginx accepts.
    fs::write(proxy.template(), format!("{good}{{{{ nope() }}}}")).unwrap();
    failed("Unknown function `nope`").await;
    fs::write(proxy.template(), format!("{good}{{{{ undefined_name }}}}")).unwrap();
    failed("upstreams.conf.tera:").await;
    fs::write(proxy.template(), format!("{good}nonsense on;\n")).unwrap();
    failed("unknown directive \"nonsense\"").await;

    fs::write(proxy.template(), good).unwrap();
    proxy.ready().await;
    proxy.catalog.set_service("web", &[("web-2", two, "passing")]);
    proxy.reaches("/", &["two"]).await;
}

#[tokio::test]
async fn serving_goes_on_while_the_catalog_is_away() {
    let mut proxy = Proxy::start().await;
    let (one, two) = (instance("one").await, instance("two").await);
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.reaches("/", &["one"]).await;
    proxy.ready().await;
    proxy.settled().await;

    proxy.catalog.set_away(true);
    eventually("the daemon notices", async || {
        let (status, body) = request(proxy.status, "GET", "/readyz", "").await.ok()?;
        (status == 503 && body.contains("catalog is away")).then_some(())
    })
    .await;
    assert_eq!(proxy.reached("/").await, ["one".to_owned()].into());
    assert!(page(proxy.status, "/healthz").await.is_some(), "it is alive all the same");

    // Started again while the catalog is away and the file is lost: the last good one serves.
    proxy.daemon.signal(Signal::SIGTERM);
    assert_eq!(proxy.daemon.wait().await, Some(0), "{}", proxy.daemon.log());
    fs::remove_file(proxy.destination()).unwrap();
    proxy.daemon = Proxy::daemon(&proxy.folder, &proxy.catalog);
    proxy.reaches("/", &["one"]).await;

    proxy.catalog.set_service("web", &[("web-2", two, "passing")]);
    proxy.catalog.set_away(false);
    proxy.reaches("/", &["two"]).await;
    proxy.ready().await;
}

#[tokio::test]
async fn a_service_that_fails_keeps_what_was_served() {
    let proxy = Proxy::start().await;
    let one = instance("one").await;
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.reaches("/", &["one"]).await;
    proxy.settled().await;
    proxy.catalog.set_service("web", &[("web-1", one, "critical")]);
    eventually("the list is held back", async || {
        let held = proxy.report().await["groups"]["nginx"]["held"]["service(web)"].clone();
        (held == "empty").then_some(())
    })
    .await;
    assert_eq!(proxy.reached("/").await, ["one".to_owned()].into());
    let metrics = page(proxy.status, "/metrics").await.unwrap();
    assert!(
        metrics.contains(r#"muster_template_held_total{group="nginx",reason="empty"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn no_request_fails_while_an_instance_leaves() {
    let proxy = Proxy::start().await;
    let (one, two, three) = (instance("one").await, instance("two").await, instance("three").await);
    let all = [("web-1", one, "passing"), ("web-2", two, "passing"), ("web-3", three, "passing")];
    proxy.catalog.set_service("web", &all);
    proxy.reaches("/", &["one", "two", "three"]).await;
    let front = proxy.front;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let load = tokio::spawn(async move {
        let mut failures = Vec::new();
        let mut count = 0;
        while !stopped.is_cancelled() || count < 100 {
            for (method, body) in [("GET", ""), ("POST", "x")] {
                count += 1;
                match request(front, method, "/", body).await {
                    Ok((200, _)) => {}
                    other => failures.push(format!("{method} {other:?}")),
                }
            }
        }
        failures
    });
    for leave in [&all[..2], &all[..], &all[1..], &all[..]] {
        let before = proxy.commits().await;
        proxy.catalog.set_service("web", leave);
        eventually("the change is in use", async || (proxy.commits().await > before).then_some(()))
            .await;
        proxy.settled().await;
    }
    stop.cancel();
    assert_eq!(load.await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn nginx_is_started_again_when_it_dies() {
    let proxy = Proxy::start().await;
    let one = instance("one").await;
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.reaches("/", &["one"]).await;
    let pid = proxy.nginx().unwrap();
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    eventually("another nginx runs", async || proxy.nginx().filter(|now| *now != pid)).await;
    proxy.reaches("/", &["one"]).await;
}

/// A template that takes everything from the catalog: nginx refuses what the shipped one would have left out.
#[tokio::test]
async fn what_nginx_refuses_is_found_and_left_out_alone() {
    let proxy = Proxy::start().await;
    let (one, two, api) = (instance("one").await, instance("two").await, instance("api").await);
    let text = fs::read_to_string(proxy.template()).unwrap();
    let text = text
        .replace(r#" | where(attr="address", ip=true) | where(attr="port", gt=0, lt=65536)"#, "");
    fs::write(proxy.template(), text).unwrap();
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.catalog.set_service("api", &[("api-1", api, "passing")]);
    proxy.reaches("/api/", &["api"]).await;
    proxy.ready().await;

    let left_out = async || proxy.report().await["groups"]["nginx"]["left_out"].clone();
    // One instance of a service that is sound but for it, and a service that has no other.
    proxy.catalog.set_port("api", 70000);
    proxy.catalog.set_port("odd", 70001);
    eventually("both are named", async || {
        let left_out = left_out().await;
        let named: Vec<_> = left_out.as_object()?.keys().collect();
        (named == ["instance `api api-odd`", "instance `odd odd-odd`"]).then_some(())
    })
    .await;
    let why = left_out().await["instance `api api-odd`"].to_string();
    assert!(why.contains("invalid port in upstream") && why.contains("70000"), "{why}");
    proxy.ready().await;
    proxy.reaches("/api/", &["api"]).await;
    proxy.reaches("/odd/", &["503"]).await;
    // Everybody else goes on.
    proxy.catalog.set_service("web", &[("web-2", two, "passing")]);
    proxy.reaches("/", &["two"]).await;
    let metrics = page(proxy.status, "/metrics").await.unwrap();
    assert!(metrics.contains(r#"muster_template_left_out{group="nginx"} 2"#), "{metrics}");
    assert!(proxy.daemon.log().contains("left out"), "{}", proxy.daemon.log());

    // Sound again, it is taken back.
    proxy.catalog.set_service("odd", &[("odd-1", one, "passing")]);
    proxy.catalog.set_service("api", &[("api-1", api, "passing")]);
    proxy.reaches("/odd/", &["one"]).await;
    eventually("nothing is left out", async || {
        (left_out().await == serde_json::json!({})).then_some(())
    })
    .await;
    proxy.ready().await;
}

/// Its workers hold the ports, and nobody ends them.
#[tokio::test]
async fn a_killed_master_leaves_nothing_in_the_way_of_the_next() {
    let mut proxy = Proxy::start().await;
    let one = instance("one").await;
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.reaches("/", &["one"]).await;
    proxy.ready().await;
    let killed = proxy.nginx().unwrap();
    nix::sys::signal::kill(killed, Signal::SIGKILL).unwrap();
    let started = Instant::now();
    proxy.serves_again_after(killed).await;
    println!("nginx serves again {:?} after its master was killed", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());

    // The daemon first, then the master: the next daemon finds workers without a master.
    let killed = proxy.nginx().unwrap();
    proxy.daemon.kill().await;
    nix::sys::signal::kill(killed, Signal::SIGKILL).unwrap();
    proxy.daemon = Proxy::daemon(&proxy.folder, &proxy.catalog);
    proxy.serves_again_after(killed).await;
}

#[tokio::test]
async fn hup_reads_the_configuration_again_and_leaves_nginx_alone() {
    let proxy = Proxy::start().await;
    let one = instance("one").await;
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.reaches("/", &["one"]).await;
    let pid_file = proxy.folder.path().join("nginx.pid");
    let pid = fs::read_to_string(&pid_file).unwrap();
    let config = proxy.folder.path().join("muster-template.toml");
    let text = fs::read_to_string(&config).unwrap();

    fs::write(&config, format!("{text}\nnope = 1\n")).unwrap();
    proxy.daemon.signal(Signal::SIGHUP);
    eventually("the daemon refuses it", async || {
        proxy.daemon.log().contains("unknown field `nope`").then_some(())
    })
    .await;

    let extra = proxy.folder.path().join("extra.txt");
    let more = format!(
        "{text}\n[[group]]\nname = \"extra\"\n[[group.template]]\ncontents = '{{{{ service(name=\"web\") | length }}}}'\n\
         destination = \"{}\"\n",
        extra.display()
    );
    fs::write(&config, more).unwrap();
    proxy.daemon.signal(Signal::SIGHUP);
    let content =
        eventually("the new group is written", async || fs::read_to_string(&extra).ok()).await;
    assert_eq!(content, "1");
    assert_eq!(proxy.catalog.asked("health/web"), 1, "both groups share one watch");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid, "nginx is the same");
    proxy.reaches("/", &["one"]).await;
}

/// Not an assertion about speed, which a loaded machine would break; the figure is printed.
#[tokio::test]
async fn a_change_is_served_soon() {
    let proxy = Proxy::start().await;
    let (one, two) = (instance("one").await, instance("two").await);
    proxy.catalog.set_service("web", &[("web-1", one, "passing")]);
    proxy.reaches("/", &["one"]).await;
    proxy.ready().await;
    let mut took = Vec::new();
    for round in 0..20 {
        let (name, address) = if round % 2 == 0 { ("two", two) } else { ("one", one) };
        let started = Instant::now();
        proxy.catalog.set_service("web", &[("web-1", address, "passing")]);
        eventually("the change is served", async || {
            page(proxy.front, "/").await.filter(|body| body == name)
        })
        .await;
        took.push(started.elapsed());
    }
    took.sort();
    println!("catalog change to served: median {:?}, p95 {:?}", took[10], took[18]);
    println!("{}", page(proxy.status, "/metrics").await.unwrap());
    assert!(took[10] < Duration::from_secs(5), "{took:?}");
}
