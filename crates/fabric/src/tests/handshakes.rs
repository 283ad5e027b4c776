//! Who is refused, what both sides are told, and that strangers cost one bounded wait.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use coherence::{Epoch, HostId};

use super::parties::{Agent, CLUSTER, Hall, MACHINE, Recorder, shutdown};
use super::{PATIENCE, Random};
use crate::sync::lock;
use crate::wire::{BODY_BYTES_MAX, Hello, PROTOCOL_VERSION, Reply, decode_body, encode_hello};
use crate::{ClusterId, Fabric, FabricError, Listener, Member};

fn open_error(hall: &Hall) -> FabricError {
    hall.try_open(hall.invitation()).err().expect("it must not stand")
}

/// A listener that answers any connection with `answer` and holds it.
fn answering(answer: Vec<u8>) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound").to_string();
    let serve = move || {
        let (mut socket, _) = listener.accept().expect("somebody dials");
        socket.write_all(&answer).expect("it reads");
        // Until the other side gives up.
        let _ = socket.read_to_end(&mut Vec::new());
    };
    (address, thread::spawn(serve))
}

fn error_of_dialing(answer: Vec<u8>, join_timeout: Duration) -> FabricError {
    let (_, hall) = Hall::recorders(1);
    let (address, server) = answering(answer);
    let mut invitation = hall.invitation();
    invitation.members.push(Member { name: "b".into(), address });
    invitation.settings.join_timeout = join_timeout;
    let error = hall.try_open(invitation).err().expect("it must not stand");
    server.join().expect("served");
    error
}

#[test]
fn another_version_is_named_by_both() {
    let mut reply = Reply::Version(0).encode();
    reply[8..12].copy_from_slice(&9_u32.to_le_bytes());
    let error = error_of_dialing(reply, PATIENCE);
    assert!(
        matches!(&error, FabricError::Version { host, ours: PROTOCOL_VERSION, theirs: 9 } if host == "b"),
        "{error}"
    );
    assert_eq!(error.kind(), "version");

    let (_, hall) = Hall::recorders(2);
    let mut hello = encode_hello(CLUSTER, &hall.invitation(), HostId(1));
    hello[8..12].copy_from_slice(&9_u32.to_le_bytes());
    assert_eq!(answer_to(&hall, &hello), Some(Reply::Version(PROTOCOL_VERSION).encode()));
}

#[test]
fn another_cluster_is_refused() {
    let (_, hall) = Hall::recorders(1);
    let stranger = Agent::new("b", std::sync::Arc::new(Recorder::default()));
    let other = Listener::bind("127.0.0.1:0", ClusterId([8; 16]), None, stranger.clone()).expect("loopback");
    let mut invitation = hall.invitation();
    invitation.members.push(Member { name: "b".into(), address: other.address().to_string() });
    let error = hall.try_open(invitation).err().expect("refused");
    assert!(matches!(&error, FabricError::Cluster { host } if host == "b"), "{error}");
    assert_eq!((error.kind(), error.host()), ("cluster", Some("b")));
    assert_eq!(stranger.joined.change(|joined| joined.len()), 0);
}

#[test]
fn a_name_that_differs_is_reported_with_both_names() {
    let (_, hall) = Hall::recorders(2);
    let mut invitation = hall.invitation();
    invitation.members[1].name = "bob".into();
    let error = hall.try_open(invitation).err().expect("refused");
    assert_eq!(
        error.to_string(),
        "host bob: the agent at its address is named b, not bob; mend the hosts file or the agent's name"
    );
    assert_eq!(error.kind(), "name");
    let mut invitation = hall.invitation();
    invitation.members[0].name = "alice".into();
    assert_eq!(hall.try_open(invitation).err().expect("refused").kind(), "name");
}

#[test]
fn an_agents_own_reason_reaches_home() {
    let (recorders, hall) = Hall::recorders(3);
    *lock(&hall.agents[2].refuse) = Some("no room\x1b[31m left".into());
    let error = open_error(&hall);
    assert_eq!(error.kind(), "refused");
    assert_eq!(error.host(), Some("c"));
    assert!(error.to_string().contains("no room [31m left"), "{error}");
    // b, who had joined, is told, and everything can be tried again.
    if hall.agents[1].joined.change(|joined| !joined.is_empty()) {
        recorders[1].wait_lost(HostId(0));
        hall.agents[1].mesh().shutdown();
        hall.agents[1].joined.change(|joined| joined.clear());
    }
    *lock(&hall.agents[2].refuse) = None;
    assert_eq!(recorders[0].losses(), 0, "a failed open is told by its error alone");
}

