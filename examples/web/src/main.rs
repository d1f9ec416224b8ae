//! A small web server that answers with its host name.
fn main() {}
