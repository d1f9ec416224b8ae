//! Leader election: of all copies of this program, one at a time leads.
//!
//! Start it in two terminals, then stop the one that leads:
//!
//! ```text
//! cargo run -p muster-examples --example leader -- jobs/leader
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::process::ExitCode;

use muster_client::{Client, LockSettings};

#[tokio::main]
async fn main() -> ExitCode {
    let key = std::env::args().nth(1).unwrap_or_else(|| "jobs/leader".into());
    match campaign(&key).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn campaign(key: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    loop {
        eprintln!("waiting for {key}");
        let settings = LockSettings {
            // For whoever wants to know who leads: `muster kv get jobs/leader`.
            value: format!("process {}", std::process::id()).into(),
            ..LockSettings::new(key)
        };
        let mut held = tokio::select! {
            held = client.lock(settings) => held?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        // The fence goes with everything that a leader writes elsewhere: whoever receives it
        // refuses a smaller one, and with it a leader who has not noticed yet that he is none.
        println!("leading, fence {}", held.fence());
        tokio::select! {
            () = held.lost() => println!("no longer leading"),
            _ = tokio::signal::ctrl_c() => {
                held.release().await?;
                println!("handed over");
                return Ok(());
            }
        }
    }
}
