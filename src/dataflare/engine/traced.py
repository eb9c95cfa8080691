"""The spans of one task's batches. Where the run is not traced, `TaskTrace.of_run` gives None."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.tracing import Span, Traced, Tracer, inside, tracer

T = TypeVar("T")


class TaskTrace:
    """step: its stage. verb: what it does with batches that come to it."""

    def __init__(self, tracer: Tracer, step: str, verb: str) -> None:
        self._tracer, self._step, self._verb = tracer, step, verb
        self._traced: Traced | None = None

    @classmethod
    def of_run(cls, step: str, verb: str) -> TaskTrace | None:
        made = tracer()
        return None if made is None else cls(made, step, verb)

    async def taken(
        self,
        port: int,
        batch: SharedDataBatch,
        call: Callable[[int, SharedDataBatch], Awaitable[T]],
    ) -> T:
        """A call that takes a batch, with a span if the batch carries one."""
        traced: Traced | None = batch.traced
        if traced is None:
            return await call(port, batch)
        first, *others = traced.contexts
        facts: dict[str, str | int | float] = {"step": self._step, "rows": batch.num_rows}
        if traced.across:
            facts["exchange"] = traced.across
        links = traced.contexts if traced.across else others
        span = self._tracer.begin(
            f"{self._verb} {self._step}",
            parent=first,
            links=links,
            attributes=facts,
        )
        return await self._below(span, lambda: call(port, batch))

    async def read(
        self,
        rows: int | None,
        seconds: float,
        parents: Sequence[str],
        call: Callable[[], Awaitable[T]],
    ) -> T:
        """A call that sends on what was read. rows: None: it is not known. parents: the traces that its messages
        name."""
        if rows == 0 or not self._tracer.is_due():
            return await call()
        facts: dict[str, str | int | float] = {"step": self._step}
        if rows is not None:
            facts["rows"] = rows
        span = self._tracer.begin(
            f"read {self._step}", links=parents, lasted_s=seconds, attributes=facts
        )
        return await self._below(span, call)

    def sent(self, exchange: str) -> Traced | None:
        """What a batch carries that leaves now."""
        traced = self._traced
        if traced is None or exchange == "forward":
            return traced
        return Traced(traced.contexts, exchange)

    async def _below(self, span: Span, call: Callable[[], Awaitable[T]]) -> T:
        with inside(span):
            self._traced = Traced((span.context,))
            try:
                return await call()
            finally:
                self._traced = None
