"""How long this computer gives us no CPU: hosts that share a busy computer may be silent for its sake."""

import threading
import time
from typing import Final, final

_BEAT_S: Final = 0.02


@final
class Pulse:
    """A thread that sleeps a little again and again, and notes by how much it overslept."""

    def __init__(self) -> None:
        self._worst_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(_BEAT_S):
            now = time.monotonic()
            self._worst_s = max(self._worst_s, now - last - _BEAT_S)
            last = now

    def take(self) -> float:
        """The worst since the last call, in seconds."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join(5)
