//! Exchanges between a program and an agent, recorded once and played back: a command line can be held against the
//! reference's agent where there is none.
//!
//! Played back, an exchange is an expectation, too: path, token and body must be those of the recording.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A request and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// Number of the command line that it belongs to.
    pub(crate) row: usize,
    /// Method and path.
    request: String,
    token: String,
    body: String,
    status: String,
    index: String,
    answer: String,
}

impl Exchange {
    fn to_line(&self) -> String {
        json!([self.row, self.request, self.token, self.body, self.status, self.index, self.answer])
            .to_string()
    }
    fn parse(line: &str) -> Exchange {
        let fields: Vec<Value> = serde_json::from_str(line).unwrap();
        let text = |place: usize| fields[place].as_str().unwrap().to_owned();
        Exchange {
            row: usize::try_from(fields[0].as_u64().unwrap()).unwrap(),
            request: text(1),
            token: text(2),
            body: text(3),
            status: text(4),
            index: text(5),
            answer: text(6),
        }
    }
}

pub(crate) fn parse(text: &str) -> Vec<Exchange> {
    text.lines().map(Exchange::parse).collect()
}

pub(crate) fn print(exchanges: &[Exchange]) -> String {
    exchanges.iter().map(|exchange| exchange.to_line() + "\n").collect()
}

/// What stands between program and agent.
#[derive(Default)]
struct State {
    row: usize,
    /// Where to ask; empty: play back.
    agent: String,
    told: Vec<Exchange>,
    expected: VecDeque<Exchange>,
}

/// A server that records what an agent answers, or plays it back.
pub(crate) struct Middle {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

impl Middle {
    /// Asks an agent, and keeps what it says.
    pub(crate) fn recording(agent: &str) -> Middle {
        Middle::start(State { agent: agent.to_owned(), ..State::default() })
    }

    /// Says again what was recorded.
    pub(crate) fn playing(exchanges: Vec<Exchange>) -> Middle {
        Middle::start(State { expected: exchanges.into(), ..State::default() })
    }

    fn start(state: State) -> Middle {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(connection.unwrap(), &shared));
            }
        });
        Middle { address, state }
    }

    /// From here on requests belong to this command line. Returns what the last one did not ask.
    pub(crate) fn begin(&self, row: usize) -> Vec<String> {
        let mut state = self.state.lock().unwrap();
        state.row = row;
        let mut missing = Vec::new();
        while state.expected.front().is_some_and(|next| next.row < row) {
            missing.extend(state.expected.pop_front().map(|exchange| exchange.request));
        }
        missing
    }

    /// Everything that was recorded.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.state.lock().unwrap().told.clone()
    }
}

fn serve(mut connection: TcpStream, state: &Mutex<State>) {
    let Some((head, body)) = message(&mut connection) else { return };
    let request = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let token = header(&head, "x-consul-token");
    let mut state = state.lock().unwrap();
    let asked = Exchange {
        row: state.row,
        request,
        token,
        body,
        status: String::new(),
        index: String::new(),
        answer: String::new(),
    };
    let answered = if state.agent.is_empty() {
        play(&mut state, asked)
    } else {
        let answered = forward(&state.agent, asked);
        state.told.push(answered.clone());
        answered
    };
    let index = match answered.index.as_str() {
        "" => String::new(),
        index => format!("X-Consul-Index: {index}\r\n"),
    };
    let answer = format!(
        "HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n{index}\r\n{}",
        answered.status,
        answered.answer.len(),
        answered.answer
    );
    // A program may have ended meanwhile.
    let _ = connection.write_all(answer.as_bytes());
}

fn play(state: &mut State, asked: Exchange) -> Exchange {
    let due = state.expected.front().is_some_and(|next| next.row == asked.row);
    let next = if due { state.expected.pop_front() } else { None };
    match next {
        Some(next)
            if (&next.request, &next.token, &next.body)
                == (&asked.request, &asked.token, &asked.body) =>
        {
            next
        }
        other => Exchange {
            status: "500 Unexpected".to_owned(),
            answer: format!("asked {asked:?} instead of {other:?}"),
            ..asked
        },
    }
}

fn forward(agent: &str, asked: Exchange) -> Exchange {
    let mut connection = TcpStream::connect(agent).unwrap();
    let Exchange { request, token, body, .. } = &asked;
    // HTTP/1.0 has no chunks.
    let text = format!(
        "{request} HTTP/1.0\r\nX-Consul-Token: {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (_, status) = head.lines().next().unwrap().split_once(' ').unwrap();
    Exchange {
        status: status.to_owned(),
        index: header(head, "x-consul-index"),
        answer: body.to_owned(),
        ..asked
    }
}

/// Head and body of a request; `None` if the connection ends before.
fn message(connection: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length: usize = header(&head, "content-length").parse().unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                let body = String::from_utf8(bytes[end + 4..end + 4 + length].to_vec()).unwrap();
                return Some((head, body));
            }
        }
        match connection.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn header(head: &str, name: &str) -> String {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}
