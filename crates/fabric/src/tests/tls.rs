//! TLS: who is let in, who is not and what that says to whom, what is found of what was changed on the way, and keys that
//! change under a machine that stands.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use coherence::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, ServerConfig,
    ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

use super::parties::{Agent, CLUSTER, EPOCH, Hall, MACHINE, Recorder, SETTINGS, Told, shutdown};
use super::{PATIENCE, Random};
use crate::tls::ALPN;
use crate::wire::{ChannelHello, REPLY_HEADER_BYTES, encode_channel, encode_hello};
use crate::{
    ANCHORS_FILE, CERTIFICATE_FILE, Fabric, FabricError, KEY_FILE, Keys, KeysError, Lost, Member, Trouble,
};

const WORDS: [u64; 4] = [7, 1, 0, 0];

/// A directory that goes away.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("megalith-tls-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("it is new");
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate, those behind it, and its key, as PEM.
#[derive(Clone)]
struct Shown {
    chain: String,
    key: String,
}

impl Shown {
    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(|item| item.expect("PEM"));
        (chain.collect(), PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM"))
    }
}

/// Who makes certificates.
struct Authority {
    params: CertificateParams,
    key: String,
    anchor: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("randomness");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let anchor = params.self_signed(&key).expect("its own").pem();
        Authority { params, key: key.serialize_pem(), anchor }
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        Issuer::new(self.params.clone(), KeyPair::from_pem(&self.key).expect("its own"))
    }

    /// The certificate of a host, good from one year to another.
    fn host_between(&self, name: &str, from: i32, to: i32) -> Shown {
        let key = KeyPair::generate().expect("randomness");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a DNS name");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let chain = params.signed_by(&key, &self.issuer()).expect("signed").pem();
        Shown { chain, key: key.serialize_pem() }
    }

    fn host(&self, name: &str) -> Shown {
        self.host_between(name, 2020, 2200)
    }

    /// This authority's certificate as `other` makes it: those who trust that one trust this one.
    fn crossed(&self, other: &Authority) -> String {
        let key = KeyPair::from_pem(&self.key).expect("its own");
        self.params.signed_by(&key, &other.issuer()).expect("signed").pem()
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    // As `megalith init` does: whoever reads finds the old or the new.
    let new = path.with_extension("new");
    fs::write(&new, text).expect("a directory of ours");
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).expect("our file");
    fs::rename(&new, path).expect("our file");
}

/// A cluster's authority, and the directories of its hosts' keys.
struct Cluster {
    authority: Authority,
    directory: Directory,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster { authority: Authority::new("a cluster"), directory: Directory::new() }
    }

    fn install(&self, name: &str, shown: &Shown, anchors: &[&Authority]) -> PathBuf {
        let directory = self.directory.0.join(name);
        fs::create_dir_all(&directory).expect("a directory of ours");
        let anchors: String = anchors.iter().map(|authority| authority.anchor.as_str()).collect();
        write(&directory.join(ANCHORS_FILE), &anchors, 0o644);
        write(&directory.join(KEY_FILE), &shown.key, 0o600);
        write(&directory.join(CERTIFICATE_FILE), &shown.chain, 0o644);
        directory
    }

    fn keys(&self, name: &str) -> Arc<Keys> {
        let directory = self.install(name, &self.authority.host(name), &[&self.authority]);
        Arc::new(Keys::open(&directory, name).expect("good keys"))
    }

    fn hall(&self, count: usize) -> (Vec<Arc<Recorder>>, Hall) {
        let recorders: Vec<_> = (0..count).map(|_| Arc::new(Recorder::default())).collect();
        let hall = Hall::with_keys(&recorders, |name| Some(self.keys(name)));
        (recorders, hall)
    }
}

/// Takes every certificate.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client of anybody's making, that shows what it is given.
fn stranger(
    address: SocketAddr,
    shown: Option<&Shown>,
    version: &'static SupportedProtocolVersion,
    protocol: &[u8],
) -> (Connection, TcpStream) {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("ring has it")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match shown.map(Shown::der) {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).expect("they fit"),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("whoever").expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a good config");
    let socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("open");
    (tls.into(), socket)
}

