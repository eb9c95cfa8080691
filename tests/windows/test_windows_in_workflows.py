"""Windows in workflows, from the file to the destination."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dataflare.connectors import memory
from dataflare.errors import DataFlareError, render
from dataflare.jobs import RunOptions, run
from dataflare.planner import plan
from dataflare.workflow.load import load_text

QUICK = "/dev/shm" if Path("/dev/shm").is_dir() else None

ROWS = [("a", 1), ("a", 5), ("b", 12), ("a", 25), ("a", 3), ("b", 31)]


def text(config: str, mode: str = "streaming", more: str = "", source: str | None = None) -> str:
    rows = ", ".join(
        f'{{user: {u}, at: "2026-01-01T00:00:{s:02}Z", n: {i}}}' for i, (u, s) in enumerate(ROWS)
    )
    return f"""\
name: clicks
settings: {{mode: {mode}, parallelism: 2}}
sources:
  clicks: {
        source
        or f'''{{type: inline, config: {{rows: [{rows}]}}, event_time: {{column: at}},
    schema: {{user: string, at: "timestamp[us, UTC]", n: int64}}}}'''
    }
transformations:
  w: {{type: window, inputs: [clicks], config: {{{config}}}}}
{more}destinations:
  out: {{type: memory, inputs: [{"v" if more else "w"}]}}
  late: {{type: memory, inputs: [w.late]}}
"""


def rows_of(workflow: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the step gives, and its late rows."""
    memory.clear()
    with tempfile.TemporaryDirectory(dir=QUICK) as home:
        result = run(
            load_text(workflow, file="clicks.yaml"), RunOptions(home=Path(home), fresh=True)
        )
    assert result.error is None, render(result.error)
    return memory.take("out").rows(named=True), memory.take("late").rows(named=True)


def shown(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return sorted(
        (
            row["user"],
            row["window_start"].second,
            row["window_end"].second,
            *(row[n] for n in names),
        )
        for row in rows
    )


TUMBLING = 'kind: tumbling, size: 10s, group_by: [user], measures: {c: "count(*)", s: "sum(n)"}'


def test_a_late_row_goes_to_late_with_the_columns_of_the_input() -> None:
    rows, late = rows_of(text(TUMBLING))
    assert shown(rows, "c", "s") == [
        ("a", 0, 10, 2, 1),
        ("a", 20, 30, 1, 3),
        ("b", 10, 20, 1, 2),
        ("b", 30, 40, 1, 5),
    ]
    assert list(rows[0]) == ["user", "window_start", "window_end", "c", "s"]
    assert [(row["user"], row["n"]) for row in late] == [("a", 4)]
    assert list(late[0]) == ["user", "at", "n"]


def test_a_row_that_is_late_for_some_of_its_windows_is_counted_and_told() -> None:
    config = 'kind: sliding, size: 30s, slide: 10s, measures: {c: "count(*)"}'
    memory.clear()
    with tempfile.TemporaryDirectory(dir=QUICK) as home:
        result = run(load_text(text(config), file="c.yaml"), RunOptions(home=Path(home)))
    assert memory.take("late").height == 0
    assert memory.take("out")["c"].sum() == 6 * 3 - 2
    assert (result.steps["w"]["late"], result.steps["w"]["late_in_part"]) == (0, 1)
    (warning,) = (each for each in result.warnings if "'w'" in each)
    assert "1 row came too late for some of its windows and is only in the later ones" in warning


def test_in_batch_mode_nothing_is_late() -> None:
    rows, late = rows_of(text(TUMBLING, mode="batch"))
    assert shown(rows, "c", "s")[0] == ("a", 0, 10, 3, 5)
    assert late == []


def test_a_key_may_replace_a_column_of_the_late_rows() -> None:
    config = TUMBLING.replace("[user]", '{user: "upper(user)"}')
    rows, late = rows_of(text(config))
    assert {row["user"] for row in rows} == {"A", "B"}
    assert [(row["user"], row["n"]) for row in late] == [("a", 4)]


def test_windows_of_windows() -> None:
    more = '  v: {type: window, inputs: [w], config: {kind: tumbling, size: 20s, group_by: [user], measures: {c: "sum(c)"}}}\n'
    rows, _ = rows_of(text(TUMBLING, more=more))
    assert shown(rows, "c") == [
        ("a", 0, 20, 2),
        ("a", 20, 40, 1),
        ("b", 0, 20, 1),
        ("b", 20, 40, 1),
    ]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('kind: session, gap: 20s, group_by: [user], measures: {c: "count(*)"}', [("a", 1, 45, 4), ("b", 12, 51, 2)]),
        ('kind: sliding, size: 20s, slide: 10s, measures: {c: "count(*)"}', [(50, 10, 2), (0, 20, 3), (10, 30, 2), (20, 40, 2), (30, 50, 1)]),
    ],
)  # fmt: skip
def test_sessions_and_sliding_windows(config: str, expected: list[Any]) -> None:
    rows, late = rows_of(text(config))
    found = [
        (
            *([row["user"]] if "user" in row else []),
            row["window_start"].second,
            row["window_end"].second,
            row["c"],
        )
        for row in rows
    ]
    assert sorted(found) == sorted(expected)
    # In the session an open one takes the row that is late for the sliding windows.
    assert [row["n"] for row in late] == ([4] if "sliding" in config else [])


