//! How fast the fabric is, beside plain sockets in the same run: `cargo run --release -p megalith-fabric --example latency`.
//!
//! Ping-pong: 64 bytes there, 4 KiB back, median and 99th percentile of the round trip. Stream: 4 KiB messages one way.
//! Both ends are in this process, over loopback; what is compared is interleaved, round by round.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use megalith_fabric::{
    ClusterId, Epoch, Fabric, Host, HostId, Inbox, Invitation, Listener, Lost, MachineId, Member, Settings,
    TcpMesh,
};

const ROUNDS: usize = 7;
const PINGS: usize = 4000;
const STREAM_BYTES: u64 = 512 << 20;
const PAGE: usize = 4096;
const PING: usize = 64;
/// What a pager would let lie in the out-buffer before it stops.
const BACKLOG_MAX: usize = 8 << 20;

/// Answers a ping with a page, from within the inbox; counts pages otherwise.
#[derive(Default)]
struct Pager {
    mesh: OnceLock<Arc<TcpMesh>>,
    pages: AtomicU64,
    arrived: Mutex<Option<Sender<()>>>,
}

impl Inbox for Pager {
    fn message(&self, from: HostId, bytes: &[u8]) {
        if bytes.len() == PING {
            self.mesh.get().expect("joined").send(from, &[&[7; PAGE]]);
        } else {
            self.pages.fetch_add(1, Ordering::Release);
        }
    }
    fn drained(&self, _from: HostId) {
        if let Some(mesh) = self.mesh.get() {
            mesh.flush();
        }
        if let Some(arrived) = &*self.arrived.lock().expect("no panic") {
            // The main thread may have stopped listening.
            let _ = arrived.send(());
        }
    }
    fn lost(&self, host: HostId, reason: Lost) {
        eprintln!("{host:?} lost: {reason}");
    }
}

struct Agent(&'static str, Arc<Pager>);

impl Host for Agent {
    fn name(&self) -> &str {
        self.0
    }
    fn join(&self, _: &Invitation) -> Result<Arc<dyn Inbox>, String> {
        Ok(self.1.clone())
    }
    fn joined(&self, _: MachineId, mesh: Arc<TcpMesh>) {
        assert!(self.1.mesh.set(mesh).is_ok());
    }
}

fn median(mut samples: Vec<Duration>) -> (f64, f64) {
    samples.sort();
    let at = |share: f64| samples[(samples.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    (at(0.5), at(0.99))
}

fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Two plain sockets; the far one answers pings until 4 KiB messages come, which it counts.
struct Plain {
    near: TcpStream,
    page: Vec<u8>,
}

impl Plain {
    fn new() -> Plain {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let (mut far, _) = listener.accept().expect("connected");
        near.set_nodelay(true).expect("tcp");
        far.set_nodelay(true).expect("tcp");
        thread::spawn(move || {
            let mut ping = [0; PING];
            while far.read_exact(&mut ping).is_ok() && far.write_all(&[7; PAGE]).is_ok() {}
        });
        Plain { near, page: vec![0; PAGE] }
    }

    fn ping(&mut self) -> Duration {
        let begin = Instant::now();
        self.near.write_all(&[1; PING]).expect("the far end reads");
        self.near.read_exact(&mut self.page).expect("the far end answers");
        begin.elapsed()
    }

    /// GB/s in writes of `write` bytes.
    fn stream(write: usize) -> f64 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        near.set_nodelay(true).expect("tcp");
        let (mut far, _) = listener.accept().expect("connected");
        let begin = Instant::now();
        let sink = thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            while far.read(&mut buffer).expect("the near end writes") > 0 {}
        });
        let chunk = vec![1; write];
        for _ in 0..STREAM_BYTES / write as u64 {
            near.write_all(&chunk).expect("the far end reads");
        }
        drop(near);
        sink.join().expect("no panic");
        STREAM_BYTES as f64 / begin.elapsed().as_secs_f64() / 1e9
    }
}

fn ping(home: &TcpMesh, pager: &Pager, arrived: &Receiver<()>) -> Duration {
    let before = pager.pages.load(Ordering::Acquire);
    let begin = Instant::now();
    home.send(HostId(1), &[&[1; PING]]);
    home.flush();
    while pager.pages.load(Ordering::Acquire) == before {
        arrived.recv().expect("the page comes");
    }
    begin.elapsed()
}

fn stream(home: &TcpMesh, far: &Pager) -> f64 {
    let pages = STREAM_BYTES / PAGE as u64;
    let target = far.pages.load(Ordering::Acquire) + pages;
    let page = vec![1; PAGE];
    let begin = Instant::now();
    for number in 0..pages {
        home.send(HostId(1), &[&page]);
        if number % 32 == 31 {
            home.flush();
            while home.backlog(HostId(1)) > BACKLOG_MAX {
                thread::yield_now();
            }
        }
    }
    home.flush();
    while far.pages.load(Ordering::Acquire) < target {
        thread::sleep(Duration::from_micros(100));
    }
    STREAM_BYTES as f64 / begin.elapsed().as_secs_f64() / 1e9
}

fn main() {
    let cluster = ClusterId([1; 16]);
    let pagers = [Arc::new(Pager::default()), Arc::new(Pager::default())];
    let agents = [Arc::new(Agent("a", pagers[0].clone())), Arc::new(Agent("b", pagers[1].clone()))];
    let listeners = agents
        .each_ref()
        .map(|agent| Listener::bind("127.0.0.1:0", cluster, agent.clone()).expect("loopback"));
    let member =
        |at: usize| Member { name: agents[at].0.into(), address: listeners[at].address().to_string() };
    let invitation = Invitation {
        machine: MachineId(1),
        epoch: Epoch(1),
        me: HostId(0),
        members: vec![member(0), member(1)],
        settings: Settings {
            heartbeat: Duration::from_millis(500),
            lost_after: Duration::from_secs(3),
            join_timeout: Duration::from_secs(5),
        },
    };
    let home = TcpMesh::open(&listeners[0], invitation, pagers[0].clone()).expect("the mesh stands");
    assert!(pagers[0].mesh.set(home.clone()).is_ok());
    let (sender, arrived) = channel();
    *pagers[0].arrived.lock().expect("no panic") = Some(sender);

    let mut plain = Plain::new();
    let (mut fabric_pings, mut plain_pings) = (Vec::new(), Vec::new());
    let (mut fabric_rates, mut small, mut large) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain_pings.extend((0..PINGS).map(|_| plain.ping()));
        fabric_pings.extend((0..PINGS).map(|_| ping(&home, &pagers[0], &arrived)));
        fabric_rates.push(stream(&home, &pagers[1]));
        small.push(Plain::stream(PAGE));
        large.push(Plain::stream(128 << 10));
    }
    let (plain, fabric) = (median(plain_pings), median(fabric_pings));
    println!("64 B -> 4 KiB round trip, µs (median, 99 %)");
    println!("  plain sockets, blocking, 2 threads     {:8.1} {:8.1}", plain.0, plain.1);
    println!("  fabric, page handed to a third thread  {:8.1} {:8.1}", fabric.0, fabric.1);
    println!("stream, GB/s (median of {ROUNDS})");
    println!("  plain socket, 4 KiB writes             {:8.2}", middle(small));
    println!("  plain socket, 128 KiB writes           {:8.2}", middle(large));
    println!("  fabric, 4 KiB messages, flush each 32  {:8.2}", middle(fabric_rates));
    home.shutdown();
}