/// Says `words`, and gives what is answered until the end: what came, and TLS's own error.
fn converse(tls: &mut Connection, socket: &mut TcpStream, words: &[u8]) -> (Vec<u8>, Option<rustls::Error>) {
    tls.writer().write_all(words).expect("it is kept until the handshake is over");
    let mut heard = Vec::new();
    loop {
        while tls.wants_write() {
            // It may have closed already; what it said before is what counts.
            if tls.write_tls(socket).is_err() {
                break;
            }
        }
        match tls.read_tls(socket) {
            Ok(0) | Err(_) => return (heard, None),
            Ok(_) => {}
        }
        if let Err(error) = tls.process_new_packets() {
            // The alert; it may have closed already.
            let _ = tls.write_tls(socket);
            return (heard, Some(error));
        }
        let mut piece = vec![0; 1 << 16];
        if let Ok(count) = tls.reader().read(&mut piece) {
            heard.extend_from_slice(&piece[..count]);
            if count == 0 {
                return (heard, None);
            }
        }
    }
}

fn wait_stranger(agent: &Agent, part: &str) {
    agent.strangers.wait_for(part, |told| told.iter().any(|told| told.contains(part)).then_some(()));
}

/// A host b of a stranger's making, that shows what it is given to one dialer.
fn impostor(shown: Shown, version: &'static SupportedProtocolVersion) -> (Member, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let member = Member { name: "b".into(), address: listener.local_addr().expect("bound").to_string() };
    let serve = move || {
        let (chain, key) = shown.der();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("ring has it")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they fit");
        config.alpn_protocols = vec![ALPN.to_vec()];
        let (mut socket, _) = listener.accept().expect("somebody dials");
        let mut tls = Connection::from(ServerConnection::new(Arc::new(config)).expect("a good config"));
        let (heard, _) = converse(&mut tls, &mut socket, b"MEGALITH");
        assert_eq!(heard, b"", "it is told nothing");
    };
    (member, thread::spawn(serve))
}

fn error_of_dialing(cluster: &Cluster, member: Member) -> FabricError {
    let (_, hall) = cluster.hall(1);
    let mut invitation = hall.invitation();
    invitation.members.push(member);
    hall.try_open(invitation).err().expect("it must not stand")
}

#[test]
fn a_machine_stands_and_large_messages_go_both_ways_at_once() {
    let cluster = Cluster::new();
    let (recorders, hall) = cluster.hall(3);
    let meshes = hall.open();
    assert!(meshes[0].core().stream(HostId(1)).is_secure());
    let sizes = [0, 1, 4096, 16_384, 16_385, 70_000, 1 << 20];
    let message = |from: usize, number: usize| Random((from * 1000 + number) as u64).bytes(sizes[number % 7]);
    const EACH: usize = 70;
    thread::scope(|scope| {
        for (from, mesh) in meshes.iter().enumerate() {
            scope.spawn(move || {
                for number in 0..EACH {
                    for to in (0..3).filter(|to| *to != from) {
                        mesh.send(HostId(to as u16), &[&message(from, number)]);
                    }
                    if number % 5 == 4 {
                        mesh.flush();
                    }
                }
                mesh.flush();
            });
        }
    });
    for (to, recorder) in recorders.iter().enumerate() {
        recorder.told.wait_for("all messages", |told| (told.len() == 2 * EACH).then_some(()));
        for from in (0..3).filter(|from| *from != to) {
            let wanted = (0..EACH).map(|number| Told::Message(HostId(from as u16), message(from, number)));
            let heard: Vec<Told> = recorder.told.change(|told| {
                let of = |told: &&Told| matches!(told, Told::Message(host, _) if host.0 == from as u16);
                told.iter().filter(of).cloned().collect()
            });
            assert!(wanted.eq(heard), "from {from} to {to}");
        }
    }
    let bytes: usize = (0..EACH).map(|number| sizes[number % 7]).sum();
    assert!(meshes[1].traffic().sent > 2 * bytes as u64, "what is counted are the bytes on the wire");
    shutdown(&meshes);
    assert!(recorders.iter().all(|recorder| recorder.losses() == 0));
    assert!(hall.agents.iter().all(|agent| agent.strangers.change(|told| told.is_empty())));
}

