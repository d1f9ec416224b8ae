//! Checks when much happens at once, or the same again and again.

use super::*;
use crate::checks::FlapLimit;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_of_a_thousand_checks_changes_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let checks: Vec<_> = (0..1000)
        .map(|n| match n % 2 {
            0 => json!({"name": format!("c{n}"), "ttl": "1h"}),
            _ => json!({"name": format!("c{n}"), "tcp": target, "interval": "2s"}),
        })
        .collect();
    let agent = agent(Settings { checks: checks.clone(), ..settings(None) }).await;
    for n in (0..1000).step_by(2) {
        agent.local.update_ttl(&format!("c{n}"), Status::Passing, "fine").await.unwrap();
    }
    let passing = |_: &[String], checks: &[String]| {
        checks.len() == 1000 && checks.iter().all(|check| check.ends_with("=passing"))
    };
    agent.until(passing).await;
    let (index, before) = (agent.consensus.store().index(), agent.local.checks());
    for _ in 0..3 {
        agent
            .local
            .reload(&[], &checks, &Authorities::default(), &std::collections::BTreeMap::new())
            .await
            .unwrap();
        // Longer than the pause between two comparisons with the catalog.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(agent.consensus.store().index(), index, "nothing was written");
    let after = agent.local.checks();
    assert!(before.iter().all(|(id, check)| after[id].same(check)), "nothing changed");
    assert_eq!(agent.local.check_counts(), (500, 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_flaps_is_held_back() {
    let flap_limit = FlapLimit { changes_max: 2, window: Duration::from_hours(1) };
    let agent = agent(Settings {
        check_flap_limit: Some(flap_limit),
        checks: vec![json!({"name": "web", "ttl": "1h"})],
        ..settings(None)
    })
    .await;
    for (status, shown) in [
        (Status::Passing, "web=passing"),
        (Status::Critical, "web=critical"),
        (Status::Passing, "web=critical"),
        (Status::Warning, "web=critical"),
    ] {
        agent.local.update_ttl("web", status, "said").await.unwrap();
        agent.until(|_, checks| checks == [shown]).await;
    }
    // The words of the last report are written, too.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !agent.local.is_synced() {
        assert!(tokio::time::Instant::now() < deadline, "never synced");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let output = agent.local.check("web").unwrap().output.clone();
    assert_eq!(output, "Flapping: critical until it has been better for 1h0m0s.\nsaid");
    let index = agent.consensus.store().index();
    for _ in 0..20 {
        agent.local.update_ttl("web", Status::Passing, "said").await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(agent.consensus.store().index(), index, "the catalog is left alone");
}
