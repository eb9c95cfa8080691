"""Spans of what a run does: batches, checkpoints, calls of systems. Where a run is not traced, all of it costs a look at
an attribute.

A batch that is traced carries where its span was (`Traced`) from task to task, and what a connector calls meanwhile is a
span below it. `traceparent` is the header of W3C by which messages name the trace that they belong to.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from dataflare.sdk.runtime import current

T = TypeVar("T")

HEADER = "traceparent"
_HEADER_FORM = re.compile(
    r"((?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})((?<!^00.{53})-.*)?"
)
"""W3C Trace Context: version ff and ids of zeros are not valid; versions after 00 may have more fields, whose meaning is not
known."""
_LOOKED_AT, _PARENTS_MAX = 200, 16
"""In so many messages of a chunk traces are searched, and so many are named."""


Attributes = Mapping[str, str | int | float]
NONE: Attributes = MappingProxyType({})


class Span(Protocol):
    """context: by which others refer to it. traceparent: the same as text."""

    @property
    def context(self) -> Any: ...
    @property
    def traceparent(self) -> str: ...
    def end(self, error: BaseException | None = None) -> None: ...


class Tracer(Protocol):
    def is_due(self, what: str = "batches") -> bool:
        """Whether one more of these is to be traced now."""

    def begin(
        self,
        name: str,
        *,
        parent: Any = None,
        links: Iterable[Any] = (),
        lasted_s: float = 0.0,
        attributes: Attributes = NONE,
    ) -> Span:
        """parent: the context of a span or a text of `traceparent`, or None for a trace of its own. links: the same.
        lasted_s: it began so long ago."""


class Traced(Struct, frozen=True):
    """What a batch carries: the contexts of the spans that it comes from, as texts where they come from another process.
    across: the exchange that it went over, where it is not
    simply handed on."""

    contexts: tuple[Any, ...]
    across: str = ""


def joined_traces(parts: Iterable[Traced | None]) -> Traced | None:
    """What batches carry that became one."""
    known = [part for part in parts if part is not None]
    if len(known) < 2:
        return known[0] if known else None
    contexts = tuple(context for part in known for context in part.contexts)
    return Traced(contexts[:_PARENTS_MAX], known[0].across)


class _Live:
    """A span until its end: what was started below it may live longer, and is not below it then."""

    __slots__ = ("span",)

    def __init__(self, span: Span) -> None:
        self.span: Span | None = span


LIVE: contextvars.ContextVar[_Live | None] = contextvars.ContextVar("span", default=None)
"""Looked at before anything of a span is made: where a run is not traced that is all there is."""


def _span() -> Span | None:
    live = LIVE.get()
    return None if live is None else live.span


def tracer() -> Tracer | None:
    """That of the run that calls; None where it is not traced."""
    found: Tracer | None = current().tracer
    return found


@contextmanager
def inside(span: Span) -> Iterator[Span]:
    """What is called in the `with` is below the span, which ends with it."""
    live = _Live(span)
    token = LIVE.set(live)
    try:
        yield span
    except BaseException as error:
        span.end(error)
        raise
    else:
        span.end()
    finally:
        live.span = None
        LIVE.reset(token)


@contextmanager
def below(name: str, attributes: Attributes = NONE) -> Iterator[None]:
    """A span below that of the caller, if there is one."""
    span, made = _span(), tracer()
    if span is None or made is None:
        yield
        return
    with inside(made.begin(name, parent=span.context, attributes=attributes)):
        yield


def called(
    name: str, call: Callable[[], Awaitable[T]], attributes: Attributes = NONE
) -> Callable[[], Awaitable[T]]:
    """The call, with a span for each time that it is made, where the caller has one."""
    if _span() is None:
        return call

    async def traced() -> T:
        with below(name, attributes):
            return await call()

    return traced


def traceparent() -> str | None:
    """For the messages that are written now."""
    span = _span()
    return None if span is None else span.traceparent


def trace_in(value: Any) -> str | None:
    """The first four fields of a header `traceparent`, if its value is valid."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    match = _HEADER_FORM.fullmatch(text)
    return match[1] if match else None


class Requests:
    """The header `traceparent` of the requests that a reader makes. A reader has no span while it reads, so a few of its
    requests a second have one of their own, and what is read then is linked to it."""

    def __init__(self) -> None:
        self._traces: dict[str, None] = {}

    @contextmanager
    def one(self, attributes: Attributes = NONE) -> Iterator[str | None]:
        """The header of a request that is made in the `with`; None where it has none."""
        if _span() is not None:
            yield traceparent()
            return
        made = tracer()
        if made is None or not made.is_due("requests"):
            yield None
            return
        with inside(made.begin("request", attributes=attributes)) as span:
            self._traces[span.traceparent] = None
            yield span.traceparent

    def taken(self) -> tuple[str, ...]:
        """The traces of the requests since the last call."""
        traces, self._traces = self._traces, {}
        return tuple(traces)[:_PARENTS_MAX]


def traceparent_of(context: Any) -> str:
    """The text by which other processes know a span. context: that of the span, or such a text."""
    if isinstance(context, str):
        return context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parents_of(
    messages: Sequence[Any], headers: Callable[[Any], Iterable[tuple[str, Any]] | None]
) -> tuple[str, ...]:
    """The traces that messages belong to, by their headers. Reads nothing where the run is not traced."""
    if tracer() is None:
        return ()
    found: dict[str, None] = {}
    for message in messages[:_LOOKED_AT]:
        for name, value in headers(message) or ():
            if name == HEADER and (text := trace_in(value)) is not None:
                found[text] = None
        if len(found) >= _PARENTS_MAX:
            break
    return tuple(found)
