"""Splits that a source finds while it is read.

Always true:
- a split is put into the queue at most once, however often the source tells it;
- a split that was found is in the next manifest; what was found after the last one is told again by the
  source;
- a split counts as done when a checkpoint that every destination has committed says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from dataflare.errors import InternalError
from dataflare.model.progress import Split
from dataflare.resilience.retry import Retrying
from dataflare.sdk.source import KnownSplits, SourceConnector, SupportsDiscovery


def interval_of(source: SourceConnector, step: str) -> float | None:
    """How many seconds lie between two looks for new splits; None for a source that finds none."""
    if not isinstance(source, SupportsDiscovery):
        return None
    interval_s = source.discovery_interval_s()
    if interval_s is not None and not interval_s > 0:
        raise InternalError(
            f"step '{step}': `discovery_interval_s` of a {source.type} source gives {interval_s}, "
            "and a number above 0, or None, is expected",
            step=step,
        )
    return interval_s


class Finder:
    """Asks one source for new splits, until it says that there will be none.

    known: what is known of its splits. found: takes those that the source tells, or None: there will be no
    others. at_once: whether to ask without waiting for the interval first.
    """

    def __init__(
        self,
        source: SupportsDiscovery,
        interval_s: float,
        retrying: Retrying,
        *,
        known: Callable[[], Awaitable[KnownSplits]],
        found: Callable[[Sequence[Split] | None], None],
        at_once: bool,
    ) -> None:
        self.source, self.interval_s, self._retrying = source, interval_s, retrying
        self._known, self._found = known, found
        self._wake = asyncio.Event()
        if at_once:
            self._wake.set()

    def wake(self) -> None:
        """More may be found now: do not wait for the interval."""
        self._wake.set()

    async def run(self) -> None:
        """Raises what `discover` raises."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.interval_s):
                    await self._wake.wait()
            self._wake.clear()
            known = await self._known()
            splits = await self._retrying.call(partial(self.source.discover, known))
            self._found(splits)
            if splits is None:
                return


async def every_split(connector: SourceConnector) -> AsyncIterator[Split]:
    """The splits of a bounded source that is read whole, with those that are found meanwhile."""
    listed = await connector.splits()
    known: dict[str, Split] = {split.id: split for split in listed}
    for split in listed:
        yield split
    interval_s = interval_of(connector, connector.context.step)
    if interval_s is None:
        return
    assert isinstance(connector, SupportsDiscovery)
    while True:
        ids = frozenset(known)
        found = await connector.discover(KnownSplits(listed, ids, ids))
        if found is None:
            return
        fresh = {split.id: split for split in found if split.id not in known}
        known.update(fresh)
        for split in fresh.values():
            yield split
        if not fresh:
            await asyncio.sleep(interval_s)
