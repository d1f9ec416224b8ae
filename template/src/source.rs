//! Where answers come from: the catalog over HTTP, and files of this machine.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use muster_client::{
    self as client, Answer, Client, Secret, Settings, Update, WatchSet, WatchSettings,
};
use tera::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::answers::{self, Order};
use crate::config;
use crate::facts::{Query, Scope};
use crate::file_events::{FileEvents, Followed};
use crate::watches::{Catalog, News};

/// The pauses between attempts to reach a catalog that is away. Short enough that the daemon is up to date soon after
/// it is back; jittered by the client, so that many daemons do not come back at once.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);

/// The largest file that a template may read.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A catalog reached over its HTTP API.
pub struct HttpCatalog {
    /// All questions share a few connections: one each would take those of every other program of this host.
    questions: WatchSet,
    settings: config::Catalog,
    events: FileEvents,
}

impl HttpCatalog {
    /// A catalog as `settings` describe it; what they leave open is read from the environment.
    ///
    /// # Errors
    /// An address or a token file that cannot be used.
    pub fn new(settings: &config::Catalog, events: FileEvents) -> Result<Self, client::Error> {
        let mut reach = Settings::from_env()?;
        if let Some(address) = &settings.address {
            reach.address.clone_from(address);
        }
        match &settings.token {
            None => {}
            Some(config::Token::Text(token)) => reach.token = Some(token.clone()),
            Some(config::Token::File(path)) => reach.token = Secret::from_file(path)?,
        }
        let questions = Client::new(reach)?.watch_set();
        Ok(Self { questions, settings: settings.clone(), events })
    }

    fn watch_settings(&self, scope: &Scope) -> WatchSettings {
        WatchSettings {
            wait: self.settings.wait,
            consistency: match self.settings.consistency {
                config::Consistency::Default => client::Consistency::Default,
                config::Consistency::Stale => client::Consistency::Stale,
                config::Consistency::Consistent => client::Consistency::Consistent,
            },
            datacenter: scope.dc.clone().or_else(|| self.settings.datacenter.clone()),
            near: scope.near.clone(),
            filter: scope.filter.clone(),
            backoff_min: BACKOFF_MIN,
            backoff_max: BACKOFF_MAX,
        }
    }
}

impl Catalog for HttpCatalog {
    fn watch(&self, query: Query, news: mpsc::Sender<(Query, News)>) -> JoinHandle<()> {
        let (question, scope) = match &query {
            Query::Service { name, scope } => {
                let query = client::ServiceQuery::default();
                (client::Query::Service { name: name.clone(), query }, scope.clone())
            }
            Query::Services { scope } => (client::Query::Services, scope.clone()),
            Query::Nodes { scope } => (client::Query::Nodes, scope.clone()),
            Query::Node { name, scope } => {
                (client::Query::Node { name: name.clone() }, scope.clone())
            }
            Query::Key { path, scope } => {
                (client::Query::Key { path: path.clone() }, scope.clone())
            }
            Query::KeyPrefix { prefix, scope } => {
                (client::Query::KeyPrefix { prefix: prefix.clone() }, scope.clone())
            }
            Query::Datacenters => (client::Query::Datacenters, Scope::default()),
            Query::File { path } => {
                return watch_file(path.into(), query, news, self.events.follow());
            }
        };
        let filtered = scope.filter.is_some();
        let order = if scope.near.is_some() { Order::AsAnswered } else { Order::ById };
        let mut watch = self.questions.watch(question, self.watch_settings(&scope));
        tokio::spawn(async move {
            loop {
                let heard = match watch.next().await {
                    Update::Value(answer, _) => News::Answer(shown(answer, order)),
                    Update::Unreachable(error) if is_refusal(&error, filtered) => {
                        News::Refused(error.explained())
                    }
                    Update::Unreachable(error) => News::Unreachable(error.explained()),
                };
                if news.send((query.clone(), heard)).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// How servers begin to say that a filter is none. They answer it with 500, as a read that failed.
const NO_FILTER: &str = "Failed to create boolean expression evaluator";

/// How servers say, with 500 too, that nobody has heard of the datacenter that is asked.
const NO_DATACENTER: &str = "No path to datacenter";

/// Whether an answer says no: then the catalog is there, and the question is wrong. A redirection is such an answer,
/// too: servers send one for a path that they would write otherwise. That there are too many requests is not.
fn is_refusal(error: &client::Error, filtered: bool) -> bool {
    let client::Error::Status { code, text } = error else { return false };
    if *code == StatusCode::TOO_MANY_REQUESTS || *code == StatusCode::REQUEST_TIMEOUT {
        return false;
    }
    let no_filter = filtered && text.contains(NO_FILTER);
    code.is_client_error() || code.is_redirection() || no_filter || text.contains(NO_DATACENTER)
}

fn shown(answer: Answer, order: Order) -> Value {
    match answer {
        Answer::Service(entries) => answers::instances(entries, order),
        Answer::Services(services) => answers::services(services),
        Answer::Nodes(nodes) => answers::nodes(nodes, order),
        Answer::Node(node) => answers::node_with_services(node),
        Answer::Key(pair) => answers::key(pair),
        Answer::KeyPrefix(pairs) => answers::pairs(pairs),
        Answer::Datacenters(names) => answers::datacenters(names),
        // Nothing asks this here.
        Answer::Checks(_) | Answer::Path(_) => Value::none(),
    }
}

/// Follows a file that a template reads.
fn watch_file(
    path: PathBuf,
    query: Query,
    news: mpsc::Sender<(Query, News)>,
    followed: Followed,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        followed.set([path.clone()]);
        let mut last = None;
        loop {
            let now = read_file(&path).await;
            if last.as_ref() != Some(&now) {
                if news.send((query.clone(), now.clone())).await.is_err() {
                    return;
                }
                last = Some(now);
            }
            followed.changed().await;
        }
    })
}

async fn read_file(path: &PathBuf) -> News {
    let refused = |why: String| News::Refused(format!("`{}`: {why}", path.display()));
    match tokio::fs::metadata(path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return News::Answer(Value::none());
        }
        Err(error) => return refused(error.to_string()),
        Ok(metadata) if !metadata.is_file() => return refused("is not a file".to_owned()),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return refused(format!("is larger than {FILE_BYTES_MAX} bytes"));
        }
        Ok(_) => {}
    }
    match tokio::fs::read_to_string(path).await {
        Ok(text) => News::Answer(Value::from(text)),
        Err(error) => refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_an_absent_catalog() {
        for (code, text, filtered, expected) in [
            (400, "Bad request", false, true),
            (403, "Permission denied", false, true),
            (301, "", false, true),
            (429, "too many connections", false, false),
            (500, "No cluster leader", true, false),
            (500, "Failed to create boolean expression evaluator: 1:5 (4): no match", true, true),
            (500, "Failed to create boolean expression evaluator", false, false),
            (500, "No path to datacenter", false, true),
            (500, "Remote DC has no server currently reachable", false, false),
            (503, "starting", true, false),
        ] {
            let code = StatusCode::from_u16(code).unwrap();
            let error = client::Error::Status { code, text: text.into() };
            assert_eq!(is_refusal(&error, filtered), expected, "{code} {text}");
        }
    }
}
