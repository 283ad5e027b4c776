//! Channels: who gets which end, who is refused, and that strangers cost one bounded wait.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use coherence::{Epoch, HostId};

use super::Random;
use super::handshakes::answer_to;
use super::parties::{Agent, CLUSTER, EPOCH, Hall, MACHINE, shutdown};
use crate::sync::lock;
use crate::wire::{ChannelHello, Hello, PROTOCOL_VERSION, Reply, decode_body, encode_channel, encode_hello};
use crate::{ClusterId, Fabric, FabricError, MachineId};

const WORDS: [u64; 4] = [7, 1, u64::MAX, 0];

fn hello() -> ChannelHello {
    ChannelHello { machine: MACHINE, epoch: EPOCH, from: HostId(0), to: HostId(1), words: WORDS }
}

fn taken(agent: &Agent) -> (HostId, [u64; 4], TcpStream) {
    agent.channels.wait_for("a channel", Vec::pop)
}

fn refusal(answer: Option<Vec<u8>>) -> String {
    let answer = answer.expect("a reply");
    assert_eq!(answer[12], 3, "refused");
    String::from_utf8_lossy(&answer[20..]).into_owned()
}

#[test]
fn any_member_dials_any_other_and_either_end_may_speak_first() {
    let (_, hall) = Hall::recorders(3);
    let meshes = hall.open();
    for (from, to) in [(0, 1), (2, 0), (2, 1), (1, 2)] {
        let near = meshes[from].open_channel(HostId(to as u16), WORDS).expect("it is there");
        let mut near = TcpStream::from(near);
        let (who, words, mut far) = taken(&hall.agents[to]);
        assert_eq!((who, words), (HostId(from as u16), WORDS));
        for socket in [&near, &far] {
            assert!(socket.nodelay().expect("open"));
            assert_eq!((socket.read_timeout().unwrap(), socket.write_timeout().unwrap()), (None, None));
        }
        let bytes = Random(from as u64).bytes(300_000);
        let mut heard = vec![0; bytes.len()];
        thread::scope(|scope| {
            scope.spawn(|| far.write_all(&bytes).expect("it reads"));
            near.read_exact(&mut heard).expect("all of it");
        });
        assert_eq!(heard, bytes);
        near.write_all(b"and back").expect("open");
        drop(near);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).expect("until its end");
        assert_eq!(rest, b"and back");
    }
    shutdown(&meshes);
}

#[test]
fn an_agents_refusal_is_told() {
    let (_, hall) = Hall::recorders(2);
    let meshes = hall.open();
    *lock(&hall.agents[1].refuse) = Some("no such space".into());
    let error = meshes[0].open_channel(HostId(1), WORDS).expect_err("refused");
    assert!(
        matches!(&error, FabricError::Refused { host, reason } if host == "b" && reason == "no such space"),
        "{error}"
    );
    shutdown(&meshes);
}

#[test]
fn an_agent_that_is_gone_is_unreachable() {
    let (_, hall) = Hall::recorders(2);
    let meshes = hall.open();
    hall.listeners[1].shutdown();
    let error = meshes[0].open_channel(HostId(1), WORDS).expect_err("nobody listens");
    assert_eq!((error.kind(), error.host()), ("unreachable", Some("b")), "{error}");
    shutdown(&meshes);
}