#[test]
fn a_peer_that_reads_late_gets_everything() {
    let cluster = Cluster::new();
    let (recorders, hall) = cluster.hall(2);
    let meshes = hall.open();
    let message = Random(1).bytes(1 << 20);
    // While this is held, b's reader waits in its first message, and home's socket is soon full.
    recorders[1].told.change(|_| {
        for _ in 0..64 {
            meshes[0].send(HostId(1), &[&message]);
            meshes[0].flush();
        }
        assert!(meshes[0].backlog(HostId(1)) > 0);
    });
    recorders[1].told.wait_for("all messages", |told| (told.len() == 64).then_some(()));
    super::parties::wait_sent(&meshes[0], HostId(1));
    let same = |told: &Told| *told == Told::Message(HostId(0), message.clone());
    assert!(recorders[1].told.change(|told| told.iter().all(same)));
    shutdown(&meshes);
}

#[test]
fn keys_of_a_stream_change_under_it() {
    let cluster = Cluster::new();
    let (recorders, hall) = cluster.hall(2);
    let meshes = hall.open();
    for round in 0..100_u32 {
        for (me, other) in [(0, 1), (1, 0)] {
            meshes[me].send(HostId(other), &[&round.to_le_bytes()]);
            if round % 7 == me as u32 {
                meshes[me].core().stream(HostId(other)).change_keys();
            }
            meshes[me].flush();
        }
    }
    for recorder in &recorders {
        recorder.told.wait_for("all messages", |told| (told.len() == 100).then_some(()));
    }
    thread::sleep(SETTINGS.heartbeat * 3);
    assert!(recorders.iter().all(|recorder| recorder.losses() == 0));
    shutdown(&meshes);
}

#[test]
fn strangers_get_an_alert_and_nothing_else() {
    let cluster = Cluster::new();
    let (_, hall) = cluster.hall(2);
    let (authority, b) = (&cluster.authority, &hall.agents[1]);
    let hello = encode_hello(CLUSTER, &hall.invitation(), HostId(1));
    let good = authority.host("a");
    let cases = [
        (
            Some(authority.host_between("a", 2000, 2001)),
            "it has expired",
            AlertDescription::CertificateExpired,
        ),
        (
            Some(authority.host_between("a", 2150, 2200)),
            "it is not valid yet",
            AlertDescription::CertificateExpired,
        ),
        (Some(Authority::new("another").host("a")), "it is of another cluster", AlertDescription::UnknownCA),
        // Of the same name, but not of the same key.
        (Some(Authority::new("a cluster").host("a")), "not good", AlertDescription::DecryptError),
        (None, "it shows no certificate", AlertDescription::CertificateRequired),
    ];
    for (shown, reason, alert) in &cases {
        let (mut tls, mut socket) = stranger(hall.listeners[1].address(), shown.as_ref(), &TLS13, ALPN);
        let (heard, error) = converse(&mut tls, &mut socket, &hello);
        assert_eq!((heard, error), (Vec::new(), Some(rustls::Error::AlertReceived(*alert))), "{reason}");
        wait_stranger(b, reason);
    }
    // Good, but speaks an old TLS, or something else in it.
    let (mut tls, mut socket) = stranger(hall.listeners[1].address(), Some(&good), &TLS12, ALPN);
    let (heard, error) = converse(&mut tls, &mut socket, &hello);
    assert_eq!(heard, b"");
    assert_eq!(error, Some(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)));
    wait_stranger(b, "TLS 1.3");
    let (mut tls, mut socket) = stranger(hall.listeners[1].address(), Some(&good), &TLS13, b"h2");
    let (heard, error) = converse(&mut tls, &mut socket, &hello);
    assert_eq!(heard, b"");
    assert_eq!(error, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
    wait_stranger(b, "no Megalith agent");
    assert_eq!(b.joined.change(|joined| joined.len()), 0);
    // And with a good certificate the very same hello is taken.
    let (mut tls, mut socket) = stranger(hall.listeners[1].address(), Some(&good), &TLS13, ALPN);
    let reader = thread::spawn(move || converse(&mut tls, &mut socket, &hello).0);
    b.mesh().shutdown();
    assert_eq!(reader.join().expect("no panic")[..12], *b"MEGALITH\x02\0\0\0", "accepted");
}

