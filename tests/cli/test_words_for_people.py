"""Pure parts: numbers and times in words, options read from models, progress and summaries."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from rich.console import Console

from dataflare.cli import frames, human, options, summary, tables, terminal
from dataflare.cli.functions import spelled
from dataflare.cli.live import LiveView, Meter
from dataflare.cli.progress import Notices, Progress
from dataflare.cli.summary import where
from dataflare.errors import Spot, WorkflowError, render
from dataflare.model.units import Duration, Rate, Size, parse_duration, parse_size
from dataflare.workflow.load import load_text
from dataflare.workflow.model import Workflow


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.1234, "0.12 s"),
        (9.999, "10.0 s"),
        (59.96, "1 min"),
        (125, "2 min 5 s"),
        (3_600, "1 h"),
        (12_000, "3 h 20 min"),
        (90_000, "1 d 1 h"),
        (172_800, "2 d"),
        (None, "–"),
    ],
)
def test_spans(seconds: float | None, said: str) -> None:
    assert human.span(seconds) == said


@pytest.mark.parametrize(
    ("num_bytes", "said"),
    [(0, "0 B"), (812, "812 B"), (1_234_567, "1.2 MB"), (999_999, "1.0 MB"), (250e9, "250 GB")],
)
def test_sizes(num_bytes: float, said: str) -> None:
    assert human.size(num_bytes) == said


def test_rates_keep_three_digits() -> None:
    said = [human.rate(r) for r in (8.4, 174_133.0, 1_740_000.0, float("inf"))]
    assert said == ["8 rows/s", "174,000 rows/s", "1.7 M rows/s", "–"]


class Inner(BaseModel):
    column: str = Field(description="the column that grows")
    lag: Duration = Field(0.0, description="how far to look back")


class Config(BaseModel):
    path: str | list[str] = Field(description="where it is")
    format: Literal["auto", "csv"] = Field("auto")
    wait: Duration = Field(0.25, description="how long to wait")
    most: Size = 64 * 2**20
    speed: Rate | None = None
    strict: bool = True
    names: list[str] = Field(default_factory=lambda: ["NA"])
    incremental: Inner | None = Field(None, description="only what is new")
    many: dict[str, Inner] = Field(default_factory=dict)


def test_options_are_read_from_the_model_with_units_defaults_and_nested_ones() -> None:
    found = {each.name: each for each in options.options(Config)}
    said = {name: (each.type, each.required, each.default) for name, each in found.items()}
    assert said == {
        "path": ("text | list of text", True, None),
        "format": ("auto | csv", False, "auto"),
        "wait": ("duration", False, "250ms"),
        "most": ("size", False, "64MiB"),
        "speed": ("rate", False, None),
        "strict": ("true | false", False, "true"),
        "names": ("list of text", False, "[NA]"),
        "incremental": ("mapping", False, None),
        "incremental.column": ("text", True, None),
        "incremental.lag": ("duration", False, "0s"),
        "many": ("mapping of mapping", False, None),
        "many.NAME.column": ("text", True, None),
        "many.NAME.lag": ("duration", False, "0s"),
    }
    assert found["wait"].description == "how long to wait"


@given(st.integers(0, 10**9))
def test_a_written_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(options.duration(milliseconds / 1000)) == pytest.approx(
        milliseconds / 1000, rel=1e-5
    )


@given(st.integers(0, 2**50))
def test_a_written_size_reads_back(num_bytes: int) -> None:
    assert parse_size(options.binary_size(num_bytes)) == num_bytes


def test_values_are_spelled_as_the_language_writes_them() -> None:
    said = spelled({"a": [1, None, True], "b": "it's"})
    assert said == "{a: [1, NULL, true], b: 'it''s'}"


def test_colour_changes_no_letter_of_an_error_block() -> None:
    spot = Spot("w.yaml", 28, 3, 4, "  colr: x")
    block = render(WorkflowError("unknown key", spot=spot, notes=["known: color"], help="write it"))
    coloured = terminal.colour_block(block)
    assert coloured.count("\x1b[") > 8
    plain = coloured
    for code in ("1;31", "1;34", "36", "1", "0"):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert plain == block


def test_a_meter_forgets_what_is_long_past() -> None:
    meter = Meter(window_s=3.0)
    assert meter.per_s is None
    for second, rows in [(0, 0), (1, 1_000), (2, 2_000), (3, 3_000)]:
        meter.add(second, rows)
    assert meter.per_s == 1_000
    for second in (4, 5, 6, 7, 8):
        meter.add(second, 3_000)
    assert meter.per_s == 0


def workflow(**destinations: str) -> Workflow:
    ends = "".join(
        f"  {name}: {{type: {type_}, inputs: [rows]}}\n" for name, type_ in destinations.items()
    )
    return load_text(
        "name: flights\n"
        "sources: {rows: {type: file}, names: {type: file}}\n"
        "transformations:\n"
        "  named: {type: lookup, inputs: [rows], config: {source: names}}\n"
        f"destinations:\n{ends}  show: {{type: blackhole, inputs: [named]}}\n"
    )


def progress(message: str | None = None, **more: Any) -> Any:
    facts = {"rows_in": 0, "rows_out": 0, "bytes_in": 0, "errors": 0, "done": False}
    steps = {
        "rows": SimpleNamespace(kind="source", **(facts | {"rows_out": 1_500, "bytes_in": 30_000})),
        "out": SimpleNamespace(kind="destination", **(facts | {"rows_in": 900, "errors": 2})),
    }
    base = {
        "elapsed_s": 65.0,
        "rows_per_s": 1_500.0,
        "checkpoints": 1,
        "last_checkpoint_s": 0.25,
        "watermark": None,
        "kept_bytes": None,
    }
    return SimpleNamespace(steps=steps, message=message, backlog_rows=None, **(base | more))


def test_notices_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices()
    for message in (None, "resumed from checkpoint 4", "resumed from checkpoint 4", None):
        notices.listen(progress(message))
    assert capsys.readouterr().err == "resumed from checkpoint 4\n"


def test_the_view_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(Progress.of(workflow(out="file"), quiet=True)) is Progress
    assert type(Progress.of(workflow(out="file"), quiet=False)) is Notices
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    assert type(Progress.of(workflow(out="file"), quiet=False)) is LiveView
    assert type(Progress.of(workflow(out="stdout"), quiet=False)) is LiveView


def test_the_live_view_shows_each_end_of_the_workflow() -> None:
    view = LiveView(workflow(out="file"))
    console = Console(width=100)
    with console.capture() as before:
        console.print(view.draw())
    assert before.get().strip() == "flights  starting"
    view.listen(progress())
    with console.capture() as captured:
        console.print(view.draw())
    head, *steps = captured.get().splitlines()
    assert head.strip() == "flights  1:05  1,500 rows/s  1 checkpoint, the last took 0.25 s"
    assert [line.split()[:4] for line in steps] == [
        ["○", "rows", "1,500", "rows"],
        ["●", "out", "900", "rows"],
    ]
    assert "30.0 kB".casefold() in steps[0].casefold()
    assert "2 errors" in steps[1]
    view.listen(progress(kept_bytes=3_000_000))
    with console.capture() as captured:
        console.print(view.draw())
    assert f"{human.size(3_000_000)} of the log kept" in captured.get()


def result(status: str = "finished", **more: Any) -> Any:
    steps = {
        "rows": {"rows_in": 0, "rows_out": 1_500},
        "out": {"rows_in": 900, "late": 3},
        "show": {"rows_in": 12},
    }
    base = {"duration_s": 2.0, "run_id": "01J", "published": {"out": {"path": "/data/out.parquet"}}}
    return SimpleNamespace(
        status=status, notes=[], slowest=None, to_json=lambda: {"steps": steps}, **(base | more)
    )


def test_a_summary_in_one_line() -> None:
    made = result()
    said = summary.one_line(made, workflow(out="file"), made.to_json()["steps"])
    assert said == (
        "flights: finished in 2.00 s, 1,500 rows read, "
        "900 rows written to /data/out.parquet, 12 rows written to show, 3 late"
    )


def test_a_summary_names_the_slowest_step_of_a_run_that_took_a_while() -> None:
    made = result()
    made.slowest = "out: busy 95% of its time"
    said = summary.one_line(made, workflow(out="file"), made.to_json()["steps"])
    assert said.endswith(", 3 late, slowest step out: busy 95% of its time")
    made.duration_s = 1.9
    said = summary.one_line(made, workflow(out="file"), made.to_json()["steps"])
    assert said.endswith(", 3 late")


def test_a_stopped_run_says_how_to_go_on() -> None:
    said = summary.one_line(result("stopped"), workflow(), result().to_json()["steps"])
    assert said.startswith("flights: stopped after 2.00 s")
    assert said.endswith("the same command resumes from the last checkpoint")


def test_a_count_that_nobody_knows_is_no_zero() -> None:
    said = summary.one_line(result(), workflow(out="file"), {"rows": {"rows_out": None}, "out": {}})
    assert said == "flights: finished in 2.00 s, written to /data/out.parquet, written to show"


def test_the_summary_on_a_terminal_names_what_lies_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "120")
    published = {"out": {"path": "/data/shop.db", "table": "totals", "bytes": 2_000_000}}
    summary.print_summary(result(published=published), workflow(out="sqlite"))
    lines = capsys.readouterr().err.splitlines()
    assert "✔ flights finished in 2.00 s  run 01J" in lines[0]
    assert lines[1].split() == ["read", "rows", "1,500", "rows", "750", "rows/s"]
    assert "table totals in /data/shop.db (2.0 MB)" in lines[2]
    assert lines[4].split() == ["late", "out", "3", "rows"]
    assert not any("names" in line for line in lines), "a table that is looked up in has no rows"


def test_a_line_names_three_destinations_at_most() -> None:
    many = workflow(a="file", b="file", c="file", d="file")
    said = summary.one_line(result(published={}), many, {})
    assert said == (
        "flights: finished in 2.00 s, written to a, written to b, written to c, "
        "and 2 more destinations"
    )


def test_a_table_in_a_pipe_has_one_line_a_row() -> None:
    rows = [["a", "1", "word " * 60], ["bb", "22", ""]]
    made = list(tables.lines(("name", "n", "meaning"), rows, right=("n",)))
    assert made[0] == "name   n  meaning"
    assert set(made[1]) == {"─"}
    assert made[2] == "a      1  " + ("word " * 60).strip()
    assert made[3] == "bb    22"


@given(
    st.lists(st.tuples(st.text(max_size=8), st.text(max_size=80)), max_size=6), st.integers(50, 90)
)
def test_a_table_on_a_terminal_is_never_wider_than_it(rows: Any, width: int) -> None:
    clean = [["".join(c for c in cell if c.isprintable()) for cell in row] for row in rows]
    for line in tables.lines(("name", "meaning"), clean, width=width):
        assert tables.cell_width(line) <= width


def test_a_wide_frame_is_turned_on_its_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pl.DataFrame(
        {f"column_{i}": [f"value {i} of {row}" for row in range(3)] for i in range(9)}
    )
    frames.print_frame(frame)
    assert capsys.readouterr().out.splitlines()[0].split() == [f"column_{i}" for i in range(9)]
    monkeypatch.setattr(tables, "terminal_width", lambda: 45)
    frames.print_frame(frame)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["column", "type", "row", "1", "row", "2"]
    assert lines[2].startswith("column_0  string  value 0 of 0  value 0 of 1")
    assert max(map(tables.cell_width, lines)) <= 45
    assert sum(line.startswith("column_8  string") for line in lines) == 2
    assert lines[-1] == "3 rows"


def test_the_live_view_makes_room_for_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    before = sys.stdout
    with LiveView(workflow(out="stdout")) as view:
        view.listen(progress())
        assert view.live.is_started
        print("a row")
        assert not view.live.is_started
        view.listen(progress("resumed"))
    assert sys.stdout is before
    told = capsys.readouterr()
    assert "a row\n" in told.out
    assert "resumed" in told.err


def test_a_path_keeps_its_slash_where_the_run_began_in_the_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = str(tmp_path / "o.csv")
    monkeypatch.chdir(tmp_path)
    assert where("o", {"path": path}) == "o.csv"
    assert where("o", {"path": "s3://lake/t", "table": "s3://lake/t"}) == "s3://lake/t"
    monkeypatch.chdir("/")
    assert where("o", {"path": path}) == path


def test_secrets_are_hidden_in_each_text_of_an_error_by_itself(capsys: pytest.CaptureFixture[str]):
    error = WorkflowError(
        "cannot reach postgres://me:hunter2@db/x",
        code="E0601",
        notes=["known keys: keep, method, secret", "password = hunter2", "token"],
        help="take it out, or set password=hunter2",
    )
    terminal.print_error(error)
    assert capsys.readouterr().err.splitlines() == [
        "error[E0601]: cannot reach postgres://me:***@db/x",
        "   = known keys: keep, method, secret",
        "   = password = ***",
        "   = token",
        "   = help: take it out, or set password=***",
    ]
