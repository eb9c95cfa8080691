"""`lag > 5m for 2m`: when an alert fires. Parsed, and judged over the views of a run. Pure.

    MEASURE [OPERATOR VALUE] [in DURATION] [for DURATION]

The value `usual` is what was seen before, at this hour of the week (see `usual`).

Always true: a condition that cannot be judged yet is neither met nor unmet.
"""

from __future__ import annotations

import operator
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from dataflare.errors import did_you_mean
from dataflare.model.units import parse_duration, parse_size
from dataflare.observability.measures import (
    WINDOW_S,
    Measure,
    counted_once,
    measure_names,
    measure_of,
    of_step,
    of_whole_run,
    shown,
)
from dataflare.observability.view import ErrorView, RunView

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
}
_TEXT = re.compile(
    r"\s*(?P<measure>[A-Za-z_]\w*)\s*"
    r"(?:(?P<operator>>=|<=|<>|!=|==|=|>|<)\s*(?P<value>.*?)\s*)?"
    r"(?:\bin\s+(?P<window>.*?)\s*)?"
    r"(?:\bfor\s+(?P<for>.*?)\s*)?"
)
EXPECTED = "a measure, an operator and a value, such as 'lag > 5m' or 'errors > 100 in 5m for 1m'"
_NUMBER = re.compile(r"[0-9][0-9_]*(?:\.[0-9]+)?")
USUAL = "usual"
_USUAL_S, _USUAL_LEAST_S = 3600.0, 60.0
"""Over how long a measure is compared with what is usual, where `in` does not say; and the least that it may say."""
_SAMPLES = 60
"""How many earlier looks of a window are kept at most."""


class Condition(Struct, frozen=True):
    """window_s: over how long the measure is taken; None: now, or since the run began. is_usual: it is compared with what
    was seen before, not with `limit`."""

    text: str
    measure_name: str
    operator: str
    limit: float
    window_s: float | None = None
    for_s: float | None = None
    is_usual: bool = False

    @property
    def measure(self) -> Measure:
        found = measure_of(self.measure_name)
        assert found is not None
        return found

    def holds(self, value: float) -> bool:
        return _OPERATORS[self.operator](value, self.limit)

    def holds_beside(self, value: float, low: float, high: float) -> bool:
        """Whether the value is outside of what is usual, on the side that the operator names."""
        is_less, is_more = value < low, value > high
        return {"<": is_less, "<=": is_less, ">": is_more, ">=": is_more}.get(
            self.operator, is_less or is_more
        )

    @property
    def is_of_whole_run(self) -> bool:
        """Whether it is judged once, when the run has finished: at its begin everything that grows is small."""
        if self.measure.whole:
            return self.window_s is None
        grows = self.measure.grows or self.measure_name == "elapsed"
        looks_up = self.operator in (">", ">=") and not self.is_usual
        return grows and self.window_s is None and not looks_up

    @property
    def looks_for_little(self) -> bool:
        return self.operator in ("<", "<=")

    def in_words(
        self, value: float, step: str, error: ErrorView | None = None, usual: str = ""
    ) -> str:
        """`lag of orders is 7 min 3 s (lag > 5m)`. error: that ended the run. usual: what would be."""
        measure, of = self.measure, f" of {step}" if step else ""
        if self.measure_name == "failed":
            return f"{measure.words}: {error.message}" if error is not None else measure.words
        if measure.unit == "flag":
            return f"{measure.words.format(of=of)} ({self.text})"
        name = measure.name.replace("_", " ")
        beside = f", and {usual} is usual" if usual else ""
        return f"{name}{of} is {shown(value, measure.unit)}{beside} ({self.text})"


