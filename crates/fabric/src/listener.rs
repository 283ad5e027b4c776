//! Takes connections and finds the machine that each belongs to.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::FabricError;
use crate::invitation::{ClusterId, MEMBERS_MAX};
use crate::registry::Registry;
use crate::strangers::Strangers;
use crate::sync::lock;
use crate::tls::Keys;
use crate::{Host, handshake};

/// How long a stranger may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// Handshakes at a time; further connections are closed at once. Every member of the largest machine may dial together.
const HANDSHAKES_MAX: usize = 2 * MEMBERS_MAX;
/// Pause after the kernel could not give us a connection (out of descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Listens; gives every accepted, handshaken connection to the machine it belongs to. Dropping it is
/// [`Listener::shutdown`]; meshes live on.
pub struct Listener {
    pub(crate) shared: Arc<Shared>,
    socket: Arc<TcpListener>,
    address: SocketAddr,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the listener, its handshakes and its meshes share.
pub(crate) struct Shared {
    pub(crate) cluster: ClusterId,
    pub(crate) host: Arc<dyn Host>,
    /// With keys everything is TLS, without them nothing.
    pub(crate) keys: Option<Arc<Keys>>,
    pub(crate) registry: Registry,
    strangers: Strangers,
    handshakes: AtomicUsize,
    stop: AtomicBool,
}

impl Listener {
    /// Listens at `address` (`host:port`; port 0 takes a free one) for agents of `cluster`. With `keys`, for those alone that
    /// have some too, and all that goes between them is sealed; without, for those alone that have none.
    pub fn bind(
        address: &str,
        cluster: ClusterId,
        keys: Option<Arc<Keys>>,
        accept: Arc<dyn Host>,
    ) -> Result<Listener, FabricError> {
        Listener::bind_with(address, cluster, keys, accept, PATIENCE)
    }

    pub(crate) fn bind_with(
        address: &str,
        cluster: ClusterId,
        keys: Option<Arc<Keys>>,
        accept: Arc<dyn Host>,
        patience: Duration,
    ) -> Result<Listener, FabricError> {
        let failed = |source| FabricError::Bind { address: address.to_owned(), source };
        let socket = Arc::new(TcpListener::bind(address).map_err(failed)?);
        let local = socket.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            cluster,
            host: accept,
            keys,
            registry: Registry::default(),
            strangers: Strangers::default(),
            handshakes: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let run = {
            let (shared, socket) = (shared.clone(), socket.clone());
            move || accept_all(&shared, &socket, patience)
        };
        let thread = thread::Builder::new().name("fabric-accept".into()).spawn(run).map_err(failed)?;
        Ok(Listener { shared, socket, address: local, thread: Mutex::new(Some(thread)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections; idempotent. Machines that stand are not touched.
    pub fn shutdown(&self) {
        let Some(thread) = lock(&self.thread).take() else { return };
        self.shared.stop.store(true, Ordering::Release);
        // On Linux this makes a blocked accept return; it fails only if that socket listens no more.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
        // An error is that thread's panic, which has been printed.
        let _ = thread.join();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    /// Tells the agent of somebody who is not let in, not more often than is worth reading.
    pub(crate) fn stranger(&self, address: IpAddr, reason: &str) {
        if let Some((address, reason)) = self.strangers.say(address, reason, Instant::now()) {
            self.host.stranger(address, &reason);
        }
    }
}

fn accept_all(shared: &Arc<Shared>, listener: &TcpListener, patience: Duration) {
    while !shared.stop.load(Ordering::Acquire) {
        let Ok((socket, from)) = listener.accept() else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        if shared.handshakes.fetch_add(1, Ordering::Relaxed) >= HANDSHAKES_MAX {
            shared.handshakes.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let serve = {
            let shared = shared.clone();
            move || {
                handshake::receive(&shared, socket, from.ip(), patience);
                shared.handshakes.fetch_sub(1, Ordering::Relaxed);
            }
        };
        // If there can be no thread, the connection is closed, and the dialer reports it.
        if thread::Builder::new().name("fabric-greet".into()).spawn(serve).is_err() {
            shared.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
