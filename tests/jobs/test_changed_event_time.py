"""A source whose event time is another one does not go on: its watermark and the state of the steps that work by time
would mix both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dataflare import RunOptions, RunResult, load, run
from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.runs import RunLog
from dataflare.checkpoint.store import LocalStore
from dataflare.errors import DataFlareError
from dataflare.jobs.changes import StepChange, compare
from dataflare.jobs.savepoint_requests import savepoint
from dataflare.planner import plan

WORKFLOW = """\
name: orders
settings: {mode: streaming, parallelism: 2, checkpoint: {interval: 20ms}, batch: {initial: 20, min: 20, max: 40}}
sources:
  orders:
    type: generate
    config:
      rows: 600
      rate: RATE
      columns: {v: {sequence: 0}, created: {time: {start: "2026-01-01T08:00:00Z", step: 1s}}, paid: {time: {start: "2026-01-01T07:00:00Z", step: 1s}}}
    event_time: {column: created, out_of_orderness: 2s}
  others:
    type: generate
    config: {rows: 600, rate: RATE, columns: {v: {sequence: 0}, at: {time: {start: "2026-01-01T08:00:00Z", step: 1s}}}}
    event_time: {column: at}
transformations:
  minutes: {type: window, inputs: [orders], config: {kind: tumbling, size: 1m, measures: {n: "count(*)"}}}
  hours: {type: window, inputs: [minutes], config: {kind: tumbling, size: 1h, measures: {n: "sum(n)"}}}
  first: {type: deduplicate, inputs: [orders], config: {key: v, within: 1m}}
  near: {type: join, inputs: [others, orders], config: {on: v, within: 5s}}
  total: {type: aggregate, inputs: [orders], config: {measures: {n: "count(*)"}}}
  alone: {type: window, inputs: [others], config: {kind: session, gap: 1m, measures: {n: "count(*)"}}}
destinations:
  out: {type: file, inputs: [hours], config: {path: out/, format: ndjson}}
  a: {type: file, inputs: [first], config: {path: a/, format: ndjson}}
  b: {type: file, inputs: [near], config: {path: b/, format: ndjson}}
  c: {type: file, inputs: [total], config: {path: c/, format: ndjson}}
  d: {type: file, inputs: [alone], config: {path: d/, format: ndjson}}
"""
TIMED = ["minutes", "hours", "first", "near"]


def write(folder: Path, *changes: tuple[str, str], rate: str = "1000000/s") -> None:
    text = WORKFLOW.replace("RATE", rate)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "w.yaml").write_text(text)


def go(folder: Path, **options: Any) -> RunResult:
    return run(load(folder / "w.yaml"), RunOptions(home=folder / "home", **options))


def refused(folder: Path, **options: Any) -> DataFlareError:
    try:
        error = go(folder, **options).error
    except DataFlareError as raised:
        error = raised
    assert error is not None
    return error


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    write(folder, rate="300/s")
    assert go(folder, for_s=0.8).status == "stopped"
    savepoint(folder / "home" / "orders", "one")
    return folder


def last(folder: Path) -> Manifest:
    current = RunLog(folder / "home" / "orders").current()
    assert current is not None
    manifest = LocalStore(folder / "home" / "orders", current.lineage).list_manifests()[0].manifest
    assert manifest is not None
    return manifest


def changes_of(folder: Path, manifest: Manifest) -> dict[str, StepChange]:
    workflow = load(folder / "w.yaml")
    return {c.step: c for c in compare(workflow, plan(workflow).stages, manifest)}


PAID = ("column: created", "column: paid")


@pytest.mark.parametrize(
    "change", [PAID, ("column: created", 'column: "created - interval 1 hour"')], ids=str
)
def test_another_event_time_is_refused_with_all_steps_that_work_by_it(
    stopped: Path, change: tuple[str, str]
) -> None:
    write(stopped, change)
    changes = changes_of(stopped, last(stopped))
    impossible = [name for name, each in changes.items() if each.outcome == "impossible"]
    assert sorted(impossible) == sorted(["orders", *TIMED])
    assert "its event time was created, and is " in changes["orders"].detail
    assert "by the event time of source 'orders'" in changes["hours"].detail
    for options in ({"accept_changes": True}, {"savepoint": "one"}):
        error = refused(stopped, **options)
        assert (error.code, error.step) == ("E0810", "orders")
    error = refused(stopped)
    assert error.code == "E0803"
    assert any("its event time was created" in note for note in error.notes)


def test_a_renamed_source_is_known_under_its_old_name(stopped: Path) -> None:
    renamed = (
        ("  orders:\n    type", "  sales:\n    was: orders\n    type"),
        ("[orders]", "[sales]"),
    )
    joined = ("[others, orders]", "[others, sales]")
    write(stopped, PAID, *renamed, joined)
    changes = changes_of(stopped, last(stopped))
    assert changes["sales"].outcome == changes["minutes"].outcome == "impossible"
    write(stopped, *renamed, joined)
    assert "impossible" not in {c.outcome for c in changes_of(stopped, last(stopped)).values()}


def test_the_same_time_written_otherwise_and_other_waits_go_on(stopped: Path) -> None:
    waits = 'column: "created ", out_of_orderness: 5s, idle_timeout: 3s, max_drift: 1h, max_future: 1000d'
    write(stopped, ("column: created, out_of_orderness: 2s", waits))
    assert "impossible" not in {c.outcome for c in changes_of(stopped, last(stopped)).values()}


def test_a_checkpoint_that_does_not_say_the_event_time_serves_an_unchanged_source(
    stopped: Path,
) -> None:
    former = replace(Manifest.from_text(last(stopped).to_text()), event_times=None)
    former = Manifest.from_text(former.to_text())
    assert former.event_times is None
    write(stopped, ("gap: 1m", "gap: 1m, allowed_lateness: 1m"))
    assert "impossible" not in {c.outcome for c in changes_of(stopped, former).values()}
    write(stopped, PAID)
    assert changes_of(stopped, former)["orders"].outcome == "impossible"


def test_a_source_with_another_name_and_time_is_not_taken_for_a_new_one(stopped: Path) -> None:
    renamed = ("  orders:\n    type", "  sales:\n    type"), ("[orders]", "[sales]")
    write(stopped, PAID, *renamed, ("[others, orders]", "[others, sales]"))
    changes = changes_of(stopped, last(stopped))
    impossible = [name for name, each in changes.items() if each.outcome == "impossible"]
    assert sorted(impossible) == sorted(TIMED)
    assert (
        "source 'sales' is new, and its event time is paid; source 'orders' is gone"
        in changes["minutes"].detail
    )
    assert refused(stopped, accept_changes=True).code == "E0810"
    write(stopped, *renamed, ("[others, orders]", "[others, sales]"))
    changes = changes_of(stopped, last(stopped))
    assert changes["minutes"].outcome != "impossible"


def test_the_advice_leads_to_a_run(stopped: Path) -> None:
    names = [(f"  {name}: {{", f"  {name}_paid: {{") for name in TIMED]
    inputs = [(f"[{name}]", f"[{name}_paid]") for name in ("minutes", "hours", "first", "near")]
    sources = ("  orders:\n    type", "  sales:\n    type"), ("[orders]", "[sales]")
    write(stopped, PAID, *names, *inputs, *sources, ("[others, orders]", "[others, sales]"))
    assert go(stopped, accept_changes=True).error is None
