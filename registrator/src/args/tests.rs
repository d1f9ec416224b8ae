//! Flags of today and of the old registrator.

use super::*;
use crate::address::Mode;
use crate::plan::Deregister;
use crate::reconcile::{OnExit, Policy};

fn read(args: &[&str]) -> Args {
    let mut all = vec!["muster-registrator"];
    all.extend(args);
    Args::try_read(&all).expect("good arguments")
}

#[test]
fn flags_of_the_old_registrator_are_understood_in_any_order() {
    let rows: [&[&str]; 3] = [
        &[
            "-internal",
            "-explicit=true",
            "-resync",
            "30",
            "-ip=192.0.2.7",
            "-tags",
            "a,b",
            "-deregister=on-success",
            "-ttl",
            "60",
            "-ttl-refresh",
            "20",
            "-cleanup",
            "-useIpFromLabel",
            "ip",
            "-retry-interval",
            "2000",
            "-retry-attempts",
            "-1",
            "consul://localhost:8500",
        ],
        &[
            "consul://localhost:8500",
            "--internal",
            "--explicit",
            "--resync=30",
            "--ip",
            "192.0.2.7",
            "--tags=a,b",
            "--deregister",
            "on-success",
            "--ttl=60",
            "--ttl-refresh=20",
            "--cleanup=true",
            "--use-ip-from-label=ip",
            "--retry-interval=2s",
            "--retry-attempts=-1",
        ],
        &[
            "--internal",
            "consul://localhost:8500",
            "-explicit",
            "-resync",
            "30s",
            "-ip",
            "192.0.2.7",
            "-tags=a,b",
            "-deregister",
            "on-success",
            "-ttl=1m",
            "-ttl-refresh=20s",
            "-useIpFromLabel=ip",
            "-retry-interval=2s",
        ],
    ];
    for args in rows {
        let args = read(args);
        let plan = args.plan_settings().expect("plan");
        assert_eq!(plan.address.mode, Mode::Internal);
        assert_eq!(plan.address.host_ip, "192.0.2.7".parse().ok());
        assert_eq!(plan.address.ip_label.as_deref(), Some("ip"));
        assert!(plan.explicit);
        assert_eq!(plan.tags, ["a", "b"]);
        assert_eq!(plan.heartbeat, Some(Duration::from_mins(1)));
        let policy = args.policy().expect("policy");
        assert_eq!(policy.deregister, Deregister::OnSuccess);
        assert_eq!(policy.resync, Duration::from_secs(30));
        assert_eq!(policy.beat_every, Duration::from_secs(20));
        assert_eq!(policy.retry_interval, Duration::from_secs(2));
        assert_eq!(args.attempts_max(), None);
        assert_eq!(args.catalog.as_deref(), Some("consul://localhost:8500"));
    }
}

#[test]
fn defaults_are_the_documented_ones() {
    let args = read(&[]);
    let plan = args.plan_settings().expect("plan");
    assert_eq!(plan.address.mode, Mode::Published);
    assert_eq!(plan.address.host_ip, None);
    assert!(!plan.explicit && plan.tags.is_empty() && plan.heartbeat.is_none());
    let policy = args.policy().expect("policy");
    let expected = Policy::default();
    assert_eq!(format!("{policy:?}"), format!("{expected:?}"));
    assert_eq!(args.on_exit(), OnExit::Keep);
    let switched_off = read(&["-internal=false", "-explicit=false"]);
    let plan = switched_off.plan_settings().expect("plan");
    assert!(plan.address.mode == Mode::Published && !plan.explicit);
}
