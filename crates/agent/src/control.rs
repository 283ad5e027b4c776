//! `control.sock`: one connection is one machine. The words are in `docs/architecture.md`, "Control protocol".

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coherence::{Epoch, HostId};
use fabric::{FabricError, Inbox, Invitation, MachineId, Member, Settings, TcpMesh};
use pager::SpaceId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::clients::Thread;
use crate::machine::{End, Machine, Mailbox};
use crate::state::State;
use crate::wire;

/// A line may not be longer.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// So long the last figures of the other hosts are waited for.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(1);
/// Who connects says within this time what it wants; its place may be needed for others.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Order {
    Open(Open),
    Move(Move),
    /// A shared space is to be opened.
    Share,
    /// A shared space is to end.
    Unshare(Unshare),
    Close,
}

#[derive(Deserialize)]
struct Unshare {
    space: u32,
}

/// A thread is to go to another host. What is not known may just have ended.
#[derive(Deserialize)]
struct Move {
    pid: i32,
    thread: u64,
    host: Place,
}

/// A host by its place among the members, or by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Place {
    Number(u16),
    Name(String),
}

#[derive(Deserialize)]
struct Open {
    machine: String,
    members: Vec<Address>,
    heartbeat_ms: u64,
    lost_after_ms: u64,
    join_timeout_ms: u64,
}

#[derive(Deserialize)]
struct Address {
    name: String,
    address: String,
}

impl Open {
    /// What the machine's hosts are to agree on; `Err` says in one line what cannot be.
    fn invitation(self, epoch: Epoch) -> Result<Invitation, String> {
        let digits = self.machine.len() == 16 && self.machine.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(&self.machine, 16).ok().filter(|_| digits);
        let invitation = Invitation {
            machine: MachineId(id.ok_or("the machine's id is not 16 hexadecimal digits")?),
            epoch,
            me: HostId(0),
            members: self.members.into_iter().map(|m| Member { name: m.name, address: m.address }).collect(),
            settings: Settings {
                heartbeat: Duration::from_millis(self.heartbeat_ms),
                lost_after: Duration::from_millis(self.lost_after_ms),
                join_timeout: Duration::from_millis(self.join_timeout_ms),
            },
        };
        match invitation.check() {
            Ok(()) => Ok(invitation),
            Err(reason) => Err(FabricError::Invitation { reason }.to_string()),
        }
    }
}

/// What the thread that writes waits for.
enum Happened {
    Ended(End),
    Share,
    Close,
    Gone,
}

/// Answers a connection that there is no place for.
pub fn refuse(stream: UnixStream, why: &str) {
    // Nobody waits for one that does not read; there is room for a line in the socket.
    if stream.set_nonblocking(true).is_ok() {
        Out(stream).failed("refused", None, why);
    }
}

/// Reads orders to the first that is none, and gives none.
#[cfg(feature = "fuzz")]
pub fn read_all(text: &[u8], epoch: Epoch) {
    let mut lines = Lines(text);
    while let Some(Ok(order)) = lines.next() {
        if let Order::Open(open) = order
            && let Ok(invitation) = open.invitation(epoch)
        {
            assert!(!invitation.members.is_empty() && invitation.members.len() <= fabric::MEMBERS_MAX);
        }
    }
}

/// Serves one connection to its end.
pub fn serve(agent: &Agent, stream: UnixStream) {
    let Ok(reading) = stream.try_clone() else { return };
    let mut lines = Lines(BufReader::new(reading));
    if stream.set_read_timeout(Some(PATIENCE)).is_err() {
        return;
    }
    let first = lines.next();
    if stream.set_read_timeout(None).is_err() {
        return;
    }
    let mut out = Out(stream);
    let open = match first {
        Some(Ok(Order::Open(open))) => open,
        Some(Ok(Order::Close | Order::Move(_) | Order::Share | Order::Unshare(_))) | None => return,
        Some(Err(why)) => return out.failed("refused", None, &why),
    };
    // Two machines of one id at two times are two incarnations.
    let epoch = Epoch(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u32));
    let invitation = match open.invitation(epoch) {
        Ok(invitation) => invitation,
        Err(why) => return out.failed("refused", None, &why),
    };
    let (id, home, name) = (invitation.machine, &invitation.members[0].name, fabric::Host::name(agent));
    if home != name {
        return out.failed("name", Some(home), &format!("this agent's name is {name}"));
    }
    match run(agent, invitation, lines, &mut out) {
        Ok(()) => {}
        Err(Refusal::Fabric(error)) => {
            let host = error.host().map(str::to_owned);
            out.failed(error.kind(), host.as_deref(), &error.to_string());
        }
        // No machine was made, and one of the same id may be somebody else's.
        Err(Refusal::Other(why)) => return out.failed("refused", None, &why),
    }
    agent.remove(id);
}

