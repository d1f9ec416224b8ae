//! The side that answers.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{READ_BYTES, WINDOW};
use super::draining::{self, Counted};
use super::frame::{FRAME_BYTES_MAX, Frame, Outgoing, VERSION, WITHOUT_LIMIT};
use super::handlers::{Answer, Caller, Gone, Handler, Handlers, Sender};
use super::outbox::{Outbox, write_all};
use super::pool::Socket;
use super::quota::{Entered, Held};
use super::{Class, Method, Reason, Refusal};
use crate::net::Full;
use crate::telemetry::Seldom;
use crate::telemetry::metrics::names;

/// First byte of the greeting: welcome, or too many connections.
pub(super) const WELCOME: u8 = b'M';
pub(super) const FULL: u8 = b'F';

/// Callers ping every few seconds. One that is silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// After an error of `accept`: out of file descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// End of a connection that was idle while others found no place.
const GAVE_WAY: &str = "it was idle, and others needed its place";

/// Deadline of a call that has none.
const FAR_AWAY: Duration = Duration::from_hours(24 * 365);

/// Large enough to be counted before it arrives.
const LARGE_FRAME: usize = 32 << 10;

/// Answers on a port until `stop`.
pub async fn serve(listener: TcpListener, handlers: Handlers, stop: CancellationToken) {
    let handlers = handlers.of_one_port();
    let mut connections = JoinSet::new();
    let draining = Arc::clone(handlers.draining());
    // Until the end others may connect: a new leader has to tell this server what became of its changes.
    let over = async {
        stop.cancelled().await;
        draining.leave();
        draining.finished().await;
    };
    tokio::pin!(over);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut over => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                static NOT_ACCEPTED: Seldom = Seldom::new();
                if let Some(times) = NOT_ACCEPTED.due() {
                    tracing::warn!(times, "cannot accept a connection: {error}");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        names::RPC_ACCEPT.add();
        connections.spawn(serve_one(Socket::tcp(stream), peer, handlers.clone(), stop.clone()));
    }
    let all = async { while connections.join_next().await.is_some() {} };
    // Those that are left have had their time.
    let _ = tokio::time::timeout(draining::CLOSING_MAX, all).await;
    connections.shutdown().await;
}

/// Answers on one connection until it ends or `stop`.
pub async fn serve_one(
    mut socket: Socket,
    peer: SocketAddr,
    handlers: Handlers,
    stop: CancellationToken,
) {
    let entered = match handlers.enter(peer.ip()) {
        Ok(entered) => Arc::new(entered),
        Err(full) => {
            log_full(peer, full);
            let _ = socket.writer.write_all(&[FULL, VERSION]).await;
            return;
        }
    };
    let class = tokio::select! {
        class = greeted(&mut socket, &handlers) => class,
        () = entered.ended() => Err(GAVE_WAY.to_owned()),
    };
    let class = match class {
        Ok(class) => class,
        Err(why) => return tracing::debug!(%peer, "{why}"),
    };
    entered.waits();
    let Socket { reader, mut writer } = socket;
    let (outbox, mut queue) = Outbox::of(class, Some(Arc::clone(&entered)));
    let calls = Calls { handlers, peer, class, entered, outbox, running: Arc::default() };
    let mut reader = BufReader::with_capacity(READ_BYTES, reader);
    let reading = async {
        loop {
            let frame = next_frame(&mut reader, &calls.entered);
            let (frame, held) = match tokio::time::timeout(SILENCE_MAX, frame).await {
                Ok(Ok(Some(frame))) => frame,
                Ok(Ok(None)) => return "closed by the caller".to_owned(),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("no whole frame within {SILENCE_MAX:?}"),
            };
            let Some(frame) = Frame::parse(frame) else {
                return "a malformed frame".to_owned();
            };
            // Whoever does not read its answers makes no more of them: no turn is free as long as they wait for room,
            // and for that they need nothing that is read here.
            if matches!(frame, Frame::Request { .. }) && calls.outbox.turn().await.is_err() {
                return "the connection has ended".to_owned();
            }
            if let Err(why) = calls.take(frame) {
                return why.to_owned();
            }
            drop(held);
        }
    };
    let draining = Arc::clone(calls.handlers.draining());
    let leaving = async {
        stop.cancelled().await;
        draining.leave();
        if !draining::goes_on(class) {
            calls.outbox.send_small(Outgoing::leaving());
        }
        draining.finished().await;
    };
    let why = tokio::select! {
        why = reading => why,
        written = write_all(&mut queue, &mut writer) => format!("{written:?}"),
        why = calls.outbox.overflown() => why.to_owned(),
        () = calls.entered.ended() => GAVE_WAY.to_owned(),
        () = leaving => "this agent stops".to_owned(),
    };
    tracing::debug!(%peer, ?class, "connection ended: {why}");
    calls.outbox.close();
}

