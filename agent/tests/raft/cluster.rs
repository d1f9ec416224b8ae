//! Several servers in one process, with a network between them that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_agent::raft::log::{LogReader, LogStore, Record};
use muster_agent::raft::types::ServerId;
use muster_agent::raft::{
    Consensus, Error, KnownServer, KnownServers, Links, LogBackend, Participant, Presence, Settings,
};
use muster_agent::rpc::{self, Dial, Handlers, Pool, Socket};
use muster_agent::store::{Change, Index, Reply};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Patience that counts turns instead of time: on a machine that has much else to do what is waited for comes late, and
/// so do the turns.
pub(crate) struct Patience(u32);

impl Patience {
    const TURN: Duration = Duration::from_millis(10);

    pub(crate) fn new() -> Patience {
        Patience(u32::try_from(PATIENCE.as_millis() / Patience::TURN.as_millis()).unwrap())
    }

    /// Waits for the next turn. Is there any patience left then?
    pub(crate) async fn turn(&mut self) -> bool {
        tokio::time::sleep(Patience::TURN).await;
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

/// Who cannot hear whom: bytes from the first to the second wait.
type Cuts = BTreeSet<(usize, usize)>;

/// The network between the servers.
pub(crate) struct Net {
    addresses: Mutex<BTreeMap<SocketAddr, usize>>,
    cuts: watch::Sender<Cuts>,
    /// Counts how often all connections were broken.
    breaks: watch::Sender<u64>,
    /// Bytes that arrived, by way.
    carried: Mutex<BTreeMap<(usize, usize), u64>>,
}

impl Net {
    fn is_open(cuts: &Cuts, from: usize, to: usize) -> bool {
        !cuts.contains(&(from, to))
    }
}

/// The way out of one server.
struct Wire {
    net: Arc<Net>,
    from: usize,
}

impl Dial for Wire {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Socket>> {
        let (net, from) = (Arc::clone(&self.net), self.from);
        async move {
            let to = net.addresses.lock().unwrap().get(&address).copied();
            let to = to.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            let mut cuts = net.cuts.subscribe();
            let both = |cuts: &Cuts| Net::is_open(cuts, from, to) && Net::is_open(cuts, to, from);
            let _ = cuts.wait_for(both).await;
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (near, far) = tokio::io::duplex(64 << 10);
            let (far_reader, far_writer) = tokio::io::split(far);
            let (reader, writer) = stream.into_split();
            for pump in [
                pump(far_reader, writer, Arc::clone(&net), (from, to)).boxed(),
                pump(reader, far_writer, Arc::clone(&net), (to, from)).boxed(),
            ] {
                let mut breaks = net.breaks.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        () = pump => {}
                        _ = breaks.changed() => {}
                    }
                });
            }
            Ok(Socket::over(near))
        }
        .boxed()
    }
}

/// Carries bytes in one direction; while it is cut they wait, as TCP does.
async fn pump(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    net: Arc<Net>,
    way: (usize, usize),
) {
    let mut cuts = net.cuts.subscribe();
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if cuts.wait_for(|cuts| Net::is_open(cuts, way.0, way.1)).await.is_err()
            || to.write_all(&bytes[..count]).await.is_err()
        {
            break;
        }
        *net.carried.lock().unwrap().entry(way).or_default() += count as u64;
    }
    let _ = to.shutdown().await;
}

/// How long each write to a server's log takes longer than it need; `None`: it does not end.
#[derive(Clone)]
pub(crate) struct Disk(watch::Sender<Option<Duration>>);

impl Default for Disk {
    fn default() -> Disk {
        Disk(watch::Sender::new(Some(Duration::ZERO)))
    }
}

impl Disk {
    pub(crate) fn slow_down(&self, by: Duration) {
        self.0.send_replace(Some(by));
    }

    pub(crate) fn hang(&self) {
        self.0.send_replace(None);
    }

    pub(crate) fn recover(&self) {
        self.0.send_replace(Some(Duration::ZERO));
    }
}

/// A log store on such a disk.
struct Slow {
    store: Box<dyn LogStore>,
    disk: Disk,
}

impl LogStore for Slow {
    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        let began = std::time::Instant::now();
        while self.disk.0.borrow().is_none_or(|by| began.elapsed() < by) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        self.store.write(records)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.store.reader()
    }
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) consensus: Consensus,
    stop: CancellationToken,
    endpoint: JoinHandle<()>,
    address: SocketAddr,
}

