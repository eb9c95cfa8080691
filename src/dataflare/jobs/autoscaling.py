"""`settings.cluster.autoscale`: as many workers as the load of a run needs.

`workers_for` decides by one look at the run, and `Autoscaler` by several: it grows when every look of `grow_after` wants more, and
shrinks when every look of `shrink_after` wants fewer. Both are pure.

Always true:
- more load never means fewer workers;
- under a load that stays as it is the number changes in one direction, and then stays: a smaller number is wanted only where its
  workers would be busy for at most `_SPARE` of the target;
- the number is never below what the state in memory needs, except where `max` is.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from dataflare.errors import DataFlareError, from_here
from dataflare.jobs.scaling import workers_needed
from dataflare.observability.times import Spent
from dataflare.observability.view import RunView, StageView

if TYPE_CHECKING:
    from dataflare.jobs.watching import Watch
    from dataflare.workflow.settings import Autoscale

_SPARE = 0.8
"""Workers that are left after some went are busy for at most this part of the target."""
_GROWTH_MAX = 2.0
"""At once a run becomes at most so many times as large: what workers do that have no time left cannot be measured."""
_REST_S = 10.0
"""After a new size has begun, tasks are busy with what waited."""
_REFUSED_S = 60.0
"""Where there was no room, it is tried again after so long: nodes that are asked for take minutes to come."""


_SMOOTHED = 5
"""Looks, a second apart, over which it is measured how busy tasks are: workers report a few times a second."""


class Load(Struct, frozen=True):
    """What a run does. workers: that it has. busy: of the stage whose tasks have the least time left, the share of the time in which they work. lag_s: how
    far event time is behind the clock, None where there is none. state_workers: so many have room for the state."""

    workers: int
    busy: float
    lag_s: float | None = None
    state_workers: int = 1


def workers_for(load: Load, settings: Autoscale) -> int:
    """How many workers a load needs. Pure.

    The work is what all workers do together: `workers * busy`. Shared among enough workers each is busy for `target_busy`. As
    in the horizontal pod autoscaler of Kubernetes, with a band in which nothing changes.
    """
    work = load.workers * load.busy
    grown = math.ceil(round(work / settings.target_busy, 6))
    fewer = math.ceil(round(work / (settings.target_busy * _SPARE), 6))
    is_late = load.lag_s is not None and load.lag_s > settings.lag_max
    wanted = load.workers
    if grown > load.workers:
        wanted = min(grown, math.ceil(load.workers * _GROWTH_MAX))
    elif is_late:
        # Where tasks have time left, more of them would not make it less.
        wanted += load.busy > settings.target_busy * _SPARE
    elif fewer < load.workers:
        wanted = fewer
    return within(wanted, load.state_workers, settings)


def within(workers: int, state_workers: int, settings: Autoscale) -> int:
    """The number that the settings and the state allow."""
    return min(max(workers, settings.min, state_workers), settings.max)


class Autoscaler:
    """Judges the looks at one run. Time is that of its caller, in seconds."""

    def __init__(self, settings: Autoscale) -> None:
        self._settings = settings
        self._looks: deque[tuple[float, int]] = deque()
        self._begins_s: float | None = None

    def look(self, at_s: float, load: Load) -> int | None:
        """How many workers the run should have now, where that is another number."""
        settings, looks = self._settings, self._looks
        if self._begins_s is None:
            self._begins_s = at_s
        looks.append((at_s, workers_for(load, settings)))
        kept_s = max(settings.grow_after, settings.shrink_after)
        while len(looks) > 1 and looks[1][0] <= at_s - kept_s:
            looks.popleft()
        # At once, where the settings say so.
        allowed = within(load.workers, 1, settings)
        if allowed != load.workers:
            return allowed
        least = self._over(settings.grow_after, at_s, min)
        if least is not None and least > load.workers:
            return least
        most = self._over(settings.shrink_after, at_s, max)
        return most if most is not None and most < load.workers else None

    def rest(self, until_s: float) -> None:
        """A size was tried: what was seen before says nothing, and until then looks say nothing."""
        self._looks.clear()
        self._begins_s = until_s

    def is_resting(self, at_s: float) -> bool:
        return self._begins_s is not None and at_s < self._begins_s

    def _over(
        self, seconds: float, at_s: float, judged: Callable[[Iterable[int]], int]
    ) -> int | None:
        """What the looks of the last seconds come to; None where they are of a shorter time."""
        if self._begins_s is None or at_s - self._begins_s < seconds:
            return None
        recent = [wanted for seen_s, wanted in self._looks if seen_s >= at_s - seconds]
        return judged(recent)


def busy_share(stages: Sequence[StageView], before: Mapping[str, Spent]) -> float:
    """The share of the time in which the tasks of the busiest stage worked. before: by stage, the time that they had spent."""
    shares = [0.0]
    for stage in stages:
        spent = stage.spent.since(before.get(stage.name, Spent()))
        if spent.total_s > 0:
            shares.append(spent.busy_s / spent.total_s)
    return min(1.0, max(shares))


class Autoscaling:
    """Of one run. It is asked each second."""

    def __init__(self, watch: Watch, settings: Autoscale) -> None:
        self._watch, self._settings = watch, settings
        self._autoscaler = Autoscaler(settings)
        self._before: deque[dict[str, Spent]] = deque(maxlen=_SMOOTHED)
        self._asking: asyncio.Task[None] | None = None

    def look(self, run: RunView) -> None:
        """Begin another size where one is due."""
        now = asyncio.get_running_loop().time()
        size = self._watch.size()
        is_asking = self._asking is not None and not self._asking.done()
        if size is None or size.workers is None or is_asking or self._autoscaler.is_resting(now):
            self._before.clear()
            return
        spent = {stage.name: replace(stage.spent) for stage in run.stages}
        if self._before:
            lags = [lag for step in run.steps if (lag := run.lag_s(step)) is not None]
            busy = busy_share(run.stages, self._before[0])
            state = sum(stage.state_bytes for stage in run.stages)
            memory = self._watch.workflow.settings.resources.memory
            load = Load(size.workers, busy, max(lags, default=None), workers_needed(state, memory))
            workers = self._autoscaler.look(now, load)
            if workers is not None:
                self._asking = asyncio.ensure_future(self._ask(workers, load))
        self._before.append(spent)

    async def _ask(self, workers: int, load: Load) -> None:
        loop, watch = asyncio.get_running_loop(), self._watch
        late = "" if load.lag_s is None else f", event time is {load.lag_s:.0f} s late"
        why = f"the busiest step works {load.busy:.0%} of the time{late}"
        try:
            scaled = await watch.scaled(workers, None, keep_asking=True)
        except DataFlareError as error:
            text = f"{workers} workers are wanted ({why}), and there are {load.workers}: {from_here(error.message)}"
            watch.say(text, level="warning", event="autoscale", workers=workers)
            self._autoscaler.rest(loop.time() + _REFUSED_S)
        else:
            text = f"{workers} workers instead of {load.workers}: {why}; rows stood still for {scaled.pause_s:.1f} s"
            watch.say(text, event="autoscale", workers=workers)
            self._autoscaler.rest(loop.time() + _REST_S)