/// The class of a new connection, once it has been welcomed, or why it is none.
async fn greeted(socket: &mut Socket, handlers: &Handlers) -> Result<Class, String> {
    let hello = async {
        let mut preface = [0; 2];
        socket.reader.read_exact(&mut preface).await?;
        let known = Class::from_byte(preface[0]).filter(|_| preface[1] >= 1);
        if known.is_some() {
            socket.writer.write_all(&[WELCOME, VERSION]).await?;
            socket.writer.flush().await?;
        }
        io::Result::Ok(known)
    };
    match tokio::time::timeout(handlers.limits().handshake, hello).await {
        Ok(Ok(Some(class))) => Ok(class),
        Ok(Ok(None)) => Err("a connection of no known class".to_owned()),
        Ok(Err(error)) => Err(format!("a connection broke at once: {error}")),
        Err(_) => Err("a connection did not say what it is".to_owned()),
    }
}

/// The next frame, in memory of its own: a call that is parked for minutes keeps its own bytes, not those around them.
/// A large one is counted before its first byte is kept.
async fn next_frame(
    reader: &mut (impl AsyncRead + Unpin),
    entered: &Entered,
) -> io::Result<Option<(BytesMut, Option<Held>)>> {
    let mut length = [0; 4];
    if let Err(error) = reader.read_exact(&mut length).await {
        let ended = error.kind() == io::ErrorKind::UnexpectedEof;
        return if ended { Ok(None) } else { Err(error) };
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        let text = format!("a frame of {length} bytes exceeds the limit of {FRAME_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let held = if length > LARGE_FRAME { entered.arriving(length).await } else { None };
    let mut frame = BytesMut::zeroed(length);
    reader.read_exact(&mut frame).await?;
    Ok(Some((frame, held)))
}

/// Calls of one connection that run here. They end with it, however it ends.
struct Calls {
    handlers: Handlers,
    peer: SocketAddr,
    class: Class,
    entered: Arc<Entered>,
    outbox: Outbox,
    running: Arc<Mutex<HashMap<u32, Running>>>,
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.stop_all();
    }
}

#[derive(Default)]
struct Running {
    /// There from the moment that the call has its own task.
    task: Option<AbortHandle>,
    credit: Option<Arc<Semaphore>>,
    /// Its caller has given up and waits for no answer.
    cancelled: bool,
}

fn lock(running: &Mutex<HashMap<u32, Running>>) -> MutexGuard<'_, HashMap<u32, Running>> {
    running.lock()
}

