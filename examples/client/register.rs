//! A service that announces itself: registers, reports its health, and leaves when it is stopped.
//!
//! ```text
//! muster agent -dev &
//! cargo run -p muster-examples --example register -- hello 8080
//! muster watch -type=service -service=hello
//! ```
//!
//! The check is a time to live: the service says that it is well more often than that, so that a
//! process that hangs or is killed drops out by itself.

#![expect(clippy::print_stderr, reason = "a program for a terminal")]

use std::time::Duration;

use muster_client::types::{CheckDefinition, ServiceDefinition, Status};
use muster_client::{Client, Error};

/// Reports of health are good for this long.
const TTL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "hello".into());
    let port = args.next().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let agent = Client::from_env()?.agent();
    let id = format!("{name}-{port}");
    let definition = ServiceDefinition {
        id: Some(id.clone()),
        name,
        port,
        check: Some(CheckDefinition {
            name: "says that it is well".into(),
            ttl: Some(format!("{}s", TTL.as_secs())),
            // Should even the leaving go wrong: nobody keeps a dead instance for ever.
            deregister_critical_service_after: Some("10m".into()),
            ..CheckDefinition::default()
        }),
        ..ServiceDefinition::default()
    };
    agent.register_service(&definition, true).await?;
    eprintln!("{id} is registered; stop it with Ctrl-C");

    let check = format!("service:{id}");
    let mut beat = tokio::time::interval(TTL / 3);
    loop {
        tokio::select! {
            _ = beat.tick() => {
                match agent.update_ttl(&check, Status::Passing, "all is well").await {
                    Ok(()) => {}
                    // The agent answers but knows no such check: it started anew without us.
                    Err(Error::Status { .. }) => agent.register_service(&definition, true).await?,
                    Err(error) => eprintln!("not reported, trying again: {error}"),
                }
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    agent.deregister_service(&id).await?;
    eprintln!("{id} is gone");
    Ok(())
}