enum Refusal {
    Fabric(FabricError),
    Other(String),
}

fn run(agent: &Agent, invitation: Invitation, lines: Orders, out: &mut Out) -> Result<(), Refusal> {
    let (id, heartbeat) = (invitation.machine, invitation.settings.heartbeat);
    let listener = agent.listener().ok_or_else(|| Refusal::Other("this agent is about to end".into()))?;
    let (machine, ends) = agent.make(invitation.clone()).map_err(Refusal::Other)?;
    let inbox: Arc<dyn Inbox> = Arc::new(Mailbox(Arc::downgrade(&machine)));
    let mesh = TcpMesh::open(&listener, invitation, inbox).map_err(Refusal::Fabric)?;
    machine.set_mesh(mesh);
    refresh(&machine);
    if machine.has_ended() {
        // A host went between the last link and now; the reason is in the channel, and told below.
        if let Ok(End::Lost { host, reason }) = ends.try_recv() {
            out.lost(&machine, host, &reason);
        }
        return Ok(());
    }
    machine.lock().ask_for_room(&**machine.fabric().expect("just set"));
    machine.fabric().expect("just set").flush();
    out.say(&json!({"event": "opened", "hosts": machine.all_figures()}));

    let (sender, happened) = mpsc::channel();
    spawn_readers(lines, ends, &sender, &machine);
    loop {
        match happened.recv_timeout(heartbeat) {
            Err(RecvTimeoutError::Timeout) => {
                if !out.say(&figures("status", &machine, &machine.threads())) {
                    break;
                }
            }
            Ok(Happened::Ended(End::Lost { host, reason })) => out.lost(&machine, host, &reason),
            Ok(Happened::Ended(End::Full { hosts })) => {
                out.say(&json!({"event": "full", "hosts": hosts}));
            }
            Ok(Happened::Ended(End::Closed)) => {
                // Our own agent is being stopped.
                out.lost(&machine, HostId(0), "its agent was stopped");
            }
            Ok(Happened::Share) => {
                out.say(&match machine.open_shared() {
                    Ok(space) => json!({"event": "shared", "space": space.0}),
                    Err(error) => json!({"event": "shared", "space": null, "detail": error.to_string()}),
                });
            }
            Ok(Happened::Close) => {
                if !machine.has_ended() {
                    refresh(&machine);
                }
                let threads = machine.threads();
                agent.remove(id);
                out.say(&figures("closed", &machine, &threads));
                break;
            }
            Ok(Happened::Gone) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}

/// Two small threads turn what is read and how the machine ends into one stream.
fn spawn_readers(
    mut lines: Orders,
    ends: mpsc::Receiver<End>,
    sender: &Sender<Happened>,
    machine: &Arc<Machine>,
) {
    let to_end = sender.clone();
    let spawn =
        |work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name("control".into()).spawn(work);
    let ended = spawn(Box::new(move || {
        for end in ends {
            let _ = to_end.send(Happened::Ended(end));
        }
    }));
    let to_read = sender.clone();
    let machine = machine.clone();
    let read = spawn(Box::new(move || {
        let last = loop {
            match lines.next() {
                Some(Ok(Order::Move(order))) => pass_on(&machine, &order),
                Some(Ok(Order::Share)) => drop(to_read.send(Happened::Share)),
                Some(Ok(Order::Unshare(Unshare { space }))) => machine.close_shared(SpaceId(space)),
                Some(Ok(Order::Close)) => break Happened::Close,
                _ => break Happened::Gone,
            }
        };
        let _ = to_read.send(last);
    }));
    if ended.is_err() || read.is_err() {
        let _ = sender.send(Happened::Gone);
    }
}

fn pass_on(machine: &Machine, order: &Move) {
    let members = &machine.invitation.members;
    let host = match &order.host {
        Place::Number(number) => Some(*number).filter(|&n| usize::from(n) < members.len()),
        Place::Name(name) => members.iter().position(|m| m.name == *name).map(|n| n as u16),
    };
    if let Some(host) = host {
        machine.stewards.order(order.pid, order.thread, HostId(host));
    }
}

/// The figures of all hosts, and where threads are if some may be elsewhere.
fn figures(event: &str, machine: &Machine, threads: &[Thread]) -> Value {
    let mut figures = json!({"event": event, "hosts": machine.all_figures()});
    if !threads.is_empty() {
        figures["threads"] = json!(threads);
    }
    figures
}

/// Asks the other hosts for their figures and waits for them, [`FIGURES_TIMEOUT`] at most.
fn refresh(machine: &Machine) {
    let Some(fabric) = machine.fabric() else { return };
    let before = machine.lock().figures_heard.clone();
    for host in machine.others() {
        fabric.send(host, &[&wire::SEND_FIGURES]);
    }
    fabric.flush();
    let deadline = Instant::now() + FIGURES_TIMEOUT;
    let heard =
        |state: &State, host: HostId| state.figures_heard[usize::from(host.0)] > before[usize::from(host.0)];
    while Instant::now() < deadline && !machine.has_ended() {
        let state = machine.lock();
        if machine.others().all(|host| heard(&state, host)) {
            return;
        }
        drop(state);
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Lines<R>(R);

type Orders = Lines<BufReader<UnixStream>>;

impl<R: BufRead> Lines<R> {
    /// The next order; `None` when the connection has ended.
    fn next(&mut self) -> Option<Result<Order, String>> {
        let mut line = String::new();
        match self.0.by_ref().take(LINE_BYTES_MAX).read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(n) if n as u64 == LINE_BYTES_MAX && !line.ends_with('\n') => {
                Some(Err(format!("an order of more than {LINE_BYTES_MAX} bytes")))
            }
            Ok(_) => Some(serde_json::from_str(&line).map_err(|e| format!("an order that is none: {e}"))),
        }
    }
}

struct Out(UnixStream);

impl Out {
    /// False when nobody listens any more.
    fn say(&mut self, event: &Value) -> bool {
        let mut line = event.to_string();
        line.push('\n');
        self.0.write_all(line.as_bytes()).is_ok()
    }

    fn failed(&mut self, kind: &str, host: Option<&str>, detail: &str) {
        self.say(&json!({"event": "failed", "kind": kind, "host": host, "detail": detail}));
    }

    fn lost(&mut self, machine: &Machine, host: HostId, reason: &str) {
        let name = &machine.invitation.members[usize::from(host.0)].name;
        self.say(&json!({"event": "lost", "host": name, "detail": reason}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &[u8]) -> Option<Result<Order, String>> {
        Lines(text).next()
    }

    fn open(machine: &str, members: usize) -> Result<Invitation, String> {
        let members: Vec<Value> =
            (0..members).map(|n| json!({"name": format!("h{n}"), "address": "h:1"})).collect();
        let order = json!({
            "op": "open", "machine": machine, "members": members,
            "heartbeat_ms": 500, "lost_after_ms": 3000, "join_timeout_ms": 5000,
        });
        match first(format!("{order}\n").as_bytes()) {
            Some(Ok(Order::Open(open))) => open.invitation(Epoch(1)),
            _ => panic!("it is an order to open"),
        }
    }

    #[test]
    fn a_machine_that_cannot_be_is_not_begun() {
        assert_eq!(open("00000000000000ff", 1024).unwrap().machine, MachineId(255));
        for id in ["", "ff", "+0000000000000ff", "00000000000000f ", "000000000000000ff"] {
            assert!(open(id, 1).is_err_and(|why| why.contains("16 hexadecimal digits")), "{id:?}");
        }
        for members in [0, 1025, 10_000] {
            assert!(open("00000000000000ff", members).is_err_and(|why| why.contains("1 to 1024 hosts")));
        }
    }

    #[test]
    fn an_order_has_an_end() {
        assert!(matches!(first(b"{\"op\": \"close\"}\n"), Some(Ok(Order::Close))));
        assert!(matches!(first(b"{\"op\": \"close\"}"), Some(Ok(Order::Close))));
        assert!(matches!(first(b"{\"op\": \"sing\"}\n"), Some(Err(_))));
        assert!(first(b"").is_none() && first(b"\xff\n").is_none());
        let endless = vec![b' '; 3 << 20];
        assert!(
            first(&endless).is_some_and(|order| order.is_err_and(|why| why.contains("more than 1048576")))
        );
        let deep = [&vec![b'['; 1 << 19][..], b"\n"].concat();
        assert!(matches!(first(&deep), Some(Err(_))));
    }
}
