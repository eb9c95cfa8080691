"""Charts over the time of a run, as HTML with SVG: no scripts. A chart is as wide as its place: lines stretch, texts do not.

The browser shows the values at a time when the pointer is above it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from dataflare.jobs.report.facts import Point

SERIES_MAX = 6
_WIDTH, _HEIGHT = 1000.0, 200.0
_TICKS = 4
_TIMES_MAX = 5
_TIME_STEPS_S = (
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0),
    *(3_600.0, 7_200.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0),
)

Shown = Callable[[float], str]


def lines(
    title: str,
    series: Mapping[str, Sequence[Point]],
    shown: Shown,
    end_s: float,
    *,
    top: float | None = None,
    hint: str = "",
) -> str:
    """A chart with a line each. shown: a value as text. end_s: where the time axis ends. top: of the value axis."""
    drawn = _largest(series)
    if not any(drawn.values()):
        return ""
    ceiling, ticks = _ticks(top or max(y for points in drawn.values() for _, y in points))
    paths = "".join(
        f'<path class="l s{index}" d="{_path(points, end_s, ceiling)}"/>'
        + (
            f'<path class="a s{index}" d="{_area(points, end_s, ceiling)}"/>'
            if len(drawn) == 1
            else ""
        )
        for index, points in enumerate(drawn.values())
        if points
    )
    left_out = len(series) - len(drawn)
    more = f'<span class="more">and {left_out} more</span>' if left_out else ""
    return _figure(
        title, _legend([*drawn]) + more, paths + _looks(drawn, shown, end_s), ticks, ceiling, shown,
        end_s, hint, _summary(title, drawn, shown),
    )  # fmt: skip


def bars(title: str, points: Sequence[Point], shown: Shown, end_s: float, *, hint: str = "") -> str:
    """A chart with a bar at each time."""
    if not points:
        return ""
    ceiling, ticks = _ticks(max(y for _, y in points))
    width = max(2.0, min(10.0, _WIDTH / max(1, len(points)) * 0.6))
    drawn = "".join(
        f'<rect class="b s0" x="{_n(min(_x(x, end_s), _WIDTH - width))}" y="{_n(_y(y, ceiling))}" width="{_n(width)}"'
        f' height="{_n(_HEIGHT - _y(y, ceiling))}"><title>{escape(clock(x))}: {escape(shown(y))}</title></rect>'
        for x, y in points
    )
    told = _summary(title, {"": points}, shown)
    return _figure(title, "", drawn, ticks, ceiling, shown, end_s, hint, told)


def clock(seconds: float) -> str:
    """`4.5 s`, `1:05`, `2:03:00`: a time since the run began."""
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, second = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"


def _figure(
    title: str,
    legend: str,
    inside: str,
    ticks: Sequence[float],
    ceiling: float,
    shown: Shown,
    end_s: float,
    hint: str,
    told: str,
) -> str:
    grid = "".join(
        f'<line class="g" x1="0" x2="{_n(_WIDTH)}" y1="{_n(_y(t, ceiling))}" y2="{_n(_y(t, ceiling))}"/>'
        for t in ticks
    )
    values = "".join(
        f'<span style="bottom:{100 * tick / ceiling:.2f}%">{escape(shown(tick))}</span>'
        for tick in ticks
    )
    times = "".join(
        f"<span{' class=end' if at_s > 0.93 * end_s else ''}"
        f' style="left:{100 * at_s / end_s:.2f}%">{escape(clock(at_s))}</span>'
        for at_s in _times(end_s)
    )
    note = f'<p class="hint">{escape(hint)}</p>' if hint else ""
    return (
        f'<figure class="chart"><figcaption><h3>{escape(title)}</h3><div class="legend">{legend}</div></figcaption>{note}'
        f'<div class="plot"><div class="values" aria-hidden="true">{values}</div>'
        f'<svg role="img" aria-label="{escape(told)}" viewBox="0 0 {_n(_WIDTH)} {_n(_HEIGHT)}"'
        f' preserveAspectRatio="none">{grid}{inside}</svg></div>'
        f'<div class="times" aria-hidden="true">{times}</div></figure>'
    )


def _legend(names: Sequence[str]) -> str:
    return "".join(
        f'<span class="key"><i class="k{index}"></i>{escape(name)}</span>'
        for index, name in enumerate(names)
        if name
    )


def _largest(series: Mapping[str, Sequence[Point]]) -> dict[str, Sequence[Point]]:
    """Those with the greatest values, in the order that they had."""
    greatest = {name: max((y for _, y in points), default=0.0) for name, points in series.items()}
    chosen = sorted(greatest, key=lambda name: -greatest[name])[:SERIES_MAX]
    return {name: points for name, points in series.items() if name in chosen}


def _summary(title: str, series: Mapping[str, Sequence[Point]], shown: Shown) -> str:
    """The chart in words, for those who do not see it."""
    told = []
    for name, points in series.items():
        if points:
            mean = sum(y for _, y in points) / len(points)
            most = max(y for _, y in points)
            told.append(
                f"{name or 'they'}: {shown(mean)} on average, {shown(most)} at most".strip()
            )
    return f"{title}. " + "; ".join(told)


def _looks(series: Mapping[str, Sequence[Point]], shown: Shown, end_s: float) -> str:
    """A strip for each time, with the values there as its tooltip."""
    times = sorted({x for points in series.values() for x, _ in points})
    strips = []
    for index, at_s in enumerate(times):
        start = 0.0 if index == 0 else (times[index - 1] + at_s) / 2
        end = end_s if index == len(times) - 1 else (at_s + times[index + 1]) / 2
        values = "\n".join(
            f"{name}: {shown(value)}" if name else shown(value)
            for name, points in series.items()
            if (value := _at(points, at_s)) is not None
        )
        strips.append(
            f'<rect class="look" x="{_n(_x(start, end_s))}" y="0" width="{_n(_x(end, end_s) - _x(start, end_s))}"'
            f' height="{_n(_HEIGHT)}"><title>{escape(clock(at_s))}\n{escape(values)}</title></rect>'
        )
    return "".join(strips)


def _at(points: Sequence[Point], at_s: float) -> float | None:
    index = bisect_left(points, (at_s, -math.inf))
    return points[index][1] if index < len(points) and points[index][0] == at_s else None


def _path(points: Sequence[Point], end_s: float, ceiling: float) -> str:
    if len(points) == 1:  # one value stands for the whole time
        points = [(0.0, points[0][1]), (end_s, points[0][1])]
    return "M" + "L".join(f"{_n(_x(x, end_s))} {_n(_y(y, ceiling))}" for x, y in points)


def _area(points: Sequence[Point], end_s: float, ceiling: float) -> str:
    first, last = (0.0, end_s) if len(points) == 1 else (points[0][0], points[-1][0])
    path = _path(points, end_s, ceiling)
    return f"{path}L{_n(_x(last, end_s))} {_n(_HEIGHT)}L{_n(_x(first, end_s))} {_n(_HEIGHT)}Z"


def _x(at_s: float, end_s: float) -> float:
    return _WIDTH * min(1.0, at_s / end_s) if end_s > 0 else 0.0


def _y(value: float, ceiling: float) -> float:
    return _HEIGHT * (1 - min(1.0, max(0.0, value / ceiling)))


def _ticks(greatest: float) -> tuple[float, list[float]]:
    """The top of the axis, and its marks: multiples of 1, 2 or 5 times a power of ten."""
    if greatest <= 0 or not math.isfinite(greatest):
        return 1.0, [0.0, 1.0]
    rough = greatest / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    count = math.ceil(greatest / step - 1e-9)
    return step * count, [step * i for i in range(count + 1)]


def _times(end_s: float) -> list[float]:
    """The marks of the time axis."""
    step = next((each for each in _TIME_STEPS_S if end_s / each <= _TIMES_MAX), None)
    if step is None:
        step = 86_400.0 * math.ceil(end_s / 86_400 / _TIMES_MAX)
    return [step * i for i in range(int(end_s / step + 1e-9) + 1)]


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def stacked(rows: Sequence[tuple[str, str, Sequence[tuple[str, float]]]]) -> Iterator[str]:
    """Lines with a bar of parts. rows: a name, what is said at its end, and class and share of each part."""
    for name, told, parts in rows:
        bar = "".join(
            f'<i class="{style}" style="width:{100 * share:.2f}%" title="{style} {share:.0%}"></i>'
            for style, share in parts
            if share > 0
        )
        spoken = ", ".join(f"{style} {share:.0%}" for style, share in parts)
        yield (
            f'<div class="row"><span class="name">{escape(name)}</span>'
            f'<span class="bar" role="img" aria-label="{escape(f"{name}: {spoken}")}">{bar}</span>'
            f'<span class="told">{escape(told)}</span></div>'
        )
