//! Feeds anything to every parser: see `README.md`.

/// Runs the parser of this name on these bytes. Panics where the parser does.
pub fn run(target: &str, bytes: &[u8]) {
    let run = muster_agent::fuzzing::target(target);
    run.unwrap_or_else(|| panic!("there is no parser `{target}`"))(bytes);
}