#[test]
fn nobody_there_is_unreachable_at_once() {
    let (_, hall) = Hall::recorders(1);
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound");
    let mut invitation = hall.invitation();
    invitation.members.push(Member { name: "b".into(), address: free.to_string() });
    let begin = Instant::now();
    let error = hall.try_open(invitation).err().expect("nobody there");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!((error.kind(), error.host()), ("unreachable", Some("b")), "{error}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

#[test]
fn a_member_that_cannot_reach_another_tells_home() {
    let (_, hall) = Hall::recorders(3);
    // Home finds c at its true address; b is told another, by a proxy of the handshake: b's own hello names it.
    let mut for_b = hall.invitation();
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound");
    for_b.members[2].address = free.to_string();
    let socket = TcpStream::connect(&for_b.members[1].address).expect("b listens");
    (&socket).write_all(&encode_hello(CLUSTER, &for_b, HostId(1))).expect("b reads");
    let mut bytes = vec![0; 20 + 8 + 3];
    (&socket).read_exact(&mut bytes).expect("b reports");
    assert_eq!(bytes[..20], Reply::Accepted.encode());
    assert_eq!(bytes[23], 3, "a Failed frame");
    assert_eq!(bytes[28..31], [2, 0, 0], "host 2, unreachable");
    hall.agents[1].mesh().shutdown();
}

#[test]
fn home_is_told_which_two_hosts_cannot_link() {
    let (recorders, hall) = Hall::recorders(2);
    // c, played by hand, takes home (host 0) and refuses b (host 1).
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let mut invitation = hall.invitation();
    invitation
        .members
        .push(Member { name: "c".into(), address: listener.local_addr().expect("bound").to_string() });
    let c = thread::spawn(move || {
        let serve = |_| {
            let (mut socket, _) = listener.accept().expect("a dialer");
            let mut preamble = [0; 32];
            socket.read_exact(&mut preamble).expect("a hello");
            let length = u32::from_le_bytes(preamble[28..].try_into().expect("four bytes"));
            let mut body = vec![0; length as usize];
            socket.read_exact(&mut body).expect("a hello");
            let Some(Hello::Link(from, _)) = decode_body(&body) else { panic!("a link's hello") };
            let reply = if from.0 == 0 { Reply::Accepted } else { Reply::Refused("I do not know b".into()) };
            socket.write_all(&reply.encode()).expect("the dialer reads");
            socket
        };
        // Held until home gives up.
        for mut socket in (0..2).map(serve).collect::<Vec<_>>() {
            let _ = socket.read_to_end(&mut Vec::new());
        }
    });
    let error = hall.try_open(invitation).err().expect("b and c cannot link");
    assert!(matches!(&error, FabricError::Between { by, host, .. } if by == "b" && host == "c"), "{error}");
    assert_eq!(error.kind(), "refused");
    assert_eq!(error.to_string(), "host b reports: host c: its agent refused to join: I do not know b");
    assert_eq!(recorders[1].wait_lost(HostId(0)).1, crate::Lost::Withdrawn);
    hall.agents[1].mesh().shutdown();
    c.join().expect("played");
}

#[test]
fn a_silent_listener_costs_the_join_timeout() {
    let begin = Instant::now();
    let error = error_of_dialing(Vec::new(), Duration::from_millis(400));
    assert_eq!((error.kind(), error.host()), ("timeout", Some("b")), "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(400) && begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_listener_that_speaks_something_else_is_no_agent() {
    let error = error_of_dialing(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), PATIENCE);
    assert_eq!(error.kind(), "unreachable");
    assert!(error.to_string().contains("not a Megalith agent"), "{error}");
}

/// What b answers to `bytes` before it closes; `None` if nothing.
pub fn answer_to(hall: &Hall, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut socket = TcpStream::connect(hall.listeners[1].address()).expect("b listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("open");
    // b may close before it has read all.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "b must close"),
    }
    (!answer.is_empty()).then_some(answer)
}

#[test]
fn garbage_silence_and_half_a_hello_are_dropped_and_harm_nobody() {
    let (_, hall) = Hall::recorders(2);
    let hello = encode_hello(CLUSTER, &hall.invitation(), HostId(1));
    let begin = Instant::now();
    let mut random = Random(1);
    assert_eq!(answer_to(&hall, b"GET / HTTP/1.1\r\nHost: megalith.example\r\n\r\n"), None);
    assert_eq!(answer_to(&hall, &random.bytes(100_000)), None);
    assert_eq!(answer_to(&hall, &[]), None);
    assert_eq!(answer_to(&hall, &hello[..20]), None);
    assert_eq!(answer_to(&hall, &hello[..hello.len() - 1]), None);
    let mut endless = hello.clone();
    endless[28..32].copy_from_slice(&(BODY_BYTES_MAX as u32 + 1).to_le_bytes());
    assert_eq!(answer_to(&hall, &endless), None);
    assert!(begin.elapsed() < Duration::from_secs(15), "each is bounded by 0.7 s: {:?}", begin.elapsed());
    assert_eq!(hall.agents[1].joined.change(|joined| joined.len()), 0);
    // And a mesh still stands, beside a connection that hangs.
    let _hanging = TcpStream::connect(hall.listeners[1].address()).expect("b listens");
    shutdown(&hall.open());
}

#[test]
fn a_trickle_of_bytes_does_not_extend_the_patience() {
    let (_, hall) = Hall::recorders(2);
    let mut socket = TcpStream::connect(hall.listeners[1].address()).expect("b listens");
    let begin = Instant::now();
    for byte in encode_hello(CLUSTER, &hall.invitation(), HostId(1)) {
        if socket.write_all(&[byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        assert!(begin.elapsed() < Duration::from_secs(4), "b still listens");
    }
    assert!(begin.elapsed() >= Duration::from_millis(700));
}

#[test]
fn impossible_invitations_are_refused_with_a_reason() {
    let (_, hall) = Hall::recorders(3);
    let good = hall.invitation();
    let mut same_name = good.clone();
    same_name.members[2].name = "b".into();
    let mut too_few = good.clone();
    too_few.members.clear();
    let mut impatient = good.clone();
    impatient.settings.lost_after = impatient.settings.heartbeat;
    let mut from_above = good.clone();
    from_above.me = HostId(2);
    for (invitation, to, why) in [
        (same_name, 1, "two hosts are named b"),
        (too_few, 1, "1 to 1024 hosts"),
        (impatient, 1, "at least twice heartbeat"),
        (from_above, 1, "dials the higher ones only"),
        (good.clone(), 77, "not among 3 members"),
    ] {
        let answer = answer_to(&hall, &encode_hello(CLUSTER, &invitation, HostId(to))).expect("a reply");
        let text = String::from_utf8_lossy(&answer[20..]).into_owned();
        assert!(answer[12] == 3 && text.contains(why), "{why}: {text}");
    }
    // Another epoch of a machine that is here.
    let meshes = hall.open();
    let mut other = good;
    other.epoch = Epoch(99);
    let answer = answer_to(&hall, &encode_hello(CLUSTER, &other, HostId(1))).expect("a reply");
    assert!(String::from_utf8_lossy(&answer).contains("here already, at epoch 3"));
    // A second connection for a link that stands.
    let answer = answer_to(&hall, &encode_hello(CLUSTER, &hall.invitation(), HostId(1))).expect("a reply");
    assert!(String::from_utf8_lossy(&answer).contains("linked already"));
    shutdown(&meshes);
}

#[test]
fn every_mutilated_body_is_refused_or_understood_never_a_panic() {
    let (_, hall) = Hall::recorders(3);
    let hello = encode_hello(CLUSTER, &hall.invitation(), HostId(1));
    let body = &hello[32..];
    let Some(Hello::Link(from, decoded)) = decode_body(body) else { panic!("its own encoding") };
    assert_eq!((from, decoded.me, decoded.machine), (HostId(0), HostId(1), MACHINE));
    assert_eq!(decoded.members, hall.invitation().members);
    for length in 0..body.len() {
        assert!(decode_body(&body[..length]).is_none(), "cut at {length}");
    }
    let mut random = Random(5);
    for _ in 0..20_000 {
        let mut mutilated = body.to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(mutilated.len());
            mutilated[at] = random.next() as u8;
        }
        if let Some(Hello::Link(_, invitation)) = decode_body(&mutilated) {
            let _ = invitation.check();
        }
    }
}

#[test]
fn an_address_in_use_says_so() {
    let (_, hall) = Hall::recorders(1);
    let taken = hall.listeners[0].address().to_string();
    let error = Listener::bind(&taken, CLUSTER, None, hall.agents[0].clone()).err().expect("taken");
    assert_eq!(error.kind(), "bind");
    assert!(error.to_string().contains(&taken), "{error}");
}

#[test]
fn a_listener_that_is_shut_down_takes_nobody_and_leaves_machines_alone() {
    let (recorders, hall) = Hall::recorders(2);
    let meshes = hall.open();
    hall.listeners.iter().for_each(Listener::shutdown);
    hall.listeners.iter().for_each(Listener::shutdown);
    assert!(TcpStream::connect(hall.listeners[1].address()).is_err());
    meshes[1].send(HostId(0), &[b"here"]);
    meshes[1].flush();
    recorders[0].wait_for(&super::parties::Told::Message(HostId(1), b"here".to_vec()));
    shutdown(&meshes);
}