/// All servers, running or not.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) net: Arc<Net>,
    pub(crate) servers: Vec<Option<Running>>,
    /// How fast each server's disk is.
    pub(crate) disks: Vec<Disk>,
    known_servers: watch::Sender<KnownServers>,
    pub(crate) expect: u32,
    pub(crate) snapshot_threshold: u64,
    pub(crate) trailing_logs: u64,
    pub(crate) raft_multiplier: u32,
    /// How often each server was built anew: it has another id then, and nothing on its disk.
    lives: Vec<u64>,
}

pub(crate) fn id(number: usize) -> ServerId {
    ServerId::from(number as u64 + 1)
}

impl Cluster {
    /// Nobody runs yet.
    pub(crate) fn new(count: usize, expect: u32) -> Cluster {
        let net = Net {
            addresses: Mutex::default(),
            cuts: watch::Sender::new(Cuts::new()),
            breaks: watch::Sender::new(0),
            carried: Mutex::default(),
        };
        let servers = (0..count).map(|_| None).collect();
        let disks = (0..count).map(|_| Disk::default()).collect();
        let folder = tempfile::tempdir().unwrap();
        let known_servers = watch::Sender::new(KnownServers::default());
        Cluster {
            folder,
            net: Arc::new(net),
            servers,
            disks,
            known_servers,
            expect,
            snapshot_threshold: 16_384,
            trailing_logs: 10_240,
            raft_multiplier: 1,
            lives: vec![0; count],
        }
    }

    /// The id of a server in its present life.
    pub(crate) fn id(&self, number: usize) -> ServerId {
        ServerId::from(number as u64 + 1 + 1000 * self.lives[number])
    }

    /// A server that does not run loses its disk and its id; nobody is told of the old one any more.
    pub(crate) fn rebuild(&mut self, number: usize) {
        assert!(self.servers[number].is_none(), "it runs");
        let old = self.id(number);
        self.known_servers.send_modify(|known_servers| drop(known_servers.servers.remove(&old)));
        self.lives[number] += 1;
    }

    /// Voters and learners, as a server knows them.
    pub(crate) fn members(&self, number: usize) -> (BTreeSet<ServerId>, BTreeSet<ServerId>) {
        let servers = self.consensus(number).configuration().servers.into_iter();
        let (voters, learners): (Vec<_>, Vec<_>) = servers.partition(|server| server.voter);
        let ids = |found: Vec<Participant>| found.into_iter().map(|server| server.id).collect();
        (ids(voters), ids(learners))
    }

    /// All start, and one leads.
    pub(crate) async fn formed(count: usize) -> Cluster {
        let mut cluster = Cluster::new(count, u32::try_from(count).unwrap());
        for number in 0..count {
            cluster.start(number).await;
        }
        cluster.leader().await;
        cluster
    }

    /// Starts a server, at a new address.
    pub(crate) async fn start(&mut self, number: usize) {
        self.start_seeing(number, self.known_servers.subscribe()).await;
    }

    /// Starts a server with a view of its own.
    pub(crate) async fn start_seeing(
        &mut self,
        number: usize,
        known_servers: watch::Receiver<KnownServers>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.net.addresses.lock().unwrap().insert(address, number);
        let (id, listed) = (self.id(number), self.listed(number, address));
        self.known_servers.send_modify(|known_servers| {
            known_servers.servers.insert(id, listed);
        });
        let pool = Pool::new(Wire { net: Arc::clone(&self.net), from: number });
        let links = Links { pool, known_servers, expect: self.expect };
        let settings = Settings {
            snapshot_threshold: self.snapshot_threshold,
            trailing_logs: self.trailing_logs,
            raft_multiplier: self.raft_multiplier,
            ..settings(self.folder.path(), number, id, address)
        };
        let disk = self.disks[number].clone();
        let slow = |store| Box::new(Slow { store, disk }) as Box<dyn LogStore>;
        let consensus = Consensus::start_around(settings, links, slow).await.unwrap();
        let stop = CancellationToken::new();
        let handlers = consensus.answer(Handlers::new());
        let endpoint = tokio::spawn(rpc::serve(listener, handlers, stop.clone()));
        self.servers[number] = Some(Running { consensus, stop, endpoint, address });
    }

    pub(crate) fn listed(&self, number: usize, address: SocketAddr) -> KnownServer {
        KnownServer {
            name: format!("s{}", number + 1),
            address,
            expect: self.expect,
            bootstrap: false,
            presence: Presence::Alive,
        }
    }

