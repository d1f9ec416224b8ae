//! muster-registrator: arguments in, exit code out.
fn main() {}
