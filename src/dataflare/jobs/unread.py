"""End a run when the reader of its standard output is gone, as other programs in a pipe do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from dataflare.connectors import stdout
from dataflare.planner import Plan
from dataflare.sdk.runtime import current


@contextlib.contextmanager
def unread(plan: Plan, stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on this event loop if the reader goes away inside the `with` block. Only for a run that
    has no other destination, or that has no end. Another run continues for its other destinations."""
    stages = plan.stages.stages
    endless = any(s.source is not None and not s.source.capabilities().bounded for s in stages)
    ends = [stage.destination for stage in stages if stage.destination is not None]
    has_others = any(not isinstance(each, stdout.StdoutDestination) for each in ends)
    if has_others and not endless:
        yield
        return
    loop = asyncio.get_running_loop()
    runtime = current()
    runtime.on_unread = lambda: loop.call_soon_threadsafe(stop)
    try:
        yield
    finally:
        runtime.on_unread = None
