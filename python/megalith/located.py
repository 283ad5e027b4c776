"""Where an array's pages are: what ``m.locate(a)`` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from megalith.arena import PAGE_BYTES
from megalith.sizes import format_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BAR: int = 30


@final
class Located:
    """Where the pages of an array were, host by host, when each host was asked. Pages are of 4096 bytes.

    A page has one owner; other hosts may have copies to read. A page that nobody has touched is nowhere: it is zeros.
    """

    def __init__(self, hosts: Sequence[str], owners: NDArray[Any], copies: Sequence[int]) -> None:
        self.hosts = tuple(hosts)
        """The hosts' names, home first."""
        self.owners = owners
        """For each page that the array touches, in the order of addresses, its owner's place in :attr:`hosts`, or -1
        for a page that is nowhere (``int16``)."""
        self.copies = {host: pages * PAGE_BYTES for host, pages in zip(hosts, copies, strict=True)}
        """Bytes of which each host has a copy beside the owner."""
        counts = [int((owners == place).sum()) for place in range(len(self.hosts))]
        self.owned = {host: pages * PAGE_BYTES for host, pages in zip(hosts, counts, strict=True)}
        """Bytes that each host owns."""
        self.nowhere = (len(owners) - sum(counts)) * PAGE_BYTES
        """Bytes of pages that no host has."""

    @property
    def nbytes(self) -> int:
        """Bytes of all pages that the array touches: its own, rounded up."""
        return len(self.owners) * PAGE_BYTES

    def _rows(self) -> list[tuple[str, int, int]]:
        """Name, bytes owned, bytes of copies."""
        rows = [(host, self.owned[host], self.copies[host]) for host in self.hosts]
        return [*rows, ("nowhere", self.nowhere, 0)] if self.nowhere else rows

    def __repr__(self) -> str:
        said = (f"{name} {format_size(owned)}" for name, owned, _ in self._rows())
        return f"<Located: {', '.join(said)}>"

    def __str__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, _, _ in rows)
        lines = []
        for name, owned, copies in rows:
            bar = "#" * round(_BAR * owned / max(1, self.nbytes))
            more = f", copies of {format_size(copies)}" if copies else ""
            lines.append(f"{name:{width}}  {bar:{_BAR}}  {format_size(owned)}{more}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from megalith.notebook import located_html

        return located_html(self._rows(), self.nbytes)
