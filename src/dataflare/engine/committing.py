"""A committer whose calls are made again when its system fails in a way worth retrying.

Always true: each of them may be, by the committer's contract; an epoch is committed once. For the circuit breaker only
commits say that the system is well: the other calls reach it in some destinations alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dataflare.resilience.retry import Retrying
from dataflare.sdk.destination import Committable, Committer, Epoch, Marker, Owner, RefusedRow


class RetriedCommitter(Committer):
    """Stands before a destination's own."""

    def __init__(self, committer: Committer, retrying: Retrying) -> None:
        self._committer, self._retrying = committer, retrying

    async def marker(self) -> Marker | None:
        return await self._retrying.call(self._committer.marker, is_counted=_never)

    async def owner(self) -> Owner | None:
        return await self._retrying.call(self._committer.owner, is_counted=_never)

    async def supersede(self, epoch: int) -> None:
        await self._retrying.call(partial(self._committer.supersede, epoch), is_counted=_never)

    async def is_empty(self) -> bool:
        return await self._retrying.call(self._committer.is_empty, is_counted=_never)

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        await self._retrying.call(
            partial(self._committer.recover, epoch, committables), is_counted=_never
        )

    async def begin(self, epoch: int) -> None:
        await self._retrying.call(partial(self._committer.begin, epoch), is_counted=_never)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        await self._retrying.call(partial(self._committer.commit, epoch, committables))

    def take_refused(self) -> Sequence[RefusedRow]:
        return self._committer.take_refused()

    async def published(self) -> Mapping[str, Any]:
        return await self._committer.published()

    async def aclose(self) -> None:
        await self._committer.aclose()


def _never() -> bool:
    return False