@pytest.mark.parametrize(
    ("fill", "counts"), [("null", [2, None, 1]), ('"null"', [2, None, 1]), ("0", [2, 0, 1])]
)
def test_fill_is_written_as_a_plain_value(fill: str, counts: list[int | None]) -> None:
    """In YAML a bare null is nothing, and a bare 0 is a number."""
    rows, _ = rows_of(text(f"{TUMBLING}, fill: {fill}"))
    of_a = [row["c"] for row in rows if row["user"] == "a" and row["window_start"].second < 30]
    assert of_a == counts


GENERATED = """{type: generate, config: {rows: 400, rate: 1000/s, seed: 1, columns: {
    user: {choice: [a, b]}, n: {sequence: 0}, at: {time: {start: "2026-01-01T00:00:00Z", step: 100ms}}}},
    event_time: {column: at}}"""


def test_results_come_early_while_the_run_goes_on() -> None:
    """`every` is of processing time: ticks fall between the batches of a source with a rate."""
    config = 'kind: global, group_by: [user], measures: {c: "count(*)"}, trigger: {every: 20ms}'
    rows, _ = rows_of(text(config, source=GENERATED))
    for user in "ab":
        counts = [row["c"] for row in rows if row["user"] == user]
        assert len(counts) > 2
        assert counts == sorted(set(counts))
    assert sum(max(row["c"] for row in rows if row["user"] == user) for user in "ab") == 400


