"""What is usual for a measure of a workflow, learnt from what its runs did before. Pure: no file, no clock.

Always true:
- nothing is unusual before enough was seen;
- a weekly course is usual: an hour of a weekday is compared with that hour of that weekday, and before enough is known
  of it, with all that was seen in two weeks or more;
- one strange value moves the usual range little: it is made of a median and of the median distance from it.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from dataflare.observability.conditions import Condition, Judged
from dataflare.observability.measures import counted_once, of_step, of_whole_run, shown
from dataflare.observability.view import RunView

_HOUR_S, _DAY_S = 3600.0, 86_400.0
_SLOTS = 7 * 24
_SLOT_VALUES, _SLOT_DAYS = 8, 4
"""An hour of a weekday is known after so many values, or after values of so many weeks."""
_ALL_VALUES, _ALL_DAYS = 12, 14
"""Before that, all that was seen is asked, if it is so much, of so many days."""
_KEPT_OF_SLOT, _KEPT_OF_HOUR = 24, 4
_DEVIATIONS, _SIGMA = 4.0, 1.4826
"""The median distance times the second is the standard deviation, where values are spread normally."""
_CHANCE = 0.2
"""Measured on hours of a made week of eight weeks: with a tenth, four to eight values of an hour gave ten false alarms in 1,344 hours."""


class Seen(Struct, array_like=True, frozen=True):
    """A value of a measure. at: seconds since 1970. was_unusual: it was told to be."""

    at: float
    value: float
    was_unusual: bool = False


class Range(Struct, frozen=True):
    """What is usual: from low to high, both included."""

    low: float
    high: float

    def in_words(self, unit: str) -> str:
        return f"{shown(self.low, unit)} to {shown(self.high, unit)}"


def slot_of(at: float) -> int:
    """The hour of the week, in UTC, of a time since 1970."""
    return int(at // _HOUR_S) % _SLOTS


def usual_range(seen: Sequence[Seen], at: float, unit: str) -> Range | str:
    """The usual values at a time. A text while it is being learnt: how much is known."""
    same = [each for each in seen if slot_of(each.at) == slot_of(at)]
    if len(same) >= _SLOT_VALUES or _days(same) >= _SLOT_DAYS:
        values = [each.value for each in same]
        middle = statistics.median(values)
        distance = statistics.median(abs(value - middle) for value in values)
        few = 1 + _SLOT_DAYS / len(values)  # of few values the distance is too small
        spread = few * _DEVIATIONS * _SIGMA * distance
        low = min(middle - spread, _below(middle, same, unit))
        return Range(max(0.0, low), middle + max(spread, _floor(middle, unit)))
    good = [each for each in seen if not each.was_unusual]
    span_s = good[-1].at - good[0].at if good else 0.0
    if len(good) >= _ALL_VALUES and span_s >= _ALL_DAYS * _DAY_S:
        low, high = min(each.value for each in good), max(each.value for each in good)
        return Range(max(0.0, _below(low, good, unit)), high + _floor(high, unit))
    return f"{len(same)} of {_SLOT_VALUES} values of this hour of the week are known"


def _days(seen: Iterable[Seen]) -> int:
    return len({int(each.at // _DAY_S) for each in seen})


def _floor(middle: float, unit: str) -> float:
    """How far from the middle a value is usual in any case: so much is chance."""
    least = {"share": 0.01, "duration": 1.0, "number": 3 * abs(middle) ** 0.5}.get(unit, 0.0)
    return float(max(_CHANCE * abs(middle), least))


def _below(middle: float, seen: Iterable[Seen], unit: str) -> float:
    """How low a value is usual in any case. A number is not below half of the least one that was seen: where there were
    always some rows, none are unusual."""
    low = middle - _floor(middle, unit)
    least = min((each.value for each in seen if not each.was_unusual), default=0.0)
    return max(low, least / 2) if unit == "number" else low


class History:
    """All that was seen of a workflow, by measure and step. is_new: something was added since it was kept."""

    def __init__(self, seen: Mapping[str, Sequence[Seen]] | None = None) -> None:
        self._seen = {key: [*values] for key, values in (seen or {}).items()}
        self.is_new = False

    def of(self, key: str) -> Sequence[Seen]:
        return self._seen.get(key, ())

    def knows(self, key: str) -> bool:
        """Whether something was seen of a key, or of one of the tables of its step."""
        return any(each == key or each.startswith(f"{key}.") for each in self._seen)

    def add(self, key: str, value: Seen) -> None:
        """One more. The oldest ones of an hour of the week are given up. Two rules may see the same."""
        seen = self._seen.setdefault(key, [])
        same = [each for each in seen if slot_of(each.at) == slot_of(value.at)]
        known = next((each for each in same if each.at == value.at), None)
        if known is not None:
            if not value.was_unusual:
                return
            seen.remove(known)
        elif len(same) >= _KEPT_OF_SLOT:
            seen.remove(same[0])
        seen.append(value)
        self.is_new = True

    def forget(self, keys: Collection[str]) -> dict[str, list[Seen]]:
        """Give up what was seen of these. Returns it."""
        return {key: self._seen.pop(key) for key in keys if key in self._seen}

    def take_back(self, forgotten: Mapping[str, Sequence[Seen]]) -> None:
        """Know again what was given up, where nothing was seen since."""
        for key, values in forgotten.items():
            self._seen.setdefault(key, [*values])

    def kept(self, *, taken: bool = True) -> dict[str, list[Seen]]:
        """A copy of all. taken: it is kept now."""
        self.is_new = self.is_new and not taken
        return {key: [*values] for key, values in self._seen.items()}


def key_of(condition: Condition, name: str) -> str:
    """Under which a history has what a condition saw of a step."""
    over = f"{condition.window_s:g}" if condition.window_s is not None else ""
    return f"{condition.measure_name} {over} {name}"


class UsualJudge:
    """Judges a condition that compares with what is usual, and remembers what it sees. learning: how much is known,
    until that is enough; "" then.

    A count is of the whole run, or of each interval of the clock that `in` says. A value of a moment is compared at each
    moment with the greatest ones of earlier hours.
    """

    def __init__(self, condition: Condition, step: str | None, history: History) -> None:
        self._condition, self._step, self._history = condition, step, history
        self._interval: int | None = None
        self._before: tuple[float, Mapping[str, Any]] | None = None
        self._greatest: dict[str, float] = {}
        self._judged: Judged | None = None
        self.learning = "nothing is known yet"

    def look(self, run: RunView) -> Judged | None:
        """None: it cannot be judged."""
        condition = self._condition
        if condition.is_of_whole_run:
            if run.status != "finished" or run.is_resumed:
                return None
            values = of_whole_run(condition.measure, self._read(run), run)
            return self._learnt(run.at, self._total(run, values))
        if condition.window_s is not None:
            return self._of_interval(run, condition.window_s)
        return self._of_moment(run)

    def _read(self, run: RunView) -> Mapping[str, Any]:
        return of_step(run, self._condition.measure.read(run), self._step)

    def _of_interval(self, run: RunView, window_s: float) -> Judged | None:
        """Of the last whole interval, until the next one is over."""
        interval = int(run.at // window_s)
        if interval == self._interval:
            return self._judged
        raw, over = self._read(run), self._condition.measure.over
        is_whole = self._before is not None and self._interval == interval - 1
        before_s, before = self._before or (0.0, {})
        first, self._interval = self._interval, interval
        # The first interval of a run has begun before it.
        self._before = None if first is None else (run.elapsed_s, raw)
        if not is_whole or first is None:
            return self._judged
        values: dict[str, float] = {}
        for name, value in raw.items():
            if over is None:
                values[name] = value - (before.get(name) or 0)
            elif (found := over(value, before.get(name), run.elapsed_s - before_s)) is not None:
                values[name] = found
        an_hour = max(1, round(_HOUR_S / window_s))
        every = max(1, an_hour // _KEPT_OF_HOUR)
        began = first * window_s
        values = {**self._total(run, values)}
        self._judged = self._learnt(began, values, keeps=first % an_hour % every == 0)
        return self._judged

    def _of_moment(self, run: RunView) -> Judged | None:
        hour = int(run.at // _HOUR_S)
        values = {name: float(value) for name, value in self._read(run).items()}
        if self._interval is not None and hour != self._interval:
            self._keep_greatest(self._interval * _HOUR_S)
        self._interval = hour
        for name, value in values.items():
            self._greatest[name] = max(value, self._greatest.get(name, 0.0))
        judged = self._compared(run.at, values)
        if run.has_ended:
            self._keep_greatest(run.at)
        return judged

    def _keep_greatest(self, at: float) -> None:
        judged = self._compared(at, self._greatest)
        for name, value in self._greatest.items():
            self._history.add(
                self._key(name), Seen(at, value, judged is not None and judged.is_met)
            )
        self._greatest = {}

    def _total(self, run: RunView, values: Mapping[str, Any]) -> Mapping[str, float]:
        measure = self._condition.measure
        if self._step is None and measure.is_total and values:
            return {"": float(sum(counted_once(run, values, measure.name).values()))}
        return values

    def _learnt(
        self, at: float, values: Mapping[str, float], *, keeps: bool = True
    ) -> Judged | None:
        judged = self._compared(at, values)
        unusual = judged is not None and judged.is_met
        for name, value in values.items():
            if keeps or unusual:
                self._history.add(self._key(name), Seen(at, float(value), unusual))
        return judged

    def _compared(self, at: float, values: Mapping[str, float]) -> Judged | None:
        """Of several steps the one that is farthest out speaks for all."""
        unit, found = self._condition.measure.unit, []
        texts: list[str] = []
        for name, value in values.items():
            before = [each for each in self._history.of(self._key(name)) if each.at < at]
            usual = usual_range(before, at, unit)
            if isinstance(usual, str):
                texts.append(usual)
                continue
            out = max(usual.low - value, value - usual.high) / max(usual.high, 1e-9)
            is_met = self._condition.holds_beside(value, usual.low, usual.high)
            found.append((is_met, out, name, value, usual))
        self.learning = "" if found or not texts else min(texts)
        if not found:
            return None
        is_met, _, name, value, usual = max(found, key=lambda each: each[:2])
        return Judged(is_met, value, name, usual.in_words(unit))

    def _key(self, name: str) -> str:
        return key_of(self._condition, name)
