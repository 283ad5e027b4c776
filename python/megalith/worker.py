"""A worker: ``python -m megalith.worker --fd N`` runs tasks that come over the stream with descriptor N.

Its main thread runs them, one after the other, and sends each result as soon as it is there. A second thread reads the
stream, so that tasks which have not begun can be given back while one runs, that home's answers are heard
(:mod:`megalith.link`), and so that it is known when the executor is gone: then the worker ends at once, in the middle
of a task too.
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Final, final

from megalith.exceptions import ProtocolError
from megalith.frames import Frame, FrameReader, Kind, pack_numbers
from megalith.handshake import disagreement, import_path, understand
from megalith.link import Link, Part, set_current
from megalith.pickling import Pickled, dumps, loads
from megalith.references import Noting

_REFUSED: Final = 3
"""Exit status of a worker that is of another version, or whose initializer raised."""
_LOST: Final = 4
"""Of one whose executor went away, or said what is no word of the protocol."""
_IDLE_S: Final = 0.5
"""A worker that keeps arrays and has had nothing to do for so long looks for those that only cycles refer to."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m megalith.worker", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fd", type=int, required=True, metavar="N", help="descriptor of a connected stream socket")
    try:
        stream = socket.socket(fileno=parser.parse_args(arguments).fd)
    except OSError as error:
        parser.error(f"--fd: {error.strerror}")
    stream.set_inheritable(False)
    stream.setblocking(True)
    # Children that a task forks do not keep the stream: its end tells the executor that we have ended.
    os.register_at_fork(after_in_child=stream.close)
    return Worker(stream).serve()


@final
class Worker:
    """Serves one executor."""

    def __init__(self, stream: socket.socket) -> None:
        self._frames = _frames(stream)
        self._link = Link(stream)
        self._tasks: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()

    def serve(self) -> int:
        """Until no more tasks come; the exit status."""
        try:
            if not self._greet():
                return _REFUSED
            while (task := self._next()) is not None:
                self._run(task)
                del task
        except (EOFError, ConnectionError):
            return _LOST
        except ProtocolError as error:
            print(f"megalith.worker: {error}", file=sys.stderr)
            return _LOST
        return 0

    def _greet(self) -> bool:
        first = next(self._frames, None)
        if first is None:
            raise EOFError
        if first.kind is not Kind.HELLO or len(first.parts) < 2:
            raise ProtocolError(f"the executor begins with {first.kind.name}")
        said = understand(first.parts[0])
        if (why := disagreement(said["versions"])) is not None:
            self._link.send(Kind.REFUSED, why.encode())
            return False
        self._link.send(Kind.GREETED)
        sys.path[:] = import_path(said["path"])
        set_current(self._link)
        # Before the initializer, which may have arrays to ask for.
        threading.Thread(target=self._listen, name="megalith-worker", daemon=True).start()
        try:
            initializer, initargs = loads(first.parts[1:])
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:
            self._link.send(Kind.FAILED, _trace(error).encode(errors="replace"))
            return False
        self._link.send(Kind.READY)
        return True

    def _listen(self) -> None:
        """The second thread."""
        self._link.listen_here()
        try:
            for frame in self._frames:
                if frame.kind is Kind.TASK:
                    self._tasks.put(frame)
                elif frame.kind is Kind.LENT:
                    self._link.lend(frame)
                elif frame.kind in {Kind.GRANTED, Kind.DENIED}:
                    self._link.answered(frame)
                elif frame.kind is Kind.GIVE_BACK:
                    self._link.send(Kind.GIVEN_BACK, pack_numbers(self._not_begun()))
                elif frame.kind is Kind.END:
                    self._tasks.put(None)
                else:
                    raise ProtocolError(f"an executor does not say {frame.kind.name}")
        except ProtocolError as error:
            print(f"megalith.worker: {error}", file=sys.stderr)
        except OSError:
            pass
        os._exit(_LOST)  # Nobody wants the result of what runs now.

    def _not_begun(self) -> Iterator[int]:
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return
            assert task is not None, "END comes last"
            self._link.forget(task.number)
            yield task.number

    def _next(self) -> Frame | None:
        if self._link.holds:
            try:
                return self._tasks.get(timeout=_IDLE_S)
            except queue.Empty:
                gc.collect()
        return self._tasks.get()

    def _run(self, task: Frame) -> None:
        began = time.perf_counter_ns()
        noting = Noting()
        kind, parts = self._call(task, noting)
        # What the task has not kept is gone.
        took = time.perf_counter_ns() - began
        self._link.answer(kind, *parts, blocks=noting.blocks, number=task.number, nanoseconds=took)

    def _call(self, task: Frame, noting: Noting) -> tuple[Kind, list[Part]]:
        try:
            with self._link.arriving(task.number):
                fn, args, kwargs = loads(task.parts)
            # The task may change or keep what came: nothing here does.
            task.parts.clear()
            result = fn(*args, **kwargs)
            with noting:
                pickled = dumps(result)
        except BaseException as error:  # SystemExit and KeyboardInterrupt are the task's, too.
            text = _trace(error)
            with noting:
                pickled = _pickled_error(error)
            return Kind.ERROR, [text.encode(errors="replace"), pickled.body, *pickled.buffers]
        return Kind.RESULT, [pickled.body, *pickled.buffers]


def _frames(stream: socket.socket) -> Iterator[Frame]:
    """All frames of a stream that waits, until its end."""
    reader = FrameReader(stream)
    while True:
        try:
            frames = reader.read()
        except EOFError:
            return
        while frames:
            yield frames.pop(0)


def _trace(error: BaseException) -> str:
    """The traceback from the task on: without our own frame, unless there is no other."""
    began = error.__traceback__
    if began is not None and began.tb_next is not None:
        began = began.tb_next
    return "".join(traceback.format_exception(type(error), error, began))


def _pickled_error(error: BaseException) -> Pickled:
    try:
        return dumps(error)
    except BaseException as why:  # Whatever its __reduce__ does.
        return dumps(pickle.PicklingError(f"{type(error).__qualname__}, which a task raised, cannot be pickled: {why}"))


if __name__ == "__main__":
    sys.exit(main())
