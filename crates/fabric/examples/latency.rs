//! How fast the fabric is, with TLS and without, beside plain sockets in the same run: `cargo run --release -p megalith-fabric --example latency`.
//!
//! Ping-pong: 64 bytes there, 4 KiB back, median and 99th percentile of the round trip. Stream: 4 KiB messages one way.
//! Both ends are in this process, over loopback; what is compared is interleaved, round by round.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use std::{fs, thread};

use megalith_fabric::{
    ANCHORS_FILE, CERTIFICATE_FILE, ClusterId, Epoch, Fabric, Host, HostId, Inbox, Invitation, KEY_FILE,
    Keys, Listener, Lost, MachineId, Member, Settings, TcpMesh,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

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

/// A machine of two hosts.
struct Pair {
    home: Arc<TcpMesh>,
    pagers: [Arc<Pager>; 2],
    arrived: Receiver<()>,
    _listeners: [Listener; 2],
}

impl Pair {
    fn new(machine: MachineId, keys: [Option<Arc<Keys>>; 2]) -> Pair {
        let cluster = ClusterId([1; 16]);
        let pagers = [Arc::new(Pager::default()), Arc::new(Pager::default())];
        let agents = [Arc::new(Agent("a", pagers[0].clone())), Arc::new(Agent("b", pagers[1].clone()))];
        let listeners = [0, 1].map(|at: usize| {
            Listener::bind("127.0.0.1:0", cluster, keys[at].clone(), agents[at].clone()).expect("loopback")
        });
        let member =
            |at: usize| Member { name: agents[at].0.into(), address: listeners[at].address().to_string() };
        let invitation = Invitation {
            machine,
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
        Pair { home, pagers, arrived, _listeners: listeners }
    }

    fn ping(&self) -> Duration {
        let pages = &self.pagers[0].pages;
        let before = pages.load(Ordering::Acquire);
        let begin = Instant::now();
        self.home.send(HostId(1), &[&[1; PING]]);
        self.home.flush();
        while pages.load(Ordering::Acquire) == before {
            self.arrived.recv().expect("the page comes");
        }
        begin.elapsed()
    }

    fn stream(&self) -> f64 {
        let (home, far) = (&self.home, &self.pagers[1]);
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
}

/// Keys of two hosts of one cluster.
fn keys() -> [Option<Arc<Keys>>; 2] {
    use std::os::unix::fs::PermissionsExt;

    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("randomness");
    let anchor = params.self_signed(&key).expect("its own").pem();
    let issuer = Issuer::new(params, key);
    ["a", "b"].map(|name| {
        let key = KeyPair::generate().expect("randomness");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let directory = std::env::temp_dir().join(format!("megalith-latency-{}-{name}", std::process::id()));
        fs::create_dir(&directory).expect("it is new");
        let write = |file, text: &str| fs::write(directory.join(file), text).expect("a directory of ours");
        write(ANCHORS_FILE, &anchor);
        write(CERTIFICATE_FILE, &params.signed_by(&key, &issuer).expect("signed").pem());
        write(KEY_FILE, &key.serialize_pem());
        fs::set_permissions(directory.join(KEY_FILE), fs::Permissions::from_mode(0o600)).expect("our file");
        Some(Arc::new(Keys::open(&directory, name).expect("good keys")))
    })
}

fn main() {
    let (open, sealed) = (Pair::new(MachineId(1), [None, None]), Pair::new(MachineId(2), keys()));
    for name in ["a", "b"] {
        let directory = std::env::temp_dir().join(format!("megalith-latency-{}-{name}", std::process::id()));
        fs::remove_dir_all(directory).expect("ours");
    }
    let mut plain = Plain::new();
    let (mut plain_pings, mut open_pings, mut sealed_pings) = (Vec::new(), Vec::new(), Vec::new());
    let (mut small, mut large, mut open_rates, mut sealed_rates) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain_pings.extend((0..PINGS).map(|_| plain.ping()));
        open_pings.extend((0..PINGS).map(|_| open.ping()));
        sealed_pings.extend((0..PINGS).map(|_| sealed.ping()));
        open_rates.push(open.stream());
        sealed_rates.push(sealed.stream());
        small.push(Plain::stream(PAGE));
        large.push(Plain::stream(128 << 10));
    }
    let (plain, unsealed, tls) = (median(plain_pings), median(open_pings), median(sealed_pings));
    println!("64 B -> 4 KiB round trip, µs (median, 99 %)");
    println!("  plain sockets, blocking, 2 threads     {:8.1} {:8.1}", plain.0, plain.1);
    println!("  fabric, page handed to a third thread  {:8.1} {:8.1}", unsealed.0, unsealed.1);
    println!("  the same with TLS                      {:8.1} {:8.1}", tls.0, tls.1);
    println!("stream, GB/s (median of {ROUNDS})");
    println!("  plain socket, 4 KiB writes             {:8.2}", middle(small));
    println!("  plain socket, 128 KiB writes           {:8.2}", middle(large));
    println!("  fabric, 4 KiB messages, flush each 32  {:8.2}", middle(open_rates));
    println!("  the same with TLS                      {:8.2}", middle(sealed_rates));
    open.home.shutdown();
    sealed.home.shutdown();
}
