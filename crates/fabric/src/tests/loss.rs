//! A host that is gone is found gone, once, with the reason, in time.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use coherence::HostId;

use super::PATIENCE;
use super::parties::{CLUSTER, EPOCH, Hall, MACHINE, SETTINGS, Told, shutdown};
use crate::deadline::Deadline;
use crate::frame::{Kind, append};
use crate::wire::{Hello, PREAMBLE_BYTES, Preamble, Reply, decode_body};
use crate::{Fabric, Invitation, Lost, Member, TcpMesh};

/// The last host of a machine of two, played by hand: accepts, says Ready, and gives the socket to the test.
fn puppet(hall: &Hall, recorder: usize) -> (Arc<TcpMesh>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let mut invitation = hall.invitation();
    invitation.members.truncate(1);
    invitation
        .members
        .push(Member { name: "puppet".into(), address: listener.local_addr().expect("bound").to_string() });
    assert_eq!(recorder, 0);
    let play = thread::spawn(move || {
        let (socket, _) = listener.accept().expect("home dials");
        let deadline = Deadline::after(PATIENCE);
        let mut preamble = [0; PREAMBLE_BYTES];
        deadline.read_exact(&socket, &mut preamble).expect("a preamble");
        let preamble = Preamble::decode(&preamble).expect("a preamble");
        assert_eq!(preamble.cluster, CLUSTER);
        let mut body = vec![0; preamble.body_bytes];
        deadline.read_exact(&socket, &mut body).expect("a body");
        let Some(Hello::Link(from, invitation)) = decode_body(&body) else { panic!("a link's body") };
        assert_eq!((from, invitation.me, invitation.machine), (HostId(0), HostId(1), MACHINE));
        let mut answer = Reply::Accepted.encode();
        append(&mut answer, Kind::Ready, EPOCH, &[]);
        deadline.write_all(&socket, &answer).expect("home reads");
        socket
    });
    let mesh = hall.try_open(invitation).expect("it stands").remove(0);
    (mesh, play.join().expect("the puppet played"))
}

fn send(socket: &TcpStream, bytes: &[u8]) {
    Deadline::after(PATIENCE).write_all(socket, bytes).expect("home reads");
}

#[test]
fn a_host_whose_sockets_close_is_lost_at_once_and_once() {
    let (recorders, hall) = Hall::recorders(1);
    let (mesh, socket) = puppet(&hall, 0);
    let begin = Instant::now();
    drop(socket);
    let (when, reason) = recorders[0].wait_lost(HostId(1));
    assert!(matches!(reason, Lost::Closed | Lost::Broken(_)), "{reason}");
    assert!(when - begin < SETTINGS.lost_after, "took {:?}", when - begin);
    // Sends are dropped silently, and it is told once.
    mesh.send(HostId(1), &[b"anybody?"]);
    mesh.flush();
    assert_eq!(mesh.backlog(HostId(1)), 0);
    thread::sleep(SETTINGS.heartbeat * 3);
    assert_eq!(recorders[0].losses(), 1);
    mesh.shutdown();
}

/// Its threads live, and what it is told is not handled any more.
#[test]
fn a_host_that_does_not_get_on_is_lost() {
    let (recorders, hall) = Hall::recorders(2);
    let meshes = hall.open();
    thread::sleep(SETTINGS.lost_after + SETTINGS.heartbeat);
    assert_eq!(recorders[0].losses(), 0, "a host that says nothing gives signs of life");
    recorders[1].stuck.store(true, Ordering::Relaxed);
    let (_, reason) = recorders[0].wait_lost(HostId(1));
    assert_eq!(reason, Lost::Silent(SETTINGS.lost_after));
    shutdown(&meshes);
}

#[test]
fn a_silent_host_is_lost_after_lost_after() {
    let (recorders, hall) = Hall::recorders(1);
    let begin = Instant::now();
    let (mesh, _socket) = puppet(&hall, 0);
    let (when, reason) = recorders[0].wait_lost(HostId(1));
    assert_eq!(reason, Lost::Silent(SETTINGS.lost_after));
    assert_eq!(reason.to_string(), "no sign of life for 1500 ms");
    let took = when - begin;
    assert!(took >= SETTINGS.lost_after && took < SETTINGS.lost_after * 3, "took {took:?}");
    mesh.shutdown();
}

#[test]
fn a_silent_host_is_lost_in_time_while_much_is_being_sent_to_it() {
    let (recorders, hall) = Hall::recorders(1);
    let begin = Instant::now();
    let (mesh, _socket) = puppet(&hall, 0);
    for _ in 0..64 {
        mesh.send(HostId(1), &[&vec![1; 1 << 20]]);
        mesh.flush();
    }
    assert!(mesh.backlog(HostId(1)) > 0);
    let (when, reason) = recorders[0].wait_lost(HostId(1));
    assert_eq!(reason, Lost::Silent(SETTINGS.lost_after));
    assert!(when - begin < SETTINGS.lost_after * 3);
    assert_eq!(mesh.backlog(HostId(1)), 0);
    mesh.shutdown();
}