def parse_condition(text: str) -> Condition:
    """Raises ValueError with what was expected."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"expected {EXPECTED}")
    name = found["measure"]
    measure = measure_of(name)
    if measure is None:
        names = measure_names()
        near = did_you_mean(name, names)
        known = near or f"one of: {', '.join(names)}"
        raise ValueError(f"there is no measure '{name}'; {known}")
    window_s = None
    if found["window"] is not None:
        if not measure.grows and measure.over is None:
            raise ValueError(f"'{name}' has no 'in': it is what it is at one moment")
        window_s = _duration(found["window"], "in")
    elif measure.over is not None and not measure.whole:
        window_s = WINDOW_S
    for_s = None if found["for"] is None else _duration(found["for"], "for", zero=True)
    if found["operator"] is None:
        if measure.unit != "flag":
            raise ValueError(f"expected {EXPECTED}")
        return Condition(text.strip(), name, ">", 0.0, window_s, for_s)
    if measure.unit == "flag":
        raise ValueError(
            f"'{name}' is true or false and stands alone, without '{found['operator']}'"
        )
    if found["value"] == USUAL:
        return _usual(text.strip(), measure, found["operator"], window_s, for_s)
    limit = _value(found["value"], measure)
    return Condition(text.strip(), name, found["operator"], limit, window_s, for_s)


def _usual(
    text: str, measure: Measure, operator: str, window_s: float | None, for_s: float | None
) -> Condition:
    name = measure.name
    if operator in ("=", "=="):
        raise ValueError(f"'{name}' is compared with 'usual' by '<', '>' or '!='")
    is_of_moment = (
        not measure.grows and not measure.whole and measure.over is None and name != "elapsed"
    )
    if is_of_moment and operator not in (">", ">="):
        raise ValueError(
            f"'{name}' is compared with 'usual' by '>': it is what it is at one moment"
        )
    if measure.over is not None and not measure.whole and not re.search(r"\bin\b", text):
        window_s = _USUAL_S
    if window_s is not None and window_s < _USUAL_LEAST_S:
        raise ValueError("with 'usual', 'in' needs 1m or more")
    return Condition(text, name, operator, 0.0, window_s, for_s, is_usual=True)


def _duration(text: str, word: str, *, zero: bool = False) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ValueError(f"'{word}' needs {str(error).removeprefix('expected ')}") from None
    if not seconds and not zero:
        raise ValueError(f"'{word}' needs a duration above 0")
    return seconds


def _value(text: str, measure: Measure) -> float:
    name = measure.name
    if measure.unit in ("duration", "size"):
        try:
            return (parse_duration if measure.unit == "duration" else parse_size)(text)
        except ValueError as error:
            needed = str(error).removeprefix("expected ")
            raise ValueError(f"'{name}' is compared with {needed}, not '{text}'") from None
    number, is_percent = text, False
    if measure.unit == "share" and text.endswith("%"):
        number, is_percent = text[:-1].rstrip(), True
    if measure.unit == "rate":
        number = re.sub(r"\s*/\s*s$", "", text)
    if _NUMBER.fullmatch(number) is None:
        example = "90% or 0.9" if measure.unit == "share" else "100"
        raise ValueError(f"'{name}' is compared with a number such as {example}, not '{text}'")
    value = float(number) / (100 if is_percent else 1)
    if measure.unit == "share" and value > 1:
        raise ValueError(f"'{name}' is a share: at most 100% or 1, not '{text}'")
    return value


class Judged(Struct, frozen=True):
    """step: '' for the run, or for all steps together. usual: what would be, in words."""

    is_met: bool
    value: float
    step: str
    usual: str = ""


class Judge:
    """Judges one condition, look by look. step: only of this one, or of a source and its streams."""

    def __init__(self, condition: Condition, step: str | None = None) -> None:
        self._condition, self._step = condition, step
        self._looks: deque[tuple[float, Mapping[str, Any]]] = deque()

    def look(self, run: RunView) -> Judged | None:
        """None: it cannot be judged."""
        condition, measure = self._condition, self._condition.measure
        if condition.is_of_whole_run and run.status != "finished":
            return None
        raw = of_step(run, measure.read(run), self._step)
        if condition.window_s is not None:
            values = self._over(run.elapsed_s, raw)
        else:
            values = of_whole_run(measure, raw, run)
        if self._step is None and measure.is_total:
            values = counted_once(run, values, measure.name)
            total = sum(values.values())
            return Judged(condition.holds(total), total, "") if values else None
        if not values:
            return None
        # Of several steps the farthest out speaks for all.
        chosen = min if condition.looks_for_little else max
        met = {name: value for name, value in values.items() if condition.holds(value)}
        step = chosen(met or values, key=(met or values).__getitem__)
        named = run.failure.step if measure.name == "failed" and run.failure is not None else step
        return Judged(bool(met), values[step], named or "")

    def _over(self, now_s: float, raw: Mapping[str, Any]) -> Mapping[str, float]:
        """The values over the window. Where a run is younger than that: since it began, for a count that is not to be
        small; nothing else can be said yet."""
        condition, looks = self._condition, self._looks
        window_s = condition.window_s or 0.0
        while len(looks) > 1 and now_s - looks[1][0] >= window_s:
            looks.popleft()
        is_whole = bool(looks) and now_s - looks[0][0] >= window_s
        before_s, before = looks[0] if is_whole else (0.0, {})
        if not looks or now_s - looks[-1][0] >= window_s / _SAMPLES:
            looks.append((now_s, raw))
        if not is_whole and (not condition.measure.grows or condition.looks_for_little):
            return {}
        over = condition.measure.over
        values: dict[str, float] = {}
        for name, value in raw.items():
            earlier = before.get(name)
            if over is None:
                values[name] = value - (earlier or 0)
            elif (found := over(value, earlier, now_s - before_s)) is not None:
                values[name] = found
        return values
