//! muster-template: arguments in, exit code out.
fn main() {}
