//! What systemd is told: ready, reloading, stopping, and again and again that the agent is alive.
//! Without systemd nobody is told anything.

use std::time::Duration;

use sd_notify::NotifyState;

/// The agent serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; `ready` ends this.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell systemd of a reload"),
    }
}

/// The agent is on its way out.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often systemd wants to hear that the agent is alive, if it does: twice as often as it asks.
pub(super) fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    // Of another process: its children inherit the variables.
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    let every = Duration::from_micros(number("WATCHDOG_USEC")?) / 2;
    (!every.is_zero()).then_some(every)
}

/// The agent is alive: whoever calls this could do its work.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    // The socket stays in the environment: children get a cleaned one.
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}
