//! Typed, asynchronous client of the Muster and Consul HTTP API.
//!
//! ```no_run
//! # async fn example() -> Result<(), muster_client::Error> {
//! use muster_client::{Client, Query, ReadOptions, ServiceQuery, Update, WatchSettings};
//!
//! let client = Client::from_env()?;
//! let web = client.health().service("web", &ServiceQuery::passing(), &ReadOptions::default()).await?;
//! println!("{} instances at index {}", web.value.len(), web.meta.index);
//!
//! let mut watch = client.watch(Query::Key { path: "greeting".into() }, WatchSettings::default());
//! while let Update::Value(answer, index) = watch.next().await {
//!     println!("{index}: {answer:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `types` | what travels: one Rust type for each JSON object |
//! | `connect` | where an agent is, and connections to it |
//! | `transport` | requests, bounds, errors |
//! | `token` | the token, read again when its file changes |
//! | `options` | how to read: consistency, blocking, filters |
//! | `calls` | one handle for each family of paths |
//! | `acl` | the same for access control |
//! | `rows` | lists: a row that makes no sense costs itself alone |
//! | `stream` | answers that go on |
//! | `gate` | the number of connections, which all clients of a process share |
//! | `watch` | following one question over time, or many on few connections |
//! | `lock` | at most one holder of a key, or at most so many |

mod acl;
mod calls;
mod connect;
mod gate;
mod lock;
mod options;
mod rows;
mod settings;
mod stream;
mod token;
mod transport;
pub mod types;
mod watch;

pub use acl::{Acl, AclObject};
pub use calls::{Agent, Catalog, Event, Health, Kv, PutOptions, Sessions, StatusApi};
pub use lock::{Held, LOCK_FLAGS, LockError, LockSettings, SEMAPHORE_FLAGS};
pub use options::{Consistency, Meta, ReadOptions, Response, ServiceQuery};
pub use rows::{OddRow, Read, Rows};
pub use settings::{Secret, Settings};
pub use stream::Pieces;
pub use transport::{Client, Error, Raw, chain};
pub use watch::{Answer, Query, SharedWatch, Update, Watch, WatchSet, WatchSettings};