#[test]
fn bytes_that_are_no_tls_get_an_alert_and_nothing_else() {
    let cluster = Cluster::new();
    let (_, hall) = cluster.hall(2);
    let (address, b) = (hall.listeners[1].address(), &hall.agents[1]);
    let answer = |words: &[u8]| {
        let mut socket = TcpStream::connect(address).expect("b listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("open");
        let _ = socket.write_all(words);
        let mut heard = Vec::new();
        if let Err(error) = socket.read_to_end(&mut heard) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "b must close");
        }
        heard
    };
    let begin = Instant::now();
    let is_alert = |heard: &[u8]| heard.len() == 7 && heard[..2] == [21, 3];
    assert!(is_alert(&answer(b"GET / HTTP/1.1\r\nHost: megalith.example\r\n\r\n")));
    wait_stranger(b, "no TLS");
    assert!(is_alert(&answer(&encode_hello(CLUSTER, &hall.invitation(), HostId(1)))));
    wait_stranger(b, "speaks plaintext");
    assert_eq!(answer(b""), b"");
    wait_stranger(b, "in time");
    // The beginning of a record that does not come.
    assert_eq!(answer(&[22, 3, 1, 2, 0, 1]), b"");
    drop(TcpStream::connect(address).expect("b listens"));
    wait_stranger(b, "went away");
    // Handshake messages without end.
    let record: Vec<u8> = [&[22, 3, 1, 64, 0][..], &vec![1; 16384]].concat();
    assert!(answer(&record.repeat(64)).len() <= 7);
    assert!(begin.elapsed() < Duration::from_secs(15), "each is bounded by 0.7 s: {:?}", begin.elapsed());
    assert_eq!(b.joined.change(|joined| joined.len()), 0);
    // Once each, however often.
    let told = b.strangers.change(|told| told.clone());
    for reason in &told {
        assert_eq!(told.iter().filter(|other| *other == reason).count(), 1, "{told:?}");
    }
    shutdown(&hall.open());
}

#[test]
fn a_dialer_says_what_is_wrong_with_a_host() {
    let cluster = Cluster::new();
    let good = &cluster.authority;
    for (shown, why) in [
        (good.host_between("b", 2000, 2001), "it has expired"),
        (good.host_between("b", 2150, 2200), "it is not valid yet, by the clock here"),
        (Authority::new("another").host("b"), "it is of another cluster"),
        (good.host("c"), "it is for a host of another name"),
    ] {
        let (member, served) = impostor(shown, &TLS13);
        let error = error_of_dialing(&cluster, member);
        assert!(
            matches!(&error, FabricError::Keys { host, trouble: Trouble::Theirs(said) } if host == "b" && said == why),
            "{error}"
        );
        assert_eq!((error.kind(), error.host()), ("keys", Some("b")));
        served.join().expect("it has heard nothing");
    }
    let (member, served) = impostor(good.host("b"), &TLS12);
    let error = error_of_dialing(&cluster, member);
    assert!(
        matches!(&error, FabricError::Keys { trouble: Trouble::Protocol(what), .. } if what == "it speaks no TLS 1.3"),
        "{error}"
    );
    served.join().expect("it has heard nothing");
}

#[test]
fn plaintext_and_tls_do_not_mix_and_say_so() {
    let cluster = Cluster::new();
    let recorders = [Arc::new(Recorder::default()), Arc::new(Recorder::default())];
    for (who, trouble) in [("a", Trouble::TheyHaveNone), ("b", Trouble::WeHaveNone)] {
        let hall = Hall::with_keys(&recorders, |name| (name == who).then(|| cluster.keys(name)));
        let error = hall.try_open(hall.invitation()).err().expect("it must not stand");
        assert!(
            matches!(&error, FabricError::Keys { host, trouble: found } if host == "b" && *found == trouble),
            "{error}"
        );
        assert_eq!(hall.agents[1].joined.change(|joined| joined.len()), 0);
    }
}