#[test]
fn signs_of_life_keep_an_idle_machine_together() {
    let (recorders, hall) = Hall::recorders(3);
    let meshes = hall.open();
    thread::sleep(SETTINGS.lost_after * 2);
    assert!(recorders.iter().all(|recorder| recorder.losses() == 0));
    // Few: one a heartbeat and peer, 8 bytes each.
    let sent = meshes[0].traffic().sent;
    assert!((100..2000).contains(&sent), "{sent} bytes of keep-alives");
    shutdown(&meshes);
}

#[test]
fn frames_of_another_epoch_are_dropped_and_garbage_is_a_loss() {
    let (recorders, hall) = Hall::recorders(1);
    let (mesh, socket) = puppet(&hall, 0);
    let mut bytes = Vec::new();
    append(&mut bytes, Kind::Message, coherence::Epoch(EPOCH.0 - 1), &[b"from the past"]);
    append(&mut bytes, Kind::Goodbye, coherence::Epoch(EPOCH.0 + 1), &[]);
    append(&mut bytes, Kind::Message, EPOCH, &[b"now"]);
    bytes.extend(0xdead_beef_u32.to_le_bytes());
    send(&socket, &bytes);
    assert_eq!(recorders[0].wait_lost(HostId(1)).1, Lost::Garbage(0xdead_beef));
    let told = recorders[0].told.change(|told| told.clone());
    assert_eq!(told[0], Told::Message(HostId(1), b"now".to_vec()));
    mesh.shutdown();
}

#[test]
fn a_goodbye_by_hand_is_no_loss_even_if_the_socket_breaks_after() {
    let (recorders, hall) = Hall::recorders(1);
    let (mesh, socket) = puppet(&hall, 0);
    // Unread bytes make the close a reset.
    mesh.send(HostId(1), &[&[1; 1000]]);
    mesh.flush();
    let mut bytes = Vec::new();
    append(&mut bytes, Kind::Goodbye, EPOCH, &[]);
    send(&socket, &bytes);
    drop(socket);
    recorders[0].wait_for(&Told::Goodbye(HostId(1)));
    mesh.shutdown();
    assert_eq!(recorders[0].losses(), 0);
}

#[test]
fn shutdown_with_a_peer_that_reads_nothing_is_bounded() {
    let (_recorders, hall) = Hall::recorders(1);
    let (mesh, _socket) = puppet(&hall, 0);
    for _ in 0..64 {
        mesh.send(HostId(1), &[&vec![1; 1 << 20]]);
    }
    mesh.flush();
    let begin = Instant::now();
    mesh.shutdown();
    assert!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
}

#[test]
fn a_member_whose_home_dies_before_the_machine_stands_is_told() {
    let (recorders, hall) = Hall::recorders(2);
    let Invitation { members, .. } = hall.invitation();
    // Home plays by hand: it invites b and then goes away.
    let deadline = Deadline::after(PATIENCE);
    let socket = TcpStream::connect(&members[1].address).expect("b listens");
    send(&socket, &crate::wire::encode_hello(CLUSTER, &hall.invitation(), HostId(1)));
    let mut reply = [0; crate::wire::REPLY_HEADER_BYTES];
    deadline.read_exact(&socket, &mut reply).expect("b answers");
    let mesh = hall.agents[1].mesh();
    let mut bytes = Vec::new();
    append(&mut bytes, Kind::Goodbye, EPOCH, &[]);
    send(&socket, &bytes);
    socket.shutdown(Shutdown::Write).expect("open");
    assert_eq!(recorders[1].wait_lost(HostId(0)).1, Lost::Withdrawn);
    mesh.shutdown();
}

#[test]
fn a_member_that_the_others_never_join_gives_up_in_time() {
    let (recorders, hall) = Hall::recorders(3);
    let mut invitation = hall.invitation();
    invitation.settings.join_timeout = Duration::from_millis(600);
    invitation.me = HostId(1);
    // b invites c, but home never calls.
    let socket = TcpStream::connect(&invitation.members[2].address).expect("c listens");
    send(&socket, &crate::wire::encode_hello(CLUSTER, &invitation, HostId(2)));
    let (_, reason) = recorders[2].wait_lost(HostId(0));
    assert_eq!(reason, Lost::NotJoined(Duration::from_millis(600)));
    hall.agents[2].mesh().shutdown();
}