#[test]
fn a_silent_agent_costs_the_join_timeout() {
    let (_, hall) = Hall::recorders(1);
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    // b is there for the link and answers nothing afterwards.
    let mut invitation = hall.invitation();
    let address = silent.local_addr().expect("bound").to_string();
    invitation.members.push(crate::Member { name: "b".into(), address });
    invitation.settings.join_timeout = Duration::from_millis(500);
    let b = thread::spawn(move || {
        let (mut socket, _) = silent.accept().expect("a dialer");
        let mut preamble = [0; 32];
        socket.read_exact(&mut preamble).expect("a hello");
        let length = u32::from_le_bytes(preamble[28..].try_into().expect("four bytes"));
        socket.read_exact(&mut vec![0; length as usize]).expect("a hello");
        socket.write_all(&Reply::Accepted.encode()).expect("it reads");
        // Ready, as a frame of the epoch.
        socket.write_all(&[0, 0, 0, 2, EPOCH.0 as u8, 0, 0, 0]).expect("it reads");
        let (mut channel, _) = silent.accept().expect("the channel");
        let _ = channel.read_to_end(&mut Vec::new());
        socket
    });
    let mesh = crate::TcpMesh::open(
        &hall.listeners[0],
        invitation,
        std::sync::Arc::<super::parties::Recorder>::default(),
    )
    .expect("it stands");
    let begin = Instant::now();
    let error = mesh.open_channel(HostId(1), WORDS).expect_err("silence");
    assert_eq!((error.kind(), error.host()), ("timeout", Some("b")), "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(500) && begin.elapsed() < Duration::from_secs(10));
    drop(mesh);
    b.join().expect("played");
}

#[test]
fn strangers_are_told_why_and_get_nothing() {
    let (_, hall) = Hall::recorders(3);
    // No machine yet.
    assert!(refusal(answer_to(&hall, &encode_channel(CLUSTER, &hello()))).contains("is not here"));
    // One that does not stand, because c never hears of it: b has joined, and waits for home's word.
    let socket = TcpStream::connect(hall.listeners[1].address()).expect("b listens");
    (&socket).write_all(&encode_hello(CLUSTER, &hall.invitation(), HostId(1))).expect("b reads");
    (&socket).read_exact(&mut [0; 20]).expect("b accepts");
    let begin = Instant::now();
    assert!(refusal(answer_to(&hall, &encode_channel(CLUSTER, &hello()))).contains("does not stand"));
    assert!(begin.elapsed() < Duration::from_secs(5), "the patience of the test's listeners");
    hall.agents[1].mesh().shutdown();
    drop(socket);
    hall.agents.iter().for_each(|agent| agent.joined.change(Vec::clear));

    let meshes = hall.open();
    let foreign = encode_channel(ClusterId([8; 16]), &hello());
    assert_eq!(answer_to(&hall, &foreign), Some(Reply::Cluster.encode()));
    let mut newer = encode_channel(CLUSTER, &hello());
    newer[8..12].copy_from_slice(&9_u32.to_le_bytes());
    assert_eq!(answer_to(&hall, &newer), Some(Reply::Version(PROTOCOL_VERSION).encode()));
    let unknown = ChannelHello { machine: MachineId(1), ..hello() };
    assert!(refusal(answer_to(&hall, &encode_channel(CLUSTER, &unknown))).contains("0000000000000001"));
    for wrong in [
        ChannelHello { epoch: Epoch(99), ..hello() },
        ChannelHello { to: HostId(2), ..hello() },
        ChannelHello { from: HostId(1), ..hello() },
        ChannelHello { from: HostId(3), ..hello() },
    ] {
        let answer = answer_to(&hall, &encode_channel(CLUSTER, &wrong));
        assert!(refusal(answer).contains("other hosts"), "{wrong:?}");
    }
    let begin = Instant::now();
    let whole = encode_channel(CLUSTER, &hello());
    assert_eq!(answer_to(&hall, &whole[..whole.len() - 1]), None, "half a hello is dropped");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(hall.agents[1].channels.change(|taken| taken.len()), 0);
    shutdown(&meshes);
}

#[test]
fn every_mutilated_hello_is_refused_or_understood() {
    let encoded = encode_channel(CLUSTER, &hello());
    let body = &encoded[32..];
    assert_eq!(decode_body(body), Some(Hello::Channel(hello())));
    for length in 0..body.len() {
        assert_eq!(decode_body(&body[..length]), None, "cut at {length}");
    }
    assert_eq!(decode_body(&[body, &[0]].concat()), None, "too long");
    let mut other = body.to_vec();
    other[0] = 2;
    assert_eq!(decode_body(&other), None, "neither link nor channel");
}