#[test]
fn a_host_of_the_cluster_may_not_speak_for_another() {
    let cluster = Cluster::new();
    let (_, hall) = cluster.hall(3);
    let c = cluster.authority.host("c");
    let say = |words: &[u8]| {
        let (mut tls, mut socket) = stranger(hall.listeners[1].address(), Some(&c), &TLS13, ALPN);
        let (heard, _) = converse(&mut tls, &mut socket, words);
        assert_eq!(heard[12], 3, "refused");
        String::from_utf8_lossy(&heard[REPLY_HEADER_BYTES..]).into_owned()
    };
    let refused = "its certificate is not for host a";
    assert_eq!(say(&encode_hello(CLUSTER, &hall.invitation(), HostId(1))), refused);
    wait_stranger(&hall.agents[1], "for another host");
    assert_eq!(hall.agents[1].joined.change(|joined| joined.len()), 0);
    let meshes = hall.open();
    let hello = ChannelHello { machine: MACHINE, epoch: EPOCH, from: HostId(0), to: HostId(1), words: WORDS };
    assert_eq!(say(&encode_channel(CLUSTER, &hello)), refused);
    assert_eq!(hall.agents[1].channels.change(|taken| taken.len()), 0);
    shutdown(&meshes);
}

/// Stands between a dialer and `to`, and passes on what both say; changes one byte of what the dialer says when told to.
fn meddler(to: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let (address, meddle) = (listener.local_addr().expect("bound"), Arc::new(AtomicBool::new(false)));
    let told = meddle.clone();
    thread::spawn(move || {
        let (near, _) = listener.accept().expect("somebody dials");
        let far = TcpStream::connect(to).expect("it listens");
        let (near_too, far_too) = (near.try_clone().expect("open"), far.try_clone().expect("open"));
        let carry = |mut from: TcpStream, mut to: TcpStream, meddle: Option<Arc<AtomicBool>>| {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                if meddle.as_ref().is_some_and(|meddle| meddle.swap(false, Ordering::Relaxed)) {
                    bytes[count / 2] ^= 1;
                }
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        };
        thread::spawn(move || carry(far_too, near_too, None));
        carry(near, far, Some(told));
    });
    (address, meddle)
}

#[test]
fn a_byte_changed_on_the_way_is_a_loss_on_both_sides() {
    let cluster = Cluster::new();
    let (recorders, hall) = cluster.hall(2);
    let (address, meddle) = meddler(hall.listeners[1].address());
    let mut invitation = hall.invitation();
    invitation.members[1].address = address.to_string();
    let meshes = hall.try_open(invitation).expect("it is passed on");
    meshes[0].send(HostId(1), &[b"as it was"]);
    meshes[0].flush();
    recorders[1].wait_for(&Told::Message(HostId(0), b"as it was".to_vec()));
    meddle.store(true, Ordering::Relaxed);
    meshes[0].send(HostId(1), &[b"as it was not"]);
    meshes[0].flush();
    let (_, reason) = recorders[1].wait_lost(HostId(0));
    assert!(matches!(&reason, Lost::Tls(what) if what.contains("decrypt")), "{reason}");
    let (_, reason) = recorders[0].wait_lost(HostId(1));
    assert!(matches!(&reason, Lost::Tls(what) if what.contains("BadRecordMac")), "{reason}");
    let messages =
        recorders[1].told.change(|told| told.iter().filter(|t| matches!(t, Told::Message(..))).count());
    assert_eq!(messages, 1);
    shutdown(&meshes);
}

/// A channel from host 0 to 1 of a hall: both ends.
fn channel(hall: &Hall, meshes: &[Arc<crate::TcpMesh>]) -> Result<(TcpStream, TcpStream), FabricError> {
    let near = TcpStream::from(meshes[0].open_channel(HostId(1), WORDS)?);
    let (from, words, far) = hall.agents[1].channels.wait_for("a channel", Vec::pop);
    assert_eq!((from, words), (HostId(0), WORDS));
    Ok((near, far))
}

