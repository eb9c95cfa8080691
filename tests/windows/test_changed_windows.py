"""A window step that has changed goes on from its state, for random rows and random changes: windows and late rows
are those of a plain evaluation that says which rows each measure sees. What cannot be right is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
from changed_windows import change_of
from msgspec import Struct
from reference import Row, evaluate, in_order, measured, periodic
from test_session_laws import random_case as session_case
from test_window_laws import random_case
from window_feeds import SECOND, Case, Feed, keyed
from window_runs import WindowRun

from dataflare.model.event_time import NEVER
from dataflare.state import slices as slices_module
from dataflare.state.meanings import readable

pytestmark = pytest.mark.rotates(2)

TEXTS = {
    "n": "count(*)",
    "total": "sum(v)",
    "low": "min(v)",
    "high": "max(v)",
    "mean": "avg(v)",
    "first": "first(v)",
    "last": "last(v)",
}


def none_of() -> dict[str, Any]:
    """The measures over no rows."""
    return dict.fromkeys(TEXTS) | {"n": 0}


class Halves(Struct):
    """The rows before the change and after it, and the time of the step at the change."""

    before: list[Row]
    after: list[Row]
    time: int


def random_change(chance: random.Random, case: Case, sizes: tuple[int, int, int]) -> Case:
    """Another config of the same step."""
    config = dict(case.config)
    names = [name for name in TEXTS if chance.random() < 0.6] or ["n"]
    chance.shuffle(names)
    config["measures"] = {f"{name}_now": TEXTS[name] for name in names}
    if config["group_by"] and chance.random() < 0.3:
        config["group_by"] = {"key": "k"}
    lateness = case.lateness
    if chance.random() < 0.5:
        lateness = chance.choice([0, 1, 5, 30, 50]) * SECOND
        config["allowed_lateness"] = f"{lateness // SECOND}s" if lateness else 0
    if chance.random() < 0.5:
        size, slide, offset = (each // SECOND for each in sizes)
        size = chance.choice([size, size, max(1, size // 2), size + slide, slide])
        slide = min(size, slide * chance.choice([1, 1, 2, 3]))
        offset = chance.choice([offset, offset, offset + slide, offset + 1])
        config |= {"size": f"{size}s", "offset": f"{offset}s" if offset else 0}
        config["kind"] = "tumbling" if slide == size else "sliding"
        config.pop("slide", None)
        if slide != size:
            config["slide"] = f"{slide}s"
    return Case(config, case.splits, lateness)


def sizes_of(case: Case) -> tuple[int, int, int]:
    def micros(name: str, other: int) -> int:
        text = case.config.get(name, other)
        return int(text[:-1]) * SECOND if isinstance(text, str) else text

    size = micros("size", 0)
    return size, micros("slide", size), micros("offset", 0)


def goes_on(old: tuple[int, int, int], new: tuple[int, int, int]) -> bool:
    """Whether each window of the new sizes ends with an old one and consists of whole windows' parts: looked up
    over a stretch of time, and not computed."""
    (size, slide, offset), (now, each, shift) = old, new
    if now > size:
        return False
    span = range(0, 400 * SECOND, SECOND)
    ends = {t for t in span if (t - offset - size) % slide == 0}
    starts = {t for t in span if (t - offset) % slide == 0}
    new_ends = {t for t in span if (t - shift - now) % each == 0}
    edges = ends | starts
    return new_ends <= ends and {t - now for t in new_ends if t >= now} <= edges


def halfway(case: Case, seed: int) -> tuple[WindowRun, Feed, Halves]:
    """A run that was stopped in the middle, with a checkpoint."""
    chance = random.Random(seed)
    run, feed = WindowRun(case.config, chance.choice([1, 2, 3])), Feed(case, chance)
    total, time = sum(map(len, case.splits)), NEVER
    while not feed.is_done and sum(feed.at) < total * 0.6:
        run.rows(feed.batch())
        if chance.random() < 0.8:
            time = feed.watermark()
            run.watermark(time)
    run.store()
    cut = list(zip(case.splits, feed.at, strict=True))
    before = [keyed(case, row) for rows, at in cut for row in rows[:at]]
    after = [keyed(case, row) for rows, at in cut for row in rows[at:]]
    return run, feed, Halves(before, after, time)


def finish(run: WindowRun, feed: Feed, chance: random.Random) -> None:
    """The other rows, with crashes."""
    run.store()
    stored = list(feed.at)
    while not feed.is_done:
        run.rows(feed.batch())
        if chance.random() < 0.8:
            run.watermark(feed.watermark())
        if chance.random() < 0.2:
            run.store()
            stored = list(feed.at)
        if chance.random() < 0.1:
            run.restart(chance.choice([1, 2, 3]))
            feed.at = list(stored)
    run.end(chance.choice([None, 1, 2]), chance.choice([1, 2, 3]))


def expected(case: Case, now: Case, halves: Halves) -> tuple[dict[Any, dict[str, Any]], list[int]]:
    """By window, its measures; and the late rows after the change."""
    old, new = sizes_of(case), sizes_of(now)
    floor = halves.time - case.lateness if now.lateness > case.lateness else NEVER
    kept = set(case.config["measures"])
    windows: dict[Any, tuple[list[Row], list[Row]]] = {}
    for row in halves.before:
        is_late = row.number in evaluate([row], periodic(*old), case.lateness).late
        for window in () if is_late else periodic(*new)(row.time):
            if window[1] + case.lateness > row.watermark:
                windows.setdefault((row.key, window), ([], []))[0].append(row)
    late = []
    for row in halves.after:
        taking = [
            window
            for window in periodic(*new)(row.time)
            if window[1] + now.lateness > row.watermark and window[1] > floor
        ]
        for window in taking:
            windows.setdefault((row.key, window), ([], []))[1].append(row)
        if not taking:
            late.append(row.number)
    results = {}
    for (key, window), (first, second) in windows.items():
        if window[1] <= halves.time and not second:
            continue  # It was given before, or closed.
        whole = measured(in_order([*first, *second]))
        since = measured(in_order(second)) if second else none_of()
        names = (name.removesuffix("_now") for name in now.config["measures"])
        results[key, window] = {
            f"{name}_now": (whole if name in kept else since)[name] for name in names
        }
    return results, sorted(late)


def check(seed: int) -> str:
    chance = random.Random(seed)
    case, sizes = random_case(seed)
    names = [name for name in TEXTS if chance.random() < 0.6] or ["n"]
    # sum and count are parts of avg, and other names of the same state are other measures.
    case.config["measures"] = {name: TEXTS[name] for name in names}
    now = random_change(chance, case, sizes)
    run, feed, halves = halfway(case, seed)
    has_rows = any(share.chunks for share in run.checkpoint[0]) and any(
        chunks for share in run.checkpoint[0] for chunks in share.chunks.values()
    )
    change = change_of(run, now.config, chance.choice([1, 2, 3]))
    if not goes_on(sizes, sizes_of(now)):
        assert change.outcome == "impossible" or not has_rows, change
        return change.outcome
    assert change.outcome != "impossible", change
    results, late = len(run.given.results), len(run.given.late)
    finish(run, feed, chance)
    wanted, wanted_late = expected(case, now, halves)
    assert sorted(row["number"] for row in run.given.late[late:]) == wanted_late
    found = {}
    for row in run.given.results[results:]:
        start, end = (int(row[n].timestamp() * SECOND) for n in ("window_start", "window_end"))
        found[row.get("k", row.get("key")), (start, end)] = {
            name: row[name] for name in now.config["measures"]
        }
    assert found == wanted
    return change.outcome


SEEDS = 80


@pytest.mark.parametrize("part", range(2))
def test_changed_windows_are_those_of_a_plain_evaluation(part: int) -> None:
    outcomes = set()
    for seed in range(part, SEEDS, 2):
        try:
            outcomes.add(check(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert outcomes >= {"impossible", "migrated"}


@pytest.mark.parametrize(
    ("change", "outcome", "words"),
    [
        ({"offset": "5s"}, "impossible", "its windows had an offset of 0s, and have one of 5s: the new windows end"),
        ({"offset": "20s"}, "migrated", "its windows had an offset of 0s, and have one of 20s from here on"),
        ({"size": "20s"}, "impossible", "its windows were 10s each 10s, and are 20s each 20s: rows that"),
        (
            {"timezone": "Europe/Berlin"}, "migrated",
            "its windows followed the clocks of UTC, and follow those of Europe/Berlin from here on",
        ),
        (
            {"size": "1d", "timezone": "Europe/Berlin"}, "impossible",
            "its windows were 10s each 10s and followed the clocks of UTC, and are 1d each 1d and follow those of Europe/Berlin",
        ),
        ({"allowed_lateness": "9s"}, "migrated", "its allowed_lateness was 0s, and is 9s"),
        ({"trigger": {"every": "5s"}}, "migrated", "its trigger was none, and is every 5s"),
        ({"fill": "null"}, "migrated", "its fill was none, and is null"),
    ],
)  # fmt: skip
def test_what_has_changed_is_named(change: dict[str, Any], outcome: str, words: str) -> None:
    case, _ = random_case(3)
    config = {"kind": "tumbling", "size": "10s", "group_by": ["k"], "measures": {"n": "count(*)"}}
    run, _, _ = halfway(Case(config, case.splits, 0), 3)
    found = change_of(run, {**config, **change}, 1)
    assert found.outcome == outcome, found.detail
    assert words in found.detail


def test_measures_are_named_as_they_are_written() -> None:
    case, _ = random_case(3)
    measures = {"n": "sum(v * 2)"}
    config = {"kind": "tumbling", "size": "10s", "group_by": [], "measures": measures}
    run, _, _ = halfway(Case(config, case.splits, 0), 3)
    found = change_of(run, {**config, "measures": {"n": "sum(v * 3)"}}, 1)
    assert "sum(v * 3: int64) begins with the rows from here on" in found.detail
    assert "sum(v * 2: int64) is dropped" in found.detail
    assert readable("+(at, datetime.timedelta(days=1, seconds=3600))") == "at + 25h"
    assert readable("*(+(a, b), Decimal('2.5'))") == "*(a + b, 2.5)"


def test_also_where_slices_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices_module, "SLICES_MAX", 3)
    for seed in range(1000, 1020):
        check(seed)


def test_sessions_and_global_windows_with_other_measures_are_the_same_windows() -> None:
    measures = {"n": "count(*)", "total": "sum(v)"}
    for seed in range(24):
        case, _ = session_case(seed, late=seed % 2 == 1)
        config = {**case.config, "measures": measures}
        if not seed % 3:
            config |= {"kind": "global", "allowed_lateness": 0}
            del config["gap"]
        case = Case(config, case.splits, case.lateness)
        given = []
        for changes in (False, True):
            run, feed, _ = halfway(case, seed)
            run.restart(2)
            if changes:
                now = {"last": "last(v)", "all": "count(*)", "low": "min(v)"}
                change = change_of(run, {**config, "measures": now}, 2)
                assert change.outcome != "impossible"
            finish(run, feed, random.Random(seed))
            rows = (
                (
                    row.get("k"),
                    row["window_start"],
                    row["window_end"],
                    row["all"] if "all" in row else row["n"],
                )
                for row in run.given.results
            )
            given.append(sorted(rows, key=repr))
        assert given[0] == given[1], (seed, config)