def test_a_changelog_goes_only_where_it_is_understood() -> None:
    config = f"{TUMBLING}, emit: updates"
    appended = text(config).replace(
        "out: {type: memory, inputs: [w]}",
        "out: {type: file, inputs: [w], config: {path: a.ndjson}}",
    )
    plan(load_text(appended, file="clicks.yaml"))
    with pytest.raises(DataFlareError) as caught:
        plan(
            load_text(
                appended.replace("emit: updates", "emit: updates, allowed_lateness: 1h"),
                file="clicks.yaml",
            )
        )
    assert caught.value.code == "E0315"


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ("kind: tumbling, measures: {c: 'count(*)'}", "E0405", "size"),
        ("kind: tumbling, size: 0, measures: {c: 'count(*)'}", "E0405", "above 0"),
        ("kind: sliding, size: 1s, measures: {c: 'count(*)'}", "E0405", "slide"),
        ("kind: sliding, size: 1s, slide: 2s, measures: {c: 'count(*)'}", "E0405", "greater"),
        ("kind: tumbling, size: 2s, slide: 1s, measures: {c: 'count(*)'}", "E0405", "slide"),
        ("kind: session, size: 2s, measures: {c: 'count(*)'}", "E0405", "gap"),
        ("kind: session, gap: 2s, timezone: UTC, measures: {c: 'count(*)'}", "E0405", "timezone"),
        ("kind: global, gap: 2s, measures: {c: 'count(*)'}", "E0405", "gap"),
        ("kind: global, allowed_lateness: 2s, measures: {c: 'count(*)'}", "E0405", "late"),
        ("kind: tumbling, size: 1d, timezone: Europe/Berln, measures: {c: 'count(*)'}", "E0405", "Europe/Berlin"),
        ("kind: tumbling, size: 90m, timezone: Europe/Berlin, measures: {c: 'count(*)'}", "E0405", "hours"),
        ("kind: tumbling, size: 1s, measures: {}", "E0405", "measures"),
        ("kind: tumbling, size: 1s, measures: {user: 'count(*)'}, group_by: [user]", "E0311", "user"),
        ("kind: tumbling, size: 1s, measures: {window_end: 'count(*)'}", "E0311", "window_end"),
        ("kind: tumbling, size: 1s, measures: {c: 'n'}", "E0205", "aggregate"),
        ("kind: tumbling, size: 1s, trigger: {}, measures: {c: 'count(*)'}", "E0405", "every"),
        ("kind: sliding, size: 2s, slide: 1s, trigger: {count: 3}, measures: {c: 'count(*)'}", "E0405", "count"),
        ("kind: session, gap: 2s, fill: previous, measures: {c: 'count(*)'}", "E0405", "fill"),
        ("kind: tumbling, size: 2s, fill: 0, emit: updates, measures: {c: 'count(*)'}", "E0405", "fill"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(config: str, code: str, words: str) -> None:
    with pytest.raises(DataFlareError) as caught:
        plan(load_text(text(config), file="clicks.yaml"))
    assert caught.value.code == code
    assert words in render(caught.value)


@pytest.mark.parametrize("both", [False, True])
def test_late_rows_go_to_a_destination_that_appends_where_results_are_updates(
    tmp_path: Path, both: bool
) -> None:
    """both: a table takes results and late rows together."""
    results = "w.late, w2" if both else "w"
    table = f"{{path: '{tmp_path}/t.db', table: t, mode: upsert, key: [user, window_start]}}"
    more = (
        "  w2: {type: map, inputs: [w], config: {rename: {window_start: at, c: n}, drop: [window_end]}}\n"
        if both
        else ""
    )
    if both:
        table = table.replace("window_start", "at, n")
    out = f"out: {{type: sqlite, inputs: [{results}], config: {table}}}"
    late = f"late: {{type: file, inputs: [w.late], config: {{path: '{tmp_path}/late.ndjson'}}}}"
    config = TUMBLING.replace(', s: "sum(n)"', "") + ", emit: updates"
    workflow = text(config).replace("out: {type: memory, inputs: [w]}", out)
    workflow = workflow.replace("late: {type: memory, inputs: [w.late]}", late)
    workflow = workflow.replace("destinations:", f"{more}destinations:")
    home = tmp_path / "home"
    result = run(load_text(workflow, file="clicks.yaml"), RunOptions(home=home))
    assert result.error is None, render(result.error)
    lines = [json.loads(line) for line in (tmp_path / "late.ndjson").read_text().splitlines()]
    assert [(row["user"], row["n"]) for row in lines] == [("a", 4)]
    with closing(sqlite3.connect(tmp_path / "t.db")) as database:
        stored = database.execute(f"select user, {'n' if both else 'c'} from t").fetchall()
    expected = [("a", 1), ("a", 2), ("b", 1), ("b", 1), *([("a", 4)] if both else [])]
    assert sorted(stored) == sorted(expected)