/// Whether a word goes from one end to the other.
fn goes(near: &mut TcpStream, far: &mut TcpStream) -> bool {
    let mut heard = [0; 4];
    near.write_all(b"word").is_ok() && far.read_exact(&mut heard).is_ok() && heard == *b"word"
}

#[test]
fn keys_are_replaced_while_a_machine_stands() {
    let (cluster, new) = (Cluster::new(), Authority::new("the next"));
    let old = &cluster.authority;
    let (recorders, hall) = cluster.hall(2);
    let meshes = hall.open();
    let works = |when: &str| {
        let (mut near, mut far) = channel(&hall, &meshes).unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(goes(&mut near, &mut far) && goes(&mut far, &mut near), "{when}");
    };
    works("at first");
    // b is told first. Its new certificate is by the new authority, which the old one vouches for, so that a takes it.
    let crossed = |name: &str| {
        let shown = new.host(name);
        Shown { chain: shown.chain + &new.crossed(old), ..shown }
    };
    cluster.install("b", &crossed("b"), &[&new, old]);
    works("b is ahead");
    cluster.install("a", &crossed("a"), &[&new, old]);
    works("both have both");
    cluster.install("b", &new.host("b"), &[&new]);
    works("b has forgotten the old one");
    let (mut tls, mut socket) = stranger(hall.listeners[1].address(), Some(&old.host("a")), &TLS13, ALPN);
    let (_, error) = converse(&mut tls, &mut socket, b"");
    assert_eq!(error, Some(rustls::Error::AlertReceived(AlertDescription::UnknownCA)));
    cluster.install("a", &new.host("a"), &[&new]);
    works("so has a");
    // Files that cannot be used refuse, and are no reason to go on with the old ones.
    write(&cluster.directory.0.join("a").join(ANCHORS_FILE), "nothing", 0o644);
    let error = channel(&hall, &meshes).expect_err("no anchors");
    assert!(matches!(&error, FabricError::Keys { trouble: Trouble::Files(_), .. }), "{error}");
    write(&cluster.directory.0.join("a").join(ANCHORS_FILE), &new.anchor, 0o644);
    works("mended");
    // The links have been there all the time.
    meshes[1].send(HostId(0), &[b"still here"]);
    meshes[1].flush();
    recorders[0].wait_for(&Told::Message(HostId(1), b"still here".to_vec()));
    assert!(recorders.iter().all(|recorder| recorder.losses() == 0));
    shutdown(&meshes);
}

#[test]
fn channels_carry_everything_and_their_ends() {
    let cluster = Cluster::new();
    let (_, hall) = cluster.hall(2);
    let meshes = hall.open();
    let bytes = Random(3).bytes(3_000_000);
    let read_all = |end: &mut TcpStream| {
        let mut heard = Vec::new();
        end.read_to_end(&mut heard).map(|_| heard)
    };
    // Both ways at once, and each end goes over behind the last byte while the other direction goes on.
    let (mut near, mut far) = channel(&hall, &meshes).expect("it stands");
    thread::scope(|scope| {
        let (mut near_too, mut far_too) = (near.try_clone().expect("open"), far.try_clone().expect("open"));
        let bytes = &bytes;
        scope.spawn(move || {
            near_too.write_all(bytes).expect("it reads");
            near_too.shutdown(Shutdown::Write).expect("open");
        });
        let heard = scope.spawn(move || read_all(&mut far_too));
        assert_eq!(heard.join().expect("no panic").expect("no error"), *bytes);
        scope.spawn(|| far.write_all(bytes).and_then(|()| far.shutdown(Shutdown::Both)));
        assert_eq!(read_all(&mut near).expect("no error"), *bytes);
    });
    // An end that is closed at once, behind what it wrote; from either side.
    for turn in 0..6 {
        let (near, far) = channel(&hall, &meshes).expect("it stands");
        let (mut one, mut other) = if turn % 2 == 0 { (near, far) } else { (far, near) };
        one.write_all(&bytes[..100_000]).expect("there is room for it");
        drop(one);
        assert_eq!(read_all(&mut other).expect("no error"), bytes[..100_000]);
        // Nobody reads any more: whoever writes hears of it, and soon.
        let begin = Instant::now();
        while other.write_all(&bytes).is_ok() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the far end has gone");
        }
    }
    shutdown(&meshes);
    assert!(hall.agents.iter().all(|agent| agent.strangers.change(|told| told.is_empty())));
}

