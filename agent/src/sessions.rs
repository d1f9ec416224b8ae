//! The leader's timers of session lifetimes.
