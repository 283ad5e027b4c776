"""The thread behind an executor: it starts workers, hands them tasks, and settles futures.

`Pool` is shared by an executor, any number of submitting threads and its own one thread. What they share is `_inbox`
and the flags beside it, guarded by `_lock`; all else is the thread's own. Nothing of the user's (callbacks, reducers,
the locality function, a future's lock) is called with `_lock` held, and it is held for a few statements only.

The life of a worker: *started* (its stream is there, and it has `START_S` to answer the greeting) → *ready* (its
initializer has returned; it gets tasks) → *ending* (it was told that no more come, and has `END_S`) → gone. One that
goes in any other way breaks the pool.

The life of a task: inbox → backlog → *outstanding* at one worker → settled; or back into the backlog, if its worker did
not begin it and another has nothing to do.
"""

from __future__ import annotations

import heapq
import logging
import os
import selectors
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures.process import _RemoteTraceback
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pickle import UnpicklingError
from typing import Any, Final, TypeAlias, final

from megalith.backlog import Backlog
from megalith.bell import Bell
from megalith.broken import WorkerLost
from megalith.chunks import run_chunk
from megalith.exceptions import ProtocolError
from megalith.frames import Frame, FrameReader, FrameWriter, Kind, unpack_numbers
from megalith.handshake import hello
from megalith.pickling import Pickled, Reducer, dumps, loads
from megalith.references import Noting
from megalith.seats import Launcher, Seat

AHEAD_S: Final = 0.005
"""Each worker is handed so much work ahead, by what tasks took until now; so tasks that take longer are never ahead."""
AHEAD_TASKS_MAX: Final = 128
AHEAD_BYTES_MAX: Final = 1 << 20
"""A worker that has not taken so much of what it was sent gets nothing ahead."""
UNMOVED_S: Final = 0.005
"""Tasks ahead are wanted back from a worker that settles none for so long, when another has nothing to do."""
START_S: Final = 60.0
"""A worker must answer the greeting so long after its start. Its initializer may take what it takes, as a task may."""
END_S: Final = 10.0
"""A worker that was told to end is killed after that."""
REAP_S: Final = 2.0
"""Between the end of a worker's stream and that of its process."""
_MEAN_WEIGHT: Final = 0.1

Locality: TypeAlias = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], str | None]
"""From a call (function, positional and keyword arguments) to the host that should run it, or ``None``."""

Handed: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any], str], object]
"""Hears of a call's arguments and of the host whose worker it was handed to."""

_LOGGER = logging.getLogger("concurrent.futures")
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_exit = threading.Event()
"""The interpreter is about to end."""


@dataclass(slots=True, eq=False)
class Task:
    """A call that was submitted."""

    number: int
    future: Future[Any]
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    prefers: str | None = None
    begun: bool = False
    """Its future is running: it has been handed to a worker, be it that it was given back."""

    def forget(self) -> None:
        """Lets go of the arguments: who sees the future done need not wait for our thread to do so."""
        self.fn, self.args, self.kwargs = _forgotten, (), {}

    @property
    def name(self) -> str:
        """Of what it calls, for people."""
        fn = self.fn
        while isinstance(fn, partial):
            fn = fn.args[0] if fn.func is run_chunk else fn.func
        return getattr(fn, "__qualname__", None) or repr(fn)


def _forgotten() -> None:
    """What a task calls that is done."""


@final
class Worker:
    """A worker, from its start to its end."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.reader = FrameReader(seat.stream)
        self.writer = FrameWriter(seat.stream)
        self.references = seat.references
        self.outstanding: dict[int, Task] = {}
        """What it was handed and has not answered; it runs the oldest."""
        self.taken = 0
        """How many tasks it has been handed for good."""
        self.ready = False
        self.ending = False
        self.gone = False
        self.asked_back = False
        self.moved_s = time.monotonic()
        """When it last settled a task, or was handed one when it had none."""
        self.deadline_s: float | None = self.moved_s + START_S
        self.watched = 0
        """The events that the selector looks for on its stream."""

    def __str__(self) -> str:
        return f"the worker on host {self.seat.host} ({self.seat.description})"

    def returned(self, task: int) -> None:
        """It has nothing of that task's any more, other than what it has told."""
        if self.references is not None:
            self.references.returned(task)


