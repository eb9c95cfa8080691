"""What the state of a window step means, and how it is used after the step has changed.

Windows of another size or slide can go on if each of them ends where an old one ended, and begins where a part of
the old ones began: then all rows that the first of them needs are still there, and it gives what it would have given
if the step had always been so. All other sizes are refused.

A window that was closed stays closed when `allowed_lateness` grows, because its rows are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.model.event_time import NEVER, TIME_COLUMN, moment_of
from dataflare.model.types import Schema
from dataflare.model.units import shown_duration
from dataflare.operators.window_changes import meanings, needs_values
from dataflare.operators.window_counts import COUNT
from dataflare.operators.window_grid import Grid
from dataflare.operators.window_rows import CHANGED, END, FIRED, FIRST, FROM, LAST, PANE
from dataflare.state.layout import HIDDEN, STEP, Adaptation, Held, Layout, TableLayout
from dataflare.state.weighted import WEIGHT

if TYPE_CHECKING:
    from dataflare.operators.window import Window

CLOSED = "closed"
"""The name of a small value: windows that ended up to this time are closed, whatever `allowed_lateness` is."""
LIMIT = "__dataflare_limit"
"""Int64, of rows that wait for their session: a session that ends before it is closed for the row."""
_EARLIEST = -(2**62)
_GRID = ("size", "slide", "offset", "zone")


def layout_of(operator: Window, rows: Schema) -> Layout:
    """rows: the columns that reach the step."""
    texts = dict(zip(operator.group, operator.meanings, strict=True))
    keys = {name: f"{rows[name]}" for name in operator.group}
    notes = {}
    if operator.every_s is not None and operator.grid is not None:
        notes[CHANGED] = "(whether rows came that no result has given)"
    elif operator.count:
        notes[COUNT] = "(how many rows there are)"
    measures = operator.aggregation.meanings()
    rule, of_panes = "", dict[str, str]()
    if operator.changes:
        # A sum that begins later cannot give back rows that came before it.
        by_values = needs_values(operator.aggregation)
        rule = (
            f"{'values' if by_values else 'sums'} for {', '.join(sorted(set(measures.values())))}"
        )
        measures = (
            measures | {WEIGHT: "(how many rows)"} if by_values else meanings(operator.aggregation)
        )
        if by_values:
            values = {name: f"{name}: {rows[name]}" for name, _ in operator.aggregation.inputs}
            of_panes = {**values, WEIGHT: "(how often)", **notes}
    partials = {**measures, **notes}

    def table(*columns: str) -> TableLayout:
        places = {name: f"({name.removeprefix('__dataflare_')})" for name in columns}
        held = of_panes if of_panes and PANE in columns else partials
        return TableLayout(keys, places | held, rule=rule, key_meanings=texts)

    settings = {"kind": operator.kind, "updates": operator.updates, "fill": operator.fill}
    settings |= {"lateness": operator.lateness, "gap": operator.gap, "count": operator.count}
    settings["every"] = operator.every_s is not None
    if operator.every_s is not None:
        settings["interval"] = round(operator.every_s * 1_000_000)
    if operator.zone is not None:
        settings["timezone"] = operator.zone
    if operator.changes:
        settings["changes"] = True
    grid = operator.grid
    if grid is not None:
        settings |= {name: getattr(grid, name) for name in _GRID}
        entries = {"panes": table(PANE), "waiting": table(END)}
        entries |= {"given": table(END)} if operator.updates else {}
        entries |= {"seen": table(END)} if operator.fill != "none" else {}
    else:
        entries = {"sessions": table(FIRST, LAST, FIRED)}
        entries |= {"given": table(FIRST, LAST, FIRED)} if operator.updates else {}
        if operator.gap is not None:
            entries["behind"] = _behind(operator, rows, keys, texts)
    return {STEP: TableLayout(settings=settings), **entries}


def _behind(
    operator: Window, rows: Schema, keys: Mapping[str, str], texts: Mapping[str, str]
) -> TableLayout:
    """Rows that wait to be decided. They have the columns of the input, also those that measures are computed
    from."""
    inputs = operator.aggregation.input_meanings()
    columns = {}
    for each in rows:
        text = texts.get(each.name) or inputs.get(each.name) or each.name
        columns[each.name] = f"{HIDDEN}{text}: {each.type})"
    return TableLayout(keys, columns, key_meanings=texts, of_rows=True)


def initial(operator: Window) -> pl.DataFrame:
    """One row with the measures as they are before any row. Rows that are there already were given by no result of a
    trigger."""
    inputs = {n: t.type.to_polars() for n, t in operator.aggregation.inputs}
    empty: pl.DataFrame = pl.DataFrame(schema={**inputs, TIME_COLUMN: pl.Int64()})
    partial = empty.lazy().select(operator.aggregation.partial()).collect(engine="in-memory")
    return partial.with_columns(pl.lit(1, pl.Int8).alias(CHANGED))


def adapted(
    operator: Window, before: Mapping[str, Any], now: Mapping[str, Any], held: Held
) -> Adaptation | str:
    reason = _refused(before, now, held)
    if reason is not None:
        return reason
    notes: list[str] = []
    dropped: set[str] = set()
    values: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    frames: Callable[[str, pl.DataFrame], Iterable[tuple[str, pl.DataFrame]]] | None = None
    if before["updates"] and not now["updates"]:
        dropped.add("given")
        notes.append("a window that changes gives its whole result again, and takes back none")
    if before["fill"] == "none" != now["fill"]:
        notes.append("a group has windows without rows from its next window with rows on")
    elif now["fill"] == "none" != before["fill"]:
        dropped.add("seen")
    gave_early = (before["every"] and operator.grid is not None) or before["count"]
    if gave_early and not (now["every"] or now["count"]):
        notes.append("windows that have given a result early give it once more at their end")
    since = _closed_since(before, held)
    notes += _other_times(before, now)
    if now["lateness"] > before["lateness"] and since is not None:
        notes.append(
            f"windows that ended before {moment_of(since):%Y-%m-%d %H:%M:%S} UTC stay closed"
        )
        values = _Closing(since)
    if operator.grid is not None:
        old, new = _grid(before), operator.grid
        if other := _other_windows(before, now):
            notes.append(f"{other[0]}, and {other[1]} from here on")
        panes = held.moves.get("panes")
        if (
            old != new
            or (panes is not None and panes.changes)
            or now["lateness"] < before["lateness"]
        ):
            frames = _Panes(operator, old, max(_times(held), default=NEVER))
    elif now["lateness"] != before["lateness"]:
        frames = _Behind(before["lateness"] - now["lateness"])
    return Adaptation(tuple(notes), frames, values, frozenset(dropped))


def _refused(before: Mapping[str, Any], now: Mapping[str, Any], held: Held) -> str | None:
    """Why the state cannot be used."""
    was, is_now = (
        "a changelog" if each.get("changes") else "inserts only" for each in (before, now)
    )
    if was != is_now and _has_rows(held):
        return f"its input was {was}, and is {is_now}"
    if before["kind"] != now["kind"] and "global" in (before["kind"], now["kind"]):
        return f"its windows were {before['kind']}, and are {now['kind']}"
    if before["gap"] != now["gap"]:
        return _other_gap(before["gap"], now["gap"], before["kind"], now["kind"])
    if any(before[name] != now[name] for name in _GRID if name in now):
        windows = _other_windows(before, now)
        assert windows is not None
        reason = _other_grid(_grid(before), _grid(now))
        if reason is not None:
            return f"{windows[0]}, and {windows[1]}{reason}"
        for table, what in (
            ("seen", "`fill` goes on from the windows of before"),
            ("given", "results that were given of the windows of before could not be taken back"),
            ("waiting", "it was giving its last windows"),
        ):
            if held.rows.get(table):
                return f"{windows[0]}, and {windows[1]}: {what}"
    if now["count"] and now["count"] != before["count"] and _has_rows(held):
        return (
            f"its trigger is after {now['count']} rows now, and its state does not say how many rows of the open "
            "windows have been given so"
        )
    gave = before["every"] or before["count"] or before["lateness"]
    if now["updates"] and not before["updates"] and gave and _has_rows(held):
        return (
            "it emits updates now, and its state does not have the results that were given before and would have to "
            "be taken back"
        )
    others = any(before[name] != now[name] for name in _GRID if name in now)
    if (held.reordered or others or now["lateness"] < before["lateness"]) and len(_times(held)) > 1:
        return (
            "the order of its group_by, its windows or allowed_lateness have changed, and its subtasks were "
            "at different times in this checkpoint; a later checkpoint will do"
        )
    behind = held.moves.get("behind")
    if behind is not None and behind.added:
        return (
            f"{held.rows['behind']:,} rows wait until it is decided which session they belong to, and they do not have "
            "the values that it needs now; a checkpoint without such rows will do"
        )
    return None


def _other_gap(old: int | None, new: int | None, old_kind: str, new_kind: str) -> str:
    if old is None or new is None:
        return f"its windows were {old_kind}, and are {new_kind}"
    change = f"the gap of its sessions was {shown_duration(old)}, and is {shown_duration(new)}: "
    if new < old:
        return change + "which rows of a session lie further apart is not known any more"
    return change + "sessions that belong together now have been closed already"


def _other_windows(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str] | None:
    """What has changed of where windows begin and end, as it was and as it is; None if nothing has."""
    old, new = _grid(before), _grid(now)
    zones = [each.get("timezone") or each["zone"] or "UTC" for each in (before, now)]
    was, is_now = [], []
    if (old.size, old.slide) != (new.size, new.slide):
        was.append(f"were {shown_duration(old.size)} each {shown_duration(old.slide)}")
        is_now.append(f"are {shown_duration(new.size)} each {shown_duration(new.slide)}")
    if zones[0] != zones[1]:
        was.append(f"followed the clocks of {zones[0]}")
        is_now.append(f"follow those of {zones[1]}")
    elif old.offset != new.offset:
        was.append(f"had an offset of {shown_duration(old.offset)}")
        is_now.append(f"have one of {shown_duration(new.offset)}")
    return (f"its windows {' and '.join(was)}", " and ".join(is_now)) if was else None


def _other_times(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What has changed of when results are given."""
    if before["lateness"] != now["lateness"]:
        old, new = (shown_duration(each["lateness"]) for each in (before, now))
        yield f"its allowed_lateness was {old}, and is {new}"
    # Earlier versions did not keep the interval.
    intervals = [each.get("interval") if each["every"] else 0 for each in (before, now)]
    if before["every"] != now["every"] or (None not in intervals and len({*intervals}) > 1):
        was, is_now = (_every(each) for each in intervals)
        yield f"its trigger was {was}, and is {is_now}"
    if before["count"] != now["count"]:
        was, is_now = (
            f"after {each['count']} rows" if each["count"] else "none" for each in (before, now)
        )
        yield f"its trigger by a count was {was}, and is {is_now}"
    if before["updates"] != now["updates"]:
        was, is_now = ("updates" if each["updates"] else "whole results" for each in (before, now))
        yield f"it gave {was}, and gives {is_now}"
    if before["fill"] != now["fill"]:
        yield f"its fill was {before['fill']}, and is {now['fill']}"


