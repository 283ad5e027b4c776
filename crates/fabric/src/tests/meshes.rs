//! Whole meshes: everything arrives, in order, intact; they end on purpose without a loss.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use coherence::HostId;

use super::Random;
use super::parties::{CLUSTER, EPOCH, Hall, MACHINE, Recorder, SETTINGS, Told, Watched, shutdown, wait_sent};
use crate::{Fabric, Host, Inbox, Invitation, Listener, Lost, MachineId, Member, TcpMesh};

/// Checks messages against the same random stream that the sender draws from.
struct Checker {
    streams: Watched<Vec<(Random, u64)>>,
    drained: Watched<u64>,
}

fn stream(from: HostId, to: HostId) -> Random {
    Random(u64::from(from.0) * 1000 + u64::from(to.0))
}

fn draw(random: &mut Random) -> Vec<u8> {
    let magnitude = random.below(13);
    let length = random.below((1 << magnitude) + 1);
    random.bytes(length)
}

impl Checker {
    fn new(me: u16, hosts: u16) -> Arc<Checker> {
        let streams = Watched::default();
        streams.change(|streams: &mut Vec<_>| {
            streams.extend((0..hosts).map(|from| (stream(HostId(from), HostId(me)), 0)))
        });
        Arc::new(Checker { streams, drained: Watched::default() })
    }
}

impl Inbox for Checker {
    fn message(&self, from: HostId, bytes: &[u8]) {
        self.streams.change(|streams| {
            let (random, count) = &mut streams[usize::from(from.0)];
            assert!(draw(random) == bytes, "message {count} from {from:?} differs");
            *count += 1;
        });
    }
    fn drained(&self, _from: HostId) {
        self.drained.change(|drained| *drained += 1);
    }
    fn lost(&self, host: HostId, reason: Lost) {
        panic!("{host:?} lost: {reason}");
    }
}

#[test]
fn three_hosts_exchange_a_hundred_thousand_messages_in_order_and_intact() {
    const PER_PAIR: u64 = 100_000 / 6;
    let checkers: Vec<_> = (0..3).map(|me| Checker::new(me, 3)).collect();
    let hall = Hall::new(&checkers);
    let meshes = hall.open();
    thread::scope(|scope| {
        for mesh in &meshes {
            scope.spawn(move || {
                let me = mesh.me();
                let others: Vec<HostId> = (0..mesh.hosts()).map(HostId).filter(|host| *host != me).collect();
                let mut streams: Vec<Random> = others.iter().map(|to| stream(me, *to)).collect();
                let mut random = Random(u64::from(me.0) + 77);
                for _ in 0..PER_PAIR {
                    for (to, stream) in others.iter().zip(&mut streams) {
                        let message = draw(stream);
                        let cut = random.below(message.len() + 1);
                        mesh.send(*to, &[&message[..cut], &message[cut..]]);
                        if random.below(10) == 0 {
                            mesh.flush();
                        }
                    }
                }
                mesh.flush();
            });
        }
    });
    for (me, checker) in checkers.iter().enumerate() {
        checker.streams.wait_for("all messages", |streams| {
            let all = streams.iter().enumerate().all(|(from, (_, count))| from == me || *count == PER_PAIR);
            all.then_some(())
        });
        let drained = checker.drained.change(|drained| *drained);
        assert!((1..=2 * PER_PAIR).contains(&drained));
    }
    for mesh in &meshes {
        (0..3).map(HostId).filter(|to| *to != mesh.me()).for_each(|to| wait_sent(mesh, to));
    }
    shutdown(&meshes);
    let traffic = meshes.iter().map(|mesh| mesh.traffic());
    let (sent, received) =
        traffic.fold((0, 0), |(sent, received), traffic| (sent + traffic.sent, received + traffic.received));
    assert!(sent >= received && received > 6 * PER_PAIR * 8, "sent {sent}, received {received}");
}

#[test]
fn a_machine_of_one_host_stands_at_once() {
    let (_, hall) = Hall::recorders(1);
    let meshes = hall.open();
    meshes[0].flush();
    shutdown(&meshes);
}

#[test]
fn goodbye_is_no_loss_and_comes_after_everything() {
    let (recorders, hall) = Hall::recorders(3);
    let meshes = hall.open();
    let large = vec![5; 1 << 20];
    for _ in 0..20 {
        meshes[0].send(HostId(1), &[&large]);
    }
    meshes[0].send(HostId(1), &[b"last"]);
    // No flush: shutdown hands over what is in the batches.
    meshes[0].shutdown();
    meshes[0].shutdown();
    for member in [1, 2] {
        recorders[member].wait_for(&Told::Goodbye(HostId(0)));
    }
    let told = recorders[1].told.change(|told| told.clone());
    assert_eq!(told.len(), 22);
    assert_eq!(told[20..], [Told::Message(HostId(0), b"last".to_vec()), Told::Goodbye(HostId(0))]);
    // The others go on.
    meshes[1].send(HostId(2), &[b"still here"]);
    meshes[1].flush();
    recorders[2].wait_for(&Told::Message(HostId(1), b"still here".to_vec()));
    // Messages to who is gone are dropped, not kept.
    meshes[1].send(HostId(0), &[&large]);
    assert_eq!(meshes[1].backlog(HostId(0)), 0);
    shutdown(&meshes);
    assert!(recorders.iter().all(|recorder| recorder.losses() == 0));
}