@final
class Pool:
    """See the module."""

    def __init__(
        self,
        places: Sequence[str],
        launcher: Launcher,
        initializer: Pickled,
        needed: Sequence[object],
        tasks_per_worker_max: int | None,
        locality: Locality | None,
        reducers: Mapping[type, Reducer],
        handed: Handed | None = None,
    ) -> None:
        self._lock = threading.RLock()  # Re-entered when the garbage collector ends another executor in here.
        self._inbox: deque[Task] = deque()
        self._numbers = 0
        self._asleep = False
        """The thread waits, and could do something about a task that comes."""
        self._closing = False
        self._cancelling = False
        self._killing = False
        self._broken: str | None = None
        self._thread: threading.Thread | None = None
        self._bell: Bell | None = None
        self._ended = threading.Event()
        self._forked = False

        self._launcher = launcher
        self._initializer = initializer
        self._needed = needed
        """What the initializer refers to by address: kept for workers that are yet to start."""
        self._tasks_per_worker_max = tasks_per_worker_max
        self._locality = locality
        self._handed = handed
        self._reducers = reducers
        self._free = deque(places)
        """Hosts on which another worker may be started; as many times as workers may be."""
        self._workers: list[Worker] = []
        self._backlog: Backlog[Task] = Backlog()
        self._mean_s: float | None = None
        self._selector: selectors.BaseSelector | None = None

    # For any thread.

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """Raises ``RuntimeError`` if no more tasks are taken, ``WorkerLost`` if the pool is broken."""
        if self._forked:
            raise RuntimeError("this executor belongs to the process that made it, not to its forked child")
        future: Future[Any] = Future()
        with self._lock:
            if self._broken is not None:
                raise WorkerLost(self._broken)
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _exit.is_set():
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            self._numbers += 1
            self._inbox.append(Task(self._numbers, future, fn, args, kwargs))
            if self._thread is None:
                self._begin()
            elif self._asleep:
                self._asleep = False
                assert self._bell is not None
                self._bell.ring()
        return future

    @property
    def is_open(self) -> bool:
        """Whether :meth:`submit` takes tasks."""
        return self._broken is None and not self._closing and not self._forked

    def close(self, *, cancel: bool = False) -> None:
        """No more tasks; the thread ends when there is nothing left to do. Takes no lock, as finalizers call it."""
        self._closing = True
        if cancel:
            self._cancelling = True
        if not self._forked and (bell := self._bell) is not None:
            bell.ring()

    def kill(self) -> None:
        """Ends the workers at once, in the middle of their tasks; what is not done then is broken."""
        self._killing = True
        self._needed = ()
        self.close()

    def join(self) -> None:
        """Waits for the end of the thread and of all workers; not in the thread itself, and not in a forked child."""
        if self._thread is None or self._forked or threading.current_thread() is self._thread:
            return
        # Not Thread.join alone: interrupted by ^C it takes the thread for ended (CPython issue 90882).
        self._ended.wait()
        self._thread.join()

    def forget_in_child(self) -> None:
        """In a forked child: the parent's streams are closed, or its workers would outlive it with us."""
        self._forked = True
        for worker in self._workers:
            if (fd := worker.seat.stream.detach()) >= 0:
                os.close(fd)
        if self._selector is not None:
            self._selector.close()

    def _begin(self) -> None:
        try:
            self._bell = Bell()
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._bell.fd, selectors.EVENT_READ)
            thread = threading.Thread(target=self._run, name="megalith-executor", daemon=True)
            _pools.add(self)
            thread.start()
        except BaseException:
            self._selector = self._bell = None
            self._inbox.clear()
            raise
        self._thread = thread

    # The thread.

    def _run(self) -> None:
        assert self._selector is not None
        try:
            self._serve()
        except WorkerLost as error:
            self._break(str(error), error.__cause__)
        except BaseException as error:
            self._break(f"the executor's thread failed: {error!r}", error)
            raise
        finally:
            self._selector.close()
            self._selector = self._bell = None
            self._needed = ()
            self._ended.set()

    def _serve(self) -> None:
        while True:
            self._take_inbox()
            self._hand_out()
            self._grow()
            self._take_back()
            self._retire()
            if self._killing:
                raise WorkerLost("its workers were killed")
            if self._cancelling:
                self._cancelling = False
                self._take_inbox()  # What was submitted before the word came may have come since.
                self._cancel()
            if self._closing:
                self._end_all()
                if self._may_leave():
                    return
            self._wait()

    def _take_inbox(self) -> None:
        with self._lock:
            tasks, self._inbox = self._inbox, deque()
        while tasks:
            task = tasks.popleft()
            if self._locality is not None:
                try:
                    task.prefers = self._locality(task.fn, task.args, task.kwargs)
                except BaseException as error:
                    if task.future.set_running_or_notify_cancel():
                        _settle(task.future, error=error)
                    continue
            self._backlog.put(task)

    def _depth(self) -> int:
        """How many tasks a worker is handed at a time."""
        if self._mean_s is None:
            return 1
        return 1 + min(AHEAD_TASKS_MAX, int(AHEAD_S / max(self._mean_s, 1e-9)))

    def _room(self, worker: Worker, depth: int) -> int:
        if not worker.ready or worker.ending or worker.asked_back:
            return 0
        room = depth - len(worker.outstanding)
        held_up = time.monotonic() - worker.moved_s >= UNMOVED_S or worker.writer.waiting_bytes > AHEAD_BYTES_MAX
        if worker.outstanding and held_up:
            room = 0
        if self._tasks_per_worker_max is not None:
            room = min(room, self._tasks_per_worker_max - worker.taken)
        return room

    def _hand_out(self) -> None:
        if not self._backlog:
            return
        depth = self._depth()
        rooms = [(worker, room) for worker in self._workers if (room := self._room(worker, depth)) > 0]
        open_hosts = Counter(self._free)  # Of which `_grow` starts workers.
        open_hosts.update(worker.seat.host for worker, _ in rooms)
        open_hosts.update(worker.seat.host for worker in self._workers if not worker.ready)
        queue = [(len(worker.outstanding), index, room) for index, (worker, room) in enumerate(rooms)]
        heapq.heapify(queue)
        touched = set()
        while queue and self._backlog:
            load, index, room = heapq.heappop(queue)
            worker = rooms[index][0]
            task = self._backlog.take(worker.seat.host, open_hosts)
            if task is None:
                continue
            if not self._hand(worker, task):
                heapq.heappush(queue, (load, index, room))
                continue
            touched.add(index)
            if room > 1:
                heapq.heappush(queue, (load + 1, index, room - 1))
                continue
            open_hosts[worker.seat.host] -= 1
            if not open_hosts[worker.seat.host]:
                del open_hosts[worker.seat.host]
                # Those that took nothing because this host was open may take now.
                queue += [
                    (len(w.outstanding), i, r) for i, (w, _) in enumerate(rooms)
                    if (r := self._room(w, depth)) > 0 and all(i != other for _, other, _ in queue)
                ]  # fmt: skip
                heapq.heapify(queue)
        for index in touched:
            self._send(rooms[index][0])

    def _hand(self, worker: Worker, task: Task) -> bool:
        """Gives a task to a worker; ``False``: it is settled, as it was cancelled or cannot be pickled."""
        if not task.begun and not task.future.set_running_or_notify_cancel():
            return False
        task.begun = True
        try:
            with Noting() as blocks:
                pickled = dumps((task.fn, task.args, task.kwargs), self._reducers)
            if blocks and worker.references is not None:
                worker.writer.put(Kind.LENT, worker.references.lend(task.number, blocks), number=task.number)
            worker.writer.put(Kind.TASK, pickled.body, *pickled.buffers, number=task.number)
            if self._handed is not None:
                self._handed(task.args, task.kwargs, worker.seat.host)
        except BaseException as error:  # Whatever a __reduce__ of the user's raises.
            worker.returned(task.number)
            _settle(task.future, error=error)
            return False
        if not worker.outstanding:
            worker.moved_s = time.monotonic()
        worker.outstanding[task.number] = task
        worker.taken += 1
        return True

    def _grow(self) -> None:
        """Starts workers for tasks that none has room for."""
        if not self._backlog or not self._free:
            return
        for host, waiting in self._backlog.waiting().items():
            starting = [worker.seat.host for worker in self._workers if not worker.ready]
            if host is not None and (host in self._free or host in starting):
                places, missing = [host] * self._free.count(host), waiting - starting.count(host)
            else:
                places, missing = list(self._free), len(self._backlog) - len(starting)
            for place in places[: max(0, missing)]:
                self._free.remove(place)
                self._start(place)

    def _start(self, host: str) -> None:
        try:
            seat = self._launcher.start(host)
        except BaseException as error:
            raise WorkerLost(f"no worker could be started on host {host}: {error}") from error
        worker = Worker(seat)
        self._workers.append(worker)
        seat.stream.setblocking(False)
        assert self._selector is not None
        if seat.sentinel is not None:
            self._selector.register(seat.sentinel, selectors.EVENT_READ, worker)
        worker.writer.put(Kind.HELLO, hello(), self._initializer.body, *self._initializer.buffers)
        self._send(worker)

    def _take_back(self) -> None:
        """Asks workers that are held up by a task for those behind it, when another worker has nothing to do."""
        now = time.monotonic()
        for worker in self._held_up():
            if now - worker.moved_s >= UNMOVED_S:
                worker.asked_back = True
                worker.writer.put(Kind.GIVE_BACK)
                self._send(worker)

    def _held_up(self) -> list[Worker]:
        """Workers with tasks ahead that another could run now, or one that could be started."""
        if not self._free and all(w.outstanding or w.ending or not w.ready for w in self._workers):
            return []
        return [w for w in self._workers if len(w.outstanding) > 1 and not w.asked_back]

    def _cancel(self) -> None:
        """Cancels what no worker has or is being started for, as ``ProcessPoolExecutor`` does."""
        starting = sum(not worker.ready and not worker.ending for worker in self._workers)
        for task in self._backlog.clear():
            if not task.begun:
                if starting <= 0:
                    task.future.cancel()
                if not task.future.set_running_or_notify_cancel():
                    continue
                task.begun = True
                starting -= 1
            self._backlog.put(task)

    def _retire(self) -> None:
        """Ends workers that have run as many tasks as they may."""
        if self._tasks_per_worker_max is None:
            return
        for worker in self._workers:
            if worker.taken >= self._tasks_per_worker_max and not worker.outstanding:
                self._end(worker)

    def _end_all(self) -> None:
        if self._inbox or self._backlog or any(worker.outstanding for worker in self._workers):
            return
        for worker in self._workers:
            self._end(worker)

    def _may_leave(self) -> bool:
        with self._lock:
            return not (self._workers or self._inbox or self._backlog)

    def _end(self, worker: Worker) -> None:
        if not worker.ending:
            worker.ending = True
            worker.deadline_s = time.monotonic() + END_S
            worker.writer.put(Kind.END)
            self._send(worker)

    def _wait(self) -> None:
        """Until there is something to do; and does what streams bring."""
        assert self._selector is not None
        assert self._bell is not None
        timeout_s = self._timeout_s()
        useful = bool(self._free) or any(self._room(worker, self._depth()) > 0 for worker in self._workers)
        with self._lock:
            if self._inbox:
                timeout_s = 0.0
            self._asleep = useful
        events = self._selector.select(timeout_s)
        self._asleep = False
        for key, mask in events:
            worker = key.data
            if worker is None:
                self._bell.hush()
            elif not worker.gone:  # By an event before this one.
                self._attend(worker, mask, ended=key.fd == worker.seat.sentinel)
        self._keep_deadlines()

    def _timeout_s(self) -> float | None:
        ends = [worker.deadline_s for worker in self._workers if worker.deadline_s is not None]
        ends += [worker.moved_s + UNMOVED_S for worker in self._held_up()]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _keep_deadlines(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self._workers if w.deadline_s is not None and w.deadline_s <= now]:
            if not worker.ending:
                worker.seat.kill()
                self._gone(worker)
                raise WorkerLost(f"{worker} did not speak within {START_S:g} seconds of its start")
            _LOGGER.warning("%s did not end within %g seconds and is killed", worker, END_S)
            worker.seat.kill()
            self._gone(worker)

    def _attend(self, worker: Worker, mask: int, *, ended: bool) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                self._send(worker)
            if ended:
                while True:  # What it said before its end counts.
                    self._receive(worker)
            elif mask & selectors.EVENT_READ:
                self._receive(worker)
        except BlockingIOError:
            if ended:
                self._lose(worker)
        except (EOFError, OSError):
            self._lose(worker)
        except ProtocolError as error:
            raise WorkerLost(f"{worker} cannot be understood: {error}") from error

    def _send(self, worker: Worker) -> None:
        """As much as the stream takes now; the rest when it takes more."""
        try:
            done = worker.writer.send()
        except OSError:
            done = True  # The end of the stream says the same, after what it said before.
        wanted = selectors.EVENT_READ if done else selectors.EVENT_READ | selectors.EVENT_WRITE
        assert self._selector is not None
        if not worker.watched:
            self._selector.register(worker.seat.stream, wanted, worker)
        elif worker.watched != wanted:
            self._selector.modify(worker.seat.stream, wanted, worker)
        worker.watched = wanted

    def _receive(self, worker: Worker) -> None:
        frames = worker.reader.read()
        frames.reverse()
        while frames:
            self._hear(worker, frames.pop())

    def _hear(self, worker: Worker, frame: Frame) -> None:
        if frame.kind in {Kind.RESULT, Kind.ERROR}:
            self._settle_task(worker, frame)
        elif frame.kind is Kind.GREETED:
            if not worker.ending:
                worker.deadline_s = None
        elif frame.kind is Kind.READY:
            worker.ready = True
        elif frame.kind is Kind.GIVEN_BACK and len(frame.parts) == 1:
            worker.asked_back = False
            for number in unpack_numbers(frame.parts[0]):
                self._backlog.put_back(_popped(worker, number))
                worker.returned(number)
                worker.taken -= 1
        elif frame.kind in {Kind.HOLDING, Kind.HOLD, Kind.ALLOCATE} and worker.references is not None:
            reply = worker.references.hear(frame)
            if reply is not None:
                worker.writer.put(reply.kind, reply.part, number=reply.number)
                self._send(worker)
        elif frame.kind is Kind.REFUSED and frame.parts:
            raise WorkerLost(f"{worker} refuses to serve: {frame.parts[0].decode(errors='replace')}")
        elif frame.kind is Kind.FAILED and frame.parts:
            trace = frame.parts[0].decode(errors="replace")
            _LOGGER.critical("Exception in initializer on host %s:\n%s", worker.seat.host, trace)
            raise WorkerLost(f"the initializer failed in {worker}") from _remote(trace)
        else:
            raise ProtocolError(f"a worker does not say {frame.kind.name} with {len(frame.parts)} parts")

    def _settle_task(self, worker: Worker, frame: Frame) -> None:
        task = _popped(worker, frame.number)
        took_s = frame.nanoseconds / 1e9
        mean_s = took_s if self._mean_s is None else self._mean_s
        self._mean_s = mean_s + _MEAN_WEIGHT * (took_s - mean_s)
        worker.moved_s = time.monotonic()
        failed = frame.kind is Kind.ERROR
        trace = frame.parts.pop(0).decode(errors="replace") if failed and frame.parts else ""
        try:
            value = loads(frame.parts)
            if failed and not isinstance(value, BaseException):
                raise TypeError(f"it has become a {type(value).__qualname__}")
        except BaseException as error:  # What __setstate__ and the like of the user's raise.
            what = "exception" if failed else "result"
            why = UnpicklingError(f"the {what} of {task.name} cannot be unpickled: {error!r}")
            why.__cause__ = _remote(trace) if failed else error
            task.forget()
            worker.returned(frame.number)
            _settle(task.future, error=why)
            return
        frame.parts.clear()
        task.forget()
        worker.returned(frame.number)
        if failed:
            value.__cause__ = _remote(trace)
            _settle(task.future, error=value)
        else:
            _settle(task.future, result=value)

    def _lose(self, worker: Worker) -> None:
        """A worker's stream has ended, or its process."""
        how = worker.seat.ending(REAP_S)
        running = next(iter(worker.outstanding.values()), None)
        expected = worker.ending and running is None
        self._gone(worker)
        if expected:
            return
        doing = f"while it ran {running.name}" if running else "while it had nothing to do"
        if not worker.ready:
            doing = "before it was ready"
        raise WorkerLost(f"{worker} {how or 'is gone, it is not known how,'} {doing}")

    def _gone(self, worker: Worker) -> None:
        """Takes a worker off, whose process is killed if it has not ended. Its tasks are back in the backlog."""
        assert self._selector is not None
        seat = worker.seat
        worker.gone = True
        self._workers.remove(worker)
        for task in worker.outstanding.values():
            self._backlog.put_back(task)
        worker.outstanding.clear()
        for watched in (seat.stream, seat.sentinel):
            if watched is not None:
                with suppress(KeyError):  # It got no further than its start.
                    self._selector.unregister(watched)
        seat.stream.close()
        try:
            try:
                if seat.ending(0) is None:
                    seat.kill()
                    seat.ending(REAP_S)
            finally:
                seat.close()
        except Exception:  # The launcher's. Futures go before.
            _LOGGER.exception("%s cannot be ended", worker)
        self._free.append(seat.host)

    def _break(self, why: str, cause: BaseException | None) -> None:
        """Ends all workers and all futures."""
        with self._lock:
            self._broken = f"{why}; the executor cannot be used any more"
            tasks, self._inbox = list(self._inbox), deque()
        for worker in self._workers:
            with suppress(Exception):  # A launcher's; it is asked again, and heard, when the worker is taken off.
                worker.seat.kill()
        for worker in list(self._workers):
            self._gone(worker)
        for task in self._backlog.clear() + tasks:
            if task.begun or task.future.set_running_or_notify_cancel():
                error = WorkerLost(self._broken)
                error.__cause__ = cause
                _settle(task.future, error=error)


def _popped(worker: Worker, number: int) -> Task:
    try:
        return worker.outstanding.pop(number)
    except KeyError:
        raise ProtocolError(f"a worker speaks of task {number}, which it has not") from None


def _remote(trace: str) -> _RemoteTraceback:
    """A worker's traceback, as the cause of what it raised: as ``ProcessPoolExecutor`` shows it."""
    return _RemoteTraceback(f'\n"""\n{trace}"""')  # type: ignore[arg-type]  # typeshed takes it for a real one.


def _settle(future: Future[Any], *, result: Any = None, error: BaseException | None = None) -> None:
    """Gives a future its end, unless the user has already done so."""
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass
    except BaseException:
        _LOGGER.exception("exception calling callback for %r", future)  # The future itself logs an Exception.


def close_all() -> None:
    """At the interpreter's exit: what was submitted is done, then all workers end. Once: ^C has it wait no longer."""
    if _exit.is_set():
        return
    _exit.set()
    pools = list(_pools)
    for pool in pools:
        pool.close()
    for pool in pools:
        pool.join()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.forget_in_child()
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