impl Calls {
    fn take(&self, frame: Frame) -> Result<(), &'static str> {
        {
            let running = lock(&self.running);
            if running.is_empty() {
                self.entered.waits();
            }
        }
        match frame {
            Frame::Request { id, method, within, body } => self.begin(id, method, within, body),
            Frame::Cancel { id } => {
                // The task's `Ending` removes the entry.
                let task = lock(&self.running).get_mut(&id).and_then(|call| {
                    call.cancelled = true;
                    call.task.take()
                });
                if let Some(task) = task {
                    task.abort();
                }
                Ok(())
            }
            Frame::Credit { id, parts } => {
                if let Some(Running { credit: Some(credit), .. }) = lock(&self.running).get(&id) {
                    if credit.available_permits() + parts as usize > WINDOW as usize {
                        return Err("more credit than the window holds");
                    }
                    credit.add_permits(parts as usize);
                }
                Ok(())
            }
            Frame::Ping => {
                self.outbox.send_small(Outgoing::pong());
                Ok(())
            }
            Frame::Pong | Frame::Leaving | Frame::Unknown => Ok(()),
            Frame::Answer { .. }
            | Frame::Part { .. }
            | Frame::End { .. }
            | Frame::Refused { .. } => Err("an answer without a question"),
        }
    }

    fn begin(&self, id: u32, method: u16, within: u32, body: Bytes) -> Result<(), &'static str> {
        names::RPC_REQUEST.add();
        let refuse = |reason, text: String| {
            self.outbox.send_small(Outgoing::refused(id, &Refusal { reason, text }));
            Ok(())
        };
        // Each kind of traffic keeps to connections of its own: what holds for one is not passed by on another.
        let known = Method::from_number(method).filter(|it| it.class() == self.class);
        let Some((known, handler)) = known.and_then(|it| Some((it, self.handlers.get(it)?))) else {
            let text = format!("this agent does not answer method {method}");
            return refuse(Reason::UnknownMethod, text);
        };
        let counted = if draining::goes_on(known.class()) {
            None
        } else if let Some(counted) = self.handlers.draining().begin() {
            Some(counted)
        } else {
            return refuse(Reason::Busy, "this agent goes away".to_owned());
        };
        let Some(held) = self.entered.call(body.len()) else {
            return refuse(Reason::Busy, "too much is in flight for this address".to_owned());
        };
        let credit =
            matches!(handler, Handler::Many(_)).then(|| Arc::new(Semaphore::new(WINDOW as usize)));
        {
            let mut running = lock(&self.running);
            if running.contains_key(&id) {
                return Err("an id that is still in use");
            }
            let max = self.handlers.limits().calls_per_connection;
            if running.len() >= max {
                return refuse(Reason::Busy, format!("{max} calls are in flight already"));
            }
            self.entered.works();
            running.insert(id, Running { credit: credit.clone(), ..Running::default() });
        }
        let within =
            if within == WITHOUT_LIMIT { FAR_AWAY } else { Duration::from_millis(within.into()) };
        let caller = Caller { peer: self.peer, deadline: Instant::now() + within };
        let ending = Ending {
            id,
            running: Arc::clone(&self.running),
            outbox: self.outbox.clone(),
            answered: false,
            peer: self.peer,
            method: known,
            entered: Arc::clone(&self.entered),
            _held: held,
            _counted: counted,
        };
        let call = self.call(id, handler, caller, credit, body);
        let mut call: BoxFuture<'static, ()> = Box::pin(run(call, caller.deadline, ending));
        // Begun here, so that calls begin in order; what is answered at once costs no task.
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if call.as_mut().poll(&mut context).is_pending() {
            let mut running = lock(&self.running);
            let task = tokio::spawn(call).abort_handle();
            if let Some(entry) = running.get_mut(&id) {
                entry.task = Some(task);
            }
        }
        Ok(())
    }

    fn call(
        &self,
        id: u32,
        handler: Handler,
        caller: Caller,
        credit: Option<Arc<Semaphore>>,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Answer, Refusal>> {
        match handler {
            Handler::Once(handler) => handler(body, caller, self.outbox.clone()),
            Handler::Many(handler) => {
                let credit = credit.unwrap_or_else(|| Arc::new(Semaphore::new(0)));
                let outbox = self.outbox.clone();
                let parts = handler(body, caller, Sender { id, outbox: outbox.clone(), credit });
                Box::pin(async move {
                    parts.await?;
                    let turn = outbox.turn().await.map_err(|_| Refusal::failed(Gone))?;
                    Ok((Outgoing::end(id), turn))
                })
            }
        }
    }

    fn stop_all(&self) {
        let running = std::mem::take(&mut *lock(&self.running));
        for task in running.into_values().filter_map(|call| call.task) {
            task.abort();
        }
    }
}

