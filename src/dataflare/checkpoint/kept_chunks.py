"""Which machines have which chunks of state on their disk. Pure: it is what a job was told.

Always true: only the time to resume depends on it. A chunk that is not where it is expected is read from shared storage.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence

from dataflare.checkpoint.snapshots import StateChunk

_SPARE = 1_000


class KeptChunks:
    """Of one run, over its attempts."""

    def __init__(self) -> None:
        self._by_host: dict[str, set[str]] = {}
        self._of_task: dict[str, frozenset[str]] = {}

    def name(self, task: str, chunks: Collection[StateChunk]) -> None:
        """The state of a task consists of these chunks now. Others of it are forgotten before long."""
        self._of_task[task] = frozenset(chunk.name for chunk in chunks)
        known = sum(map(len, self._by_host.values()))
        used = sum(map(len, self._of_task.values()))
        if known > _SPARE + 2 * used * max(1, len(self._by_host)):
            named = frozenset().union(*self._of_task.values())
            for names in self._by_host.values():
                names &= named

    def put(self, host: str, chunks: Collection[StateChunk]) -> None:
        """A machine has these."""
        self._by_host.setdefault(host, set()).update(chunk.name for chunk in chunks)

    def missing(self, host: str, chunks: Collection[StateChunk]) -> list[StateChunk]:
        """Those that a machine does not have."""
        names = self._by_host.get(host, set())
        return [chunk for chunk in chunks if chunk.name not in names]

    def has_all(self, hosts: Sequence[str], chunks: Collection[StateChunk]) -> frozenset[int]:
        """The places in `hosts` of the machines that have all of them; none where there are no chunks."""
        if not chunks:
            return frozenset()
        found = {host: not self.missing(host, chunks) for host in set(hosts)}
        return frozenset(number for number, host in enumerate(hosts) if found[host])


def others(
    number: int, hosts: Sequence[str], copies: int, among: Container[int] | None = None
) -> Iterator[int]:
    """The workers that keep copies for a worker: the next ones on other machines, one of each. hosts: by worker. among: those
    that take part."""
    seen = {hosts[number]}
    for step in range(1, len(hosts)):
        other = (number + step) % len(hosts)
        if len(seen) > copies:
            return
        if hosts[other] not in seen and (among is None or other in among):
            seen.add(hosts[other])
            yield other