#[test]
fn the_same_machine_can_be_opened_again_after_its_end() {
    let (recorders, hall) = Hall::recorders(2);
    for round in 0..5_u8 {
        let meshes = hall.open();
        meshes[0].send(HostId(1), &[&[round]]);
        meshes[0].flush();
        recorders[1].wait_for(&Told::Message(HostId(0), vec![round]));
        shutdown(&meshes);
        hall.agents[1].joined.change(|joined| joined.clear());
    }
}

#[test]
fn a_machine_that_is_here_cannot_be_opened_twice() {
    let (_, hall) = Hall::recorders(2);
    let meshes = hall.open();
    let error = hall.try_open(hall.invitation()).err().expect("it is here");
    assert_eq!((error.kind(), error.to_string().contains("is already here")), ("refused", true), "{error}");
    shutdown(&meshes);
}

/// An agent that takes its time to take its fabric, and greets everybody with it at once.
struct Slow {
    name: &'static str,
    mesh: OnceLock<Arc<TcpMesh>>,
    greeted: Watched<Vec<HostId>>,
}

/// The agent as its inbox.
struct SlowInbox(Arc<Slow>);

impl Inbox for SlowInbox {
    fn message(&self, from: HostId, bytes: &[u8]) {
        assert!(self.0.mesh.get().is_some(), "a message of {from:?} before joined() returned");
        assert_eq!(bytes, b"hello");
        self.0.greeted.change(|greeted| greeted.push(from));
    }
    fn drained(&self, _from: HostId) {}
    fn lost(&self, host: HostId, reason: Lost) {
        panic!("{host:?} lost: {reason}");
    }
}

/// The agent as its host.
struct SlowHost(Arc<Slow>);

impl Host for SlowHost {
    fn name(&self) -> &str {
        self.0.name
    }
    fn join(&self, _invitation: &Invitation) -> Result<Arc<dyn Inbox>, String> {
        Ok(Arc::new(SlowInbox(self.0.clone())))
    }
    fn joined(&self, _machine: MachineId, fabric: Arc<TcpMesh>) {
        // Later hosts are slower, so earlier ones link with them and greet them meanwhile.
        thread::sleep(Duration::from_millis(150) * u32::from(fabric.me().0));
        (0..fabric.hosts())
            .map(HostId)
            .filter(|host| *host != fabric.me())
            .for_each(|host| fabric.send(host, &[b"hello"]));
        fabric.flush();
        assert!(self.0.mesh.set(fabric).is_ok());
    }
}

#[test]
fn a_slow_agent_has_its_fabric_before_the_first_message_and_early_sends_arrive() {
    let slow = ["a", "b", "c", "d"]
        .map(|name| Arc::new(Slow { name, mesh: OnceLock::new(), greeted: Watched::default() }));
    let bind = |slow: &Arc<Slow>| {
        Listener::bind("127.0.0.1:0", CLUSTER, None, Arc::new(SlowHost(slow.clone()))).expect("loopback")
    };
    let listeners: Vec<Listener> = slow.iter().map(bind).collect();
    let member = |(slow, listener): (&Arc<Slow>, &Listener)| Member {
        name: slow.name.into(),
        address: listener.address().to_string(),
    };
    let members = slow.iter().zip(&listeners).map(member).collect();
    let invitation =
        Invitation { machine: MACHINE, epoch: EPOCH, me: HostId(0), members, settings: SETTINGS };
    let greeted = Arc::new(Recorder::default());
    let home = TcpMesh::open(&listeners[0], invitation, greeted.clone()).expect("it stands");
    for from in 1..4 {
        greeted.wait_for(&Told::Message(HostId(from), b"hello".to_vec()));
        slow[usize::from(from)]
            .greeted
            .wait_for("two greetings", |greeted| (greeted.len() == 2).then_some(()));
    }
    home.shutdown();
    for slow in &slow[1..] {
        slow.mesh.get().expect("joined").shutdown();
    }
}

/// Answers from within the inbox, and shuts down from within it at the end.
struct Echo {
    mesh: OnceLock<Arc<TcpMesh>>,
    count: Watched<u32>,
}

impl Inbox for Echo {
    fn message(&self, from: HostId, bytes: &[u8]) {
        let Some(mesh) = self.mesh.get() else { panic!("no mesh yet") };
        mesh.send(from, &[bytes]);
        if self.count.change(|count| {
            *count += 1;
            *count == 1000
        }) {
            mesh.shutdown();
        }
    }
    fn drained(&self, _from: HostId) {
        self.mesh.get().expect("set").flush();
    }
    fn lost(&self, host: HostId, reason: Lost) {
        panic!("{host:?} lost: {reason}");
    }
}

#[test]
fn an_inbox_may_send_flush_and_shut_down() {
    let echoes: Vec<_> =
        (0..2).map(|_| Arc::new(Echo { mesh: OnceLock::new(), count: Watched::default() })).collect();
    let hall = Hall::new(&echoes);
    let meshes = hall.open();
    for (echo, mesh) in echoes.iter().zip(&meshes) {
        assert!(echo.mesh.set(mesh.clone()).is_ok());
    }
    meshes[0].send(HostId(1), &[b"ball"]);
    meshes[0].flush();
    echoes[1].count.wait_for("a thousand rounds", |count| (*count == 1000).then_some(()));
    shutdown(&meshes);
}
