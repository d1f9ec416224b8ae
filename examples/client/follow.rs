//! Prints the healthy instances of a service whenever they change.
//!
//! ```text
//! cargo run -p muster-examples --example follow -- web
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use muster_client::{Answer, Client, Error, Query, ServiceQuery, Update, WatchSettings};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "web".into());
    let query = Query::Service { name: name.clone(), query: ServiceQuery::passing() };
    let mut watch = Client::from_env()?.watch(query, WatchSettings::default());
    loop {
        match watch.next().await {
            Update::Value(Answer::Service(instances), index) => {
                println!("{name} at index {index}: {} healthy", instances.len());
                for entry in instances {
                    // An instance without an address of its own is reached at its node's.
                    let own = &entry.service.address;
                    let address = if own.is_empty() { &entry.node.address } else { own };
                    println!("  {address}:{} ({})", entry.service.port, entry.service.id);
                }
            }
            // A question about a service is answered with a service.
            Update::Value(..) => {}
            // What was known stays good until something newer is known.
            Update::Unreachable(error) if error.is_transient() => eprintln!("waiting: {error}"),
            Update::Unreachable(error) => return Err(error),
        }
    }
}