#[test]
fn a_channel_whose_reader_is_slow_holds_its_writer_back() {
    let cluster = Cluster::new();
    let (_, hall) = cluster.hall(2);
    let meshes = hall.open();
    let (mut near, mut far) = channel(&hall, &meshes).expect("it stands");
    near.set_nonblocking(true).expect("open");
    let (piece, mut sent, mut stuck) = (vec![7; 1 << 20], 0, 0);
    // Until nothing has gone for a second.
    while stuck < 100 {
        match near.write(&piece) {
            Ok(count) => (sent, stuck) = (sent + count, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                thread::sleep(Duration::from_millis(10));
                stuck += 1;
            }
        }
        assert!(sent < 256 << 20, "nothing holds it back");
    }
    drop(near);
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).expect("no error");
    assert_eq!(heard.len(), sent);
    shutdown(&meshes);
}

#[test]
fn a_channel_ends_at_both_ends_when_the_network_goes() {
    let cluster = Cluster::new();
    let (_, hall) = cluster.hall(2);
    let (address, meddle) = meddler(hall.listeners[1].address());
    // A channel by hand, through the meddler, which breaks it.
    let meshes = hall.open();
    let hello = ChannelHello { machine: MACHINE, epoch: EPOCH, from: HostId(0), to: HostId(1), words: WORDS };
    let (mut tls, mut socket) = stranger(address, Some(&cluster.authority.host("a")), &TLS13, ALPN);
    tls.writer().write_all(&encode_channel(CLUSTER, &hello)).expect("kept");
    while tls.reader().read(&mut [0; 64]).is_err() {
        tls.complete_io(&mut socket).expect("it is passed on");
    }
    let (_, _, mut far) = hall.agents[1].channels.wait_for("a channel", Vec::pop);
    tls.writer().write_all(b"whole").expect("kept");
    tls.complete_io(&mut socket).expect("it is passed on");
    let mut heard = [0; 5];
    far.read_exact(&mut heard).expect("it came");
    meddle.store(true, Ordering::Relaxed);
    tls.writer().write_all(b"broken").expect("kept");
    tls.complete_io(&mut socket).expect("it is passed on");
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).expect("an end");
    assert_eq!((&heard, rest), (b"whole", Vec::new()));
    assert!(far.write_all(b"anybody?").is_err(), "both ways");
    shutdown(&meshes);
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    let cluster = Cluster::new();
    let authority = &cluster.authority;
    let why = |name: &str| Keys::open(&cluster.directory.0.join(name), name).err().expect("no good");
    assert!(matches!(why("nobody"), KeysError::File { .. }));
    assert!(matches!(why("a b"), KeysError::Name { .. }));
    assert!(matches!(why("10.0.0.1"), KeysError::Name { .. }));
    cluster.install("a", &authority.host("b"), &[authority]);
    assert!(why("a").to_string().contains("it is for a host of another name"));
    cluster.install("a", &authority.host_between("a", 2000, 2001), &[authority]);
    assert!(why("a").to_string().contains("it has expired; see: megalith doctor"));
    cluster.install("a", &authority.host("a"), &[&Authority::new("another")]);
    assert!(why("a").to_string().contains("it is of another cluster"));
    let other = Shown { key: authority.host("a").key, ..authority.host("a") };
    cluster.install("a", &other, &[authority]);
    assert!(why("a").to_string().contains("host.key: it does not fit host.pem"));
    let directory = cluster.install("a", &authority.host("a"), &[authority]);
    fs::set_permissions(directory.join(KEY_FILE), fs::Permissions::from_mode(0o640)).expect("our file");
    assert!(matches!(why("a"), KeysError::Open { .. }));
    fs::set_permissions(directory.join(KEY_FILE), fs::Permissions::from_mode(0o400)).expect("our file");
    Keys::open(&directory, "a").expect("good keys");
}