async fn run(
    call: BoxFuture<'static, Result<Answer, Refusal>>,
    deadline: Instant,
    mut ending: Ending,
) {
    let refused = |refusal: &Refusal| (Outgoing::refused(ending.id, refusal), None);
    let (answer, _turn) = match tokio::time::timeout_at(deadline, call).await {
        Ok(Ok((answer, turn))) => (answer.finish(ending.id), Some(turn)),
        Ok(Err(refusal)) => {
            if refusal.reason == Reason::Malformed {
                log_malformed(ending.peer, ending.method, &refusal);
            }
            refused(&refusal)
        }
        // The caller has given up at the same moment.
        Err(_) => refused(&Refusal::failed("no answer in time")),
    };
    ending.answered = true;
    // A closed connection needs no answer.
    let _ = ending.outbox.send(answer).await;
}

/// Logs refused connections, now and then: whoever opens many does not stop at one.
fn log_full(peer: SocketAddr, full: Full) {
    static OF_ADDRESS: Seldom = Seldom::new();
    static OF_ALL: Seldom = Seldom::new();
    match full {
        Full::Source => {
            if let Some(times) = OF_ADDRESS.due() {
                tracing::warn!(%peer, times, "connections were refused: too many from one address");
            }
        }
        Full::Total => {
            if let Some(times) = OF_ALL.due() {
                tracing::warn!(%peer, times, "connections were refused: too many from all addresses");
            }
        }
    }
}

/// Logs calls that make no sense, now and then: a broken peer repeats itself.
fn log_malformed(peer: SocketAddr, method: Method, refusal: &Refusal) {
    static MALFORMED: Seldom = Seldom::new();
    if let Some(times) = MALFORMED.due() {
        tracing::warn!(%peer, times, "{}", malformed(method, refusal));
    }
}

fn malformed(method: Method, refusal: &Refusal) -> String {
    format!("a call of `{method}` was refused, for it makes no sense: {refusal}")
}

/// Forgets a call at its end, and answers for a handler that did not get to it.
struct Ending {
    id: u32,
    running: Arc<Mutex<HashMap<u32, Running>>>,
    outbox: Outbox,
    answered: bool,
    peer: SocketAddr,
    method: Method,
    entered: Arc<Entered>,
    /// Its share of what the peer's address may have in flight.
    _held: Held,
    /// Dropped last: the answer is queued by then.
    _counted: Option<Counted>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let cancelled = {
            let mut running = lock(&self.running);
            let cancelled = running.remove(&self.id).is_none_or(|call| call.cancelled);
            if running.is_empty() {
                self.entered.waits();
            }
            cancelled
        };
        if !self.answered && !cancelled {
            let refusal = Refusal::failed("the call was ended before its answer");
            self.outbox.send_small(Outgoing::refused(self.id, &refusal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_malformed_call_is_told_with_its_method_and_the_reason() {
        let handlers = Handlers::new();
        let Some(Handler::Once(ping)) = handlers.get(Method::Ping) else { panic!("no handler") };
        let caller = Caller { peer: ([127, 0, 0, 1], 1).into(), deadline: Instant::now() };
        let rows: [(&[u8], &str); 3] = [
            (b"", "its body of 0 bytes cannot be read: it ends too early"),
            (b"\xa5ab", "its body of 3 bytes cannot be read: "),
            (b"\x05", "its body of 1 bytes cannot be read: "),
        ];
        for (body, reason) in rows {
            let answer = ping(Bytes::from_static(body), caller, Outbox::new().0).await;
            let Err(refusal) = answer else { panic!("{body:?} is taken") };
            let line = malformed(Method::Ping, &refusal);
            let start = format!("a call of `ping` was refused, for it makes no sense: {reason}");
            assert!(line.starts_with(&start), "{body:?}: {line}");
            assert!(!line.contains("Refusal") && !line.contains("marker"), "{body:?}: {line}");
        }
    }
}
