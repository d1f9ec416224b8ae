//! The side that answers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::connection::{READ_BYTES, WINDOW};
use super::frame::{Frame, Outgoing, VERSION, WITHOUT_LIMIT, codec};
use super::handlers::{Caller, Handler, Handlers, Sender};
use super::outbox::{Outbox, write_all};
use super::pool::Socket;
use super::{Class, Method, Reason, Refusal};
use crate::telemetry::figures::names;

/// First byte of the greeting: welcome, or too many connections.
pub(super) const WELCOME: u8 = b'M';
pub(super) const FULL: u8 = b'F';

/// Callers ping every few seconds. One that is silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// After an error of `accept`: out of file descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What a call without a limit gets.
const FAR_AWAY: Duration = Duration::from_hours(24 * 365);

/// Answers on a port until `stop`.
pub async fn serve(listener: TcpListener, handlers: Handlers, stop: CancellationToken) {
    let clients = Arc::new(Clients::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        names::RPC_ACCEPT.add();
        let place = clients.enter(peer.ip(), handlers.limits().connections_per_client);
        let (handlers, stop) = (handlers.clone(), stop.clone());
        connections.spawn(async move {
            let mut socket = Socket::tcp(stream);
            if place.is_none() {
                tracing::warn!(%peer, "too many connections from one address");
                let _ = socket.writer.write_all(&[FULL, VERSION]).await;
                return;
            }
            serve_one(socket, peer, handlers, stop).await;
            drop(place);
        });
    }
    connections.shutdown().await;
}

/// Connections by address.
#[derive(Debug, Default)]
struct Clients {
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of an address.
struct Entered {
    clients: Arc<Clients>,
    address: IpAddr,
}

impl Clients {
    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, address: IpAddr, max: usize) -> Option<Entered> {
        let mut counts = self.counts();
        let count = counts.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Entered { clients: Arc::clone(self), address })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut counts = self.clients.counts();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Answers on one connection until it ends or `stop`.
pub async fn serve_one(
    mut socket: Socket,
    peer: SocketAddr,
    handlers: Handlers,
    stop: CancellationToken,
) {
    let hello = async {
        let mut preface = [0; 2];
        socket.reader.read_exact(&mut preface).await?;
        let known = Class::from_byte(preface[0]).filter(|_| preface[1] >= 1);
        if known.is_some() {
            socket.writer.write_all(&[WELCOME, VERSION]).await?;
            socket.writer.flush().await?;
        }
        std::io::Result::Ok(known)
    };
    let hello = tokio::select! {
        hello = tokio::time::timeout(handlers.limits().handshake, hello) => hello,
        () = stop.cancelled() => return,
    };
    let class = match hello {
        Ok(Ok(Some(class))) => class,
        Ok(Ok(None)) => return tracing::debug!(%peer, "a connection of no known class"),
        Ok(Err(error)) => return tracing::debug!(%peer, "a connection broke at once: {error}"),
        Err(_) => return tracing::debug!(%peer, "a connection did not say what it is"),
    };
    let Socket { reader, mut writer } = socket;
    let (outbox, mut queue) = Outbox::new();
    let calls = Calls { handlers, peer, outbox, running: Arc::default() };
    let reading = async {
        let mut frames = FramedRead::with_capacity(reader, codec(), READ_BYTES);
        loop {
            match tokio::time::timeout(SILENCE_MAX, frames.next()).await {
                Ok(Some(Ok(frame))) => {
                    let Some(frame) = Frame::parse(frame) else {
                        return "a malformed frame".to_owned();
                    };
                    if let Err(why) = calls.take(frame) {
                        return why.to_owned();
                    }
                }
                Ok(Some(Err(error))) => return error.to_string(),
                Ok(None) => return "closed by the caller".to_owned(),
                Err(_) => return format!("silent for {SILENCE_MAX:?}"),
            }
        }
    };
    let why = tokio::select! {
        why = reading => why,
        written = write_all(&mut queue, &mut writer) => format!("{written:?}"),
        () = stop.cancelled() => "this agent stops".to_owned(),
    };
    tracing::debug!(%peer, ?class, "connection ended: {why}");
    calls.outbox.close();
}

/// Calls of one connection that run here. They end with it, however it ends.
struct Calls {
    handlers: Handlers,
    peer: SocketAddr,
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
}

fn lock(running: &Mutex<HashMap<u32, Running>>) -> MutexGuard<'_, HashMap<u32, Running>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Calls {
    fn take(&self, frame: Frame) -> Result<(), &'static str> {
        match frame {
            Frame::Request { id, method, within, body } => self.begin(id, method, within, body),
            Frame::Cancel { id } => {
                // The task's `Ending` removes the entry.
                let task = lock(&self.running).get_mut(&id).and_then(|call| call.task.take());
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
            Frame::Pong | Frame::Unknown => Ok(()),
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
        let Some(handler) = Method::from_number(method).and_then(|it| self.handlers.get(it)) else {
            let text = format!("this agent does not answer method {method}");
            return refuse(Reason::UnknownMethod, text);
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
            running.insert(id, Running { task: None, credit: credit.clone() });
        }
        let within =
            if within == WITHOUT_LIMIT { FAR_AWAY } else { Duration::from_millis(within.into()) };
        let caller = Caller { peer: self.peer, deadline: Instant::now() + within };
        let ending = Ending {
            id,
            running: Arc::clone(&self.running),
            outbox: self.outbox.clone(),
            answered: false,
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
    ) -> BoxFuture<'static, Result<Outgoing, Refusal>> {
        match handler {
            Handler::Once(handler) => handler(body, caller),
            Handler::Many(handler) => {
                let credit = credit.unwrap_or_else(|| Arc::new(Semaphore::new(0)));
                let parts =
                    handler(body, caller, Sender { id, outbox: self.outbox.clone(), credit });
                Box::pin(async move { parts.await.map(|()| Outgoing::end(id)) })
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
    call: BoxFuture<'static, Result<Outgoing, Refusal>>,
    deadline: Instant,
    mut ending: Ending,
) {
    let answer = match tokio::time::timeout_at(deadline, call).await {
        Ok(Ok(answer)) => answer.finish(ending.id),
        Ok(Err(refusal)) => Outgoing::refused(ending.id, &refusal),
        // The caller has given up at the same moment.
        Err(_) => Outgoing::refused(ending.id, &Refusal::failed("no answer in time")),
    };
    ending.answered = true;
    // A closed connection needs no answer.
    let _ = ending.outbox.send(answer).await;
}

/// Forgets a call at its end, and answers for a handler that did not get to it.
struct Ending {
    id: u32,
    running: Arc<Mutex<HashMap<u32, Running>>>,
    outbox: Outbox,
    answered: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.id);
        if !self.answered {
            let refusal = Refusal::failed("the call was ended before its answer");
            self.outbox.send_small(Outgoing::refused(self.id, &refusal));
        }
    }
}
