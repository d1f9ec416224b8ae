//! What is checked: an HTTP server that answers each visit as the test says, and only when it says so.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::process::DEADLINE;

/// What is known of one path.
#[derive(Default)]
struct Place {
    /// Visits that came.
    came: usize,
    /// Answers for the next visits, one for each.
    next: VecDeque<u16>,
    /// Given to every visit when there is no such answer.
    always: Option<u16>,
}

#[derive(Default)]
struct Places {
    places: Mutex<HashMap<String, Place>>,
    changed: Condvar,
}

/// Serves as long as the test's process.
#[derive(Clone)]
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    places: Arc<Places>,
}

impl Stub {
    pub(crate) fn start() -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stub = Stub { address: listener.local_addr().unwrap(), places: Arc::default() };
        let places = Arc::clone(&stub.places);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let places = Arc::clone(&places);
                std::thread::spawn(move || places.serve(stream));
            }
        });
        stub
    }

    /// How often a path was visited.
    pub(crate) fn visits(&self, name: &str) -> usize {
        self.places.places.lock().unwrap().get(name).map_or(0, |place| place.came)
    }

    /// Every visit is answered so from now on.
    pub(crate) fn always(&self, name: &str, code: u16) {
        let mut places = self.places.places.lock().unwrap();
        places.entry(name.to_owned()).or_default().always = Some(code);
        self.places.changed.notify_all();
    }

    /// Answers one visit, and waits until the one after it has come: then the agent knows what to make of the answer.
    pub(crate) fn answer_one(&self, name: &str, code: u16) {
        let places = self.places.places.lock().unwrap();
        let waits = |places: &mut HashMap<String, Place>, came: usize| {
            places.get(name).is_none_or(|place| place.came < came)
        };
        let (mut places, late) =
            self.places.changed.wait_timeout_while(places, DEADLINE, |it| waits(it, 1)).unwrap();
        assert!(!late.timed_out(), "no visit at {name}");
        let place = places.get_mut(name).unwrap();
        let came = place.came;
        place.next.push_back(code);
        self.places.changed.notify_all();
        let (_places, late) = self
            .places
            .changed
            .wait_timeout_while(places, DEADLINE, |it| waits(it, came + 1))
            .unwrap();
        assert!(!late.timed_out(), "no second visit at {name}");
    }
}

impl Places {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() {
            return;
        }
        let name = line.split(['/', ' ']).nth(2).unwrap_or_default().to_owned();
        while reader.read_line(&mut line).is_ok_and(|count| count > 2) {}
        let code = {
            let mut places = self.places.lock().unwrap();
            places.entry(name.clone()).or_default().came += 1;
            self.changed.notify_all();
            let silent = |places: &mut HashMap<String, Place>| {
                places.get(&name).is_some_and(|it| it.next.is_empty() && it.always.is_none())
            };
            let (mut places, _) =
                self.changed.wait_timeout_while(places, DEADLINE * 2, silent).unwrap();
            let place = places.get_mut(&name).unwrap();
            let Some(code) = place.next.pop_front().or(place.always) else { return };
            code
        };
        let reason = match code {
            200 => "OK",
            429 => "Too Many Requests",
            _ => "Internal Server Error",
        };
        let body = format!("{name} {code}");
        let _ = write!(
            reader.get_mut(),
            "HTTP/1.1 {code} {reason}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
}