def _every(interval_us: int | None) -> str:
    if interval_us is None:
        return "by time"
    return f"every {shown_duration(interval_us)}" if interval_us else "none"


def _other_grid(old: Grid, new: Grid) -> str | None:
    """Why these other windows cannot go on, as the end of a sentence that says what has changed."""
    if old.zone != new.zone:
        return ""
    if new.size > old.size:
        return ": rows that the larger windows need have been dropped already"
    if new.size % old.pane:
        return f": rows are kept in parts of {shown_duration(old.pane)}, which the new windows would cut"
    ends = new.offset + new.size - old.offset - old.size
    if new.slide % old.slide or ends % old.slide:
        return ": the new windows end at times at which none ended before, and lack rows that have been dropped"
    return None


class _Closing:
    """Keeps windows closed that were closed."""

    def __init__(self, since: int) -> None:
        self._since = since

    def __call__(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**values, CLOSED: self._since}


class _Panes:
    """Partials by pane as partials of the panes of now, in slices as wide as theirs. Those that only closed windows
    have are left out. time_us: up to when windows have fired."""

    def __init__(self, operator: Window, old: Grid, time_us: int) -> None:
        assert operator.grid is not None
        self._operator, self._old, self._new = operator, old, operator.grid
        self._closed = self._new.place(max(time_us, _EARLIEST) - operator.lateness)

    def __call__(self, table: str, frame: pl.DataFrame) -> Iterable[tuple[str, pl.DataFrame]]:
        if not table.startswith("panes."):
            return [(table, frame)]
        old, new = self._old, self._new
        pane, keys = pl.col(PANE), self._operator.group
        if FROM not in frame.columns:
            frame = frame.with_columns(old.first_end(pane).alias(FROM))
        if old != new:
            first = pl.max_horizontal(new.first_end(pane), new.next_end(pl.col(FROM) - 1))
            frame = frame.sort(PANE, maintain_order=True).with_columns(first.alias(FROM))
            frame = frame.filter(pl.col(FROM) <= new.last_end(pane))
            frame = frame.with_columns(new.pane_of(pane).alias(PANE))
        frame = frame.filter(new.last_end(pane) > self._closed)
        place = [PANE] if new.is_tumbling else [PANE, FROM]
        frame = frame.select(*keys, *place, pl.exclude(*keys, PANE, FROM))
        return self._sliced(table, frame)

    def _sliced(self, table: str, frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
        _, level, _ = table.split(".")
        width, now = self._old.pane << int(level), 0
        while self._new.pane << now < width:
            now += 1
        number = (pl.col(PANE) // (self._new.pane << now)).alias("__dataflare_slice")
        parts = frame.with_columns(number).partition_by(
            "__dataflare_slice", as_dict=True, include_key=False, maintain_order=True
        )
        for (slice_number,), part in parts.items():
            yield f"panes.{now}.{slice_number}", part


class _Behind:
    """Rows that wait for their session, with the limits of another `allowed_lateness`."""

    def __init__(self, later: int) -> None:
        self._later = later

    def __call__(self, table: str, frame: pl.DataFrame) -> Iterable[tuple[str, pl.DataFrame]]:
        if table == "behind":
            frame = frame.with_columns(pl.col(LIMIT) + self._later)
        return [(table, frame)]


def _grid(settings: Mapping[str, Any]) -> Grid:
    return Grid(*(settings[name] for name in _GRID))


def _closed_since(before: Mapping[str, Any], held: Held) -> int | None:
    """The time up to which windows are closed; None if none is."""
    time = max([*_times(held), *held.all_of("watermark")], default=NEVER)
    closed = [*held.all_of(CLOSED)] + ([time - before["lateness"]] if time != NEVER else [])
    latest = max(closed, default=NEVER)
    return latest if latest != NEVER else None


def _times(held: Held) -> set[int]:
    """Up to which times tumbling and sliding windows have fired."""
    return {time for parts in held.all_of("fired") for _, _, time in parts}


def _has_rows(held: Held) -> bool:
    return any(held.rows.values())
