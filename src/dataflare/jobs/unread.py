"""End a run when nobody reads its standard output any more, as other programs in a pipe do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from dataflare.connectors import stdout
from dataflare.planner import Plan


@contextlib.contextmanager
def unread(plan: Plan, stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop`, on this event loop, when the reader goes away while this is open: in a run that
    would do nothing else, or that has no end. Another one goes on for its other destinations."""
    stages = plan.stages.stages
    endless = any(s.source is not None and not s.source.capabilities().bounded for s in stages)
    others = any(s.destination is not None and s.destination.type != "stdout" for s in stages)
    if others and not endless:
        yield
        return
    loop = asyncio.get_running_loop()
    stdout.when_unread(lambda: loop.call_soon_threadsafe(stop))
    try:
        yield
    finally:
        stdout.when_unread(None)
