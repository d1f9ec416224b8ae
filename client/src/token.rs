//! The token of a client. One that came from a file is read again when the file changes, so that tokens can be replaced
//! while programs run.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::Secret;

/// How often it is looked whether the file has changed: with a request at the earliest, never without one.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// By what a changed file is known: time, length and inode, for tools replace files.
type Stamp = (Option<SystemTime>, u64, u64);

/// The token that requests carry now.
#[derive(Debug)]
pub(crate) struct Token {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    token: Option<Secret>,
    stamp: Option<Stamp>,
    look_at: Instant,
    /// Counts the changes.
    edition: u64,
    /// Why the file could not be read when it was read last.
    unread: Option<String>,
}

impl Token {
    pub(crate) fn new(token: Option<Secret>) -> Token {
        let look_at = Instant::now() + LOOK_EVERY;
        // A file that changed since it was read is found at the next look.
        Token { state: Mutex::new(State { token, stamp: None, look_at, edition: 0, unread: None }) }
    }

    /// Whether the token may change.
    pub(crate) fn may_change(&self) -> bool {
        self.state().token.as_ref().is_some_and(|token| token.file().is_some())
    }

    /// The token, and how often it has changed.
    pub(crate) fn current(&self) -> (Option<Secret>, u64) {
        let mut state = self.state();
        let now = Instant::now();
        if now >= state.look_at {
            state.look_at = now + LOOK_EVERY;
            state.look();
        }
        (state.token.clone(), state.edition)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reads the file again if it is another one than before. While it cannot be read, the last token stays in use.
    fn look(&mut self) {
        let Some(path) = self.token.as_ref().and_then(Secret::file).map(Path::to_path_buf) else {
            return;
        };
        let stamp = fs::metadata(&path).ok().map(|it| (it.modified().ok(), it.len(), it.ino()));
        if stamp.is_some() && stamp == self.stamp {
            return;
        }
        let unread = match Secret::from_file(&path) {
            Ok(Some(token)) => {
                self.stamp = stamp;
                if self.token.as_ref().map(Secret::expose) != Some(token.expose()) {
                    tracing::info!(file = %path.display(), "the token has changed");
                    self.token = Some(token);
                    self.edition += 1;
                }
                None
            }
            Ok(None) => Some("it is empty".to_owned()),
            Err(error) => Some(crate::chain(&error)),
        };
        if let Some(why) = unread.as_ref().filter(|why| self.unread.as_ref() != Some(why)) {
            tracing::warn!(file = %path.display(), "the token stays as it is: {why}");
        }
        self.unread = unread;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks although the time for it has not come.
    fn looked(token: &Token) -> (String, u64) {
        token.state().look_at = Instant::now();
        let (secret, edition) = token.current();
        (secret.map(|it| it.expose().to_owned()).unwrap_or_default(), edition)
    }

    #[test]
    fn a_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let write = |text: &str| {
            let beside = folder.path().join("new");
            fs::write(&beside, text).expect("written");
            fs::rename(&beside, &path).expect("renamed");
        };
        write("one\n");
        let token = Token::new(Secret::from_file(&path).expect("read"));
        assert!(token.may_change());
        assert_eq!(looked(&token), ("one".to_owned(), 0));
        write("  two\n");
        assert_eq!(looked(&token), ("two".to_owned(), 1));
        write("two");
        assert_eq!(looked(&token), ("two".to_owned(), 1), "the same token in another file");
        for unusable in ["", " \n"] {
            write(unusable);
            assert_eq!(looked(&token), ("two".to_owned(), 1));
        }
        fs::remove_file(&path).expect("removed");
        assert_eq!(looked(&token), ("two".to_owned(), 1));
        write("three");
        assert_eq!(looked(&token), ("three".to_owned(), 2));
        assert!(!format!("{token:?}").contains("three"));
    }

    #[test]
    fn a_token_without_a_file_stays() {
        let token = Token::new(Some(Secret::new("fixed")));
        assert!(!token.may_change());
        assert_eq!(looked(&token), ("fixed".to_owned(), 0));
    }
}