    pub(crate) fn address(&self, number: usize) -> SocketAddr {
        self.servers[number].as_ref().expect("it runs").address
    }

    /// What everybody is told of a server.
    pub(crate) fn tell(&self, number: usize, presence: Presence) {
        self.known_servers.send_modify(|known_servers| {
            known_servers.servers.get_mut(&self.id(number)).unwrap().presence = presence;
        });
    }

    /// What everybody was told of a server last.
    pub(crate) fn presence(&self, number: usize) -> Presence {
        self.known_servers.borrow().servers[&self.id(number)].presence
    }

    /// How all of them are, for who looks at a failure.
    pub(crate) fn picture(&self) -> String {
        let picture = |(number, it): (usize, &Consensus)| {
            let figures: Vec<String> = it
                .stats()
                .into_iter()
                .filter(|(name, _)| !name.starts_with("protocol") && !name.starts_with("snapshot"))
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let (leads, leader) = (it.is_leader(), it.leader());
            format!("\n  {number}: leads {leads}, leader {leader:?}, {}", figures.join(" "))
        };
        self.running().map(picture).collect()
    }

    /// Ends a server; what it had not written is gone.
    pub(crate) async fn stop(&mut self, number: usize) {
        // The end waits for what is being written.
        self.disks[number].recover();
        if let Some(running) = self.servers[number].take() {
            running.stop.cancel();
            self.net.addresses.lock().unwrap().remove(&running.address);
            running.consensus.shutdown().await;
            running.endpoint.await.unwrap();
        }
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Consensus)> {
        let servers = self.servers.iter().enumerate();
        servers.filter_map(|(number, it)| Some((number, &it.as_ref()?.consensus)))
    }

    pub(crate) fn consensus(&self, number: usize) -> &Consensus {
        &self.servers[number].as_ref().expect("it runs").consensus
    }

    /// Waits for a leader that all running servers know.
    pub(crate) async fn leader(&self) -> usize {
        let mut patience = Patience::new();
        loop {
            let leaders: Vec<usize> =
                self.running().filter(|(_, it)| it.is_leader()).map(|(number, _)| number).collect();
            let known: BTreeSet<_> = self.running().map(|(_, it)| it.leader()).collect();
            if leaders.len() == 1 && known.len() == 1 {
                return leaders[0];
            }
            let goes_on = patience.turn().await;
            assert!(goes_on, "leaders {leaders:?}, known {known:?}: {}", self.picture());
        }
    }

    /// Cuts the ways between the two groups, in the first direction or in both.
    pub(crate) fn cut(&self, from: &[usize], to: &[usize], both: bool) {
        self.net.cuts.send_modify(|cuts| {
            for (a, b) in from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))) {
                cuts.insert((a, b));
                if both {
                    cuts.insert((b, a));
                }
            }
        });
    }

    /// Breaks all connections that there are.
    pub(crate) fn break_connections(&self) {
        self.net.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Bytes that have arrived on a way so far.
    pub(crate) fn carried(&self, from: usize, to: usize) -> u64 {
        self.net.carried.lock().unwrap().get(&(from, to)).copied().unwrap_or(0)
    }

    pub(crate) fn heal(&self) {
        self.net.cuts.send_modify(BTreeSet::clear);
    }

    pub(crate) async fn shutdown(mut self) {
        self.heal();
        for number in 0..self.servers.len() {
            self.stop(number).await;
        }
    }
}

/// Proposes until somebody leads.
pub(crate) async fn propose(
    consensus: &Consensus,
    change: Change,
) -> Result<(Reply, Index), Error> {
    let mut patience = Patience::new();
    loop {
        match consensus.propose(change.clone()).await {
            Err(Error::NoLeader) if patience.turn().await => {}
            done => return done,
        }
    }
}

fn settings(folder: &Path, number: usize, id: ServerId, address: SocketAddr) -> Settings {
    let name = format!("s{}", number + 1);
    Settings {
        data_dir: Some(folder.join(if id == self::id(number) {
            name.clone()
        } else {
            id.to_string()
        })),
        node_id: id.to_string(),
        node_name: name,
        address: address.to_string(),
        log_backend: LogBackend::Wal,
        raft_multiplier: 1,
        snapshot_threshold: 16_384,
        trailing_logs: 10_240,
        autopilot: muster_agent::store::Autopilot {
            // Nobody waits in a test for what it does not test.
            server_stabilization_time_ns: 0,
            ..Default::default()
        },
    }
}
