"""`rate` of a source and of a destination: what comes out, what it delays, and who is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataflare import Workflow
from dataflare.errors import DataFlareError
from dataflare.jobs.rates import paces_of
from dataflare.workflow.load import load_text


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("DATAFLARE_HOME", str(tmp_path / "home"))


def workflow(folder: Path, name: str, **rates: str) -> Workflow:
    wf = Workflow(name, base=folder, settings={"checkpoint": {"interval": "100ms"}})
    (folder / "in.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(2_000)))
    rows = wf.source("rows", "file", path="in.csv", rate=rates.get("source"))
    rows.map("same", derive={"m": "n + 1"}).to(
        "out", "file", path="out/", format="ndjson", rate=rates.get("destination")
    )
    return wf


def written(folder: Path) -> list[int]:
    parts = sorted((folder / "out").glob("*.ndjson"))
    return [json.loads(line)["n"] for part in parts for line in part.read_text().splitlines()]


@pytest.mark.parametrize("end", ["source", "destination"])
def test_a_run_at_one_row_in_an_hour_is_cut_and_stopped_at_once_and_goes_on(tmp_path, end):
    slow = workflow(tmp_path, "slow", **{end: "1/h"})
    for _ in range(2):
        outcome = slow.run(for_s=0.5)
        assert outcome.status == "stopped"
        assert outcome.result.checkpoints >= 1
    # One a run, and what was on its way when a barrier came.
    assert 1 <= len(written(tmp_path)) <= 8
    assert sum(outcome.result.times[stage]["blocked_s"] for stage in outcome.result.times) > 0
    assert "held to its rate of 0.000277778 rows/s" in str(outcome.result.slowest)
    free = workflow(tmp_path, "slow")
    assert free.run().status == "finished"
    assert sorted(written(tmp_path)) == list(range(2_000))


@pytest.mark.parametrize("end", ["source", "destination"])
def test_every_row_comes_once_and_in_order_at_a_rate(tmp_path, end):
    assert workflow(tmp_path, "paced", **{end: "20000/s"}).run().status == "finished"
    assert written(tmp_path) == list(range(2_000))


def test_results_at_the_end_of_input_are_held_back_too(tmp_path):
    def totals(rate: str | None) -> Workflow:
        wf = Workflow("totals", base=tmp_path, settings={"checkpoint": {"interval": "100ms"}})
        rows = wf.source("rows", "generate", columns={"n": {"sequence": 0}}, rows=300_000)
        ordered = rows.sort("ordered", by=["n"])
        ordered.to("out", "file", path="out/", format="ndjson", rate=rate)
        return wf

    assert totals("1/h").run(for_s=1.5).status == "stopped"
    assert len(written(tmp_path)) < 300_000
    assert totals(None).run().status == "finished"
    assert sorted(written(tmp_path)) == list(range(300_000))


def test_the_plan_says_the_rate(tmp_path):
    plan = str(workflow(tmp_path, "told", source="1000/s", destination="10MiB/s").plan())
    assert "at most 1,000 rows/s" in plan
    assert "at most 10.5 MB/s" in plan


def load(rate: Any, section: str = "sources") -> Any:
    steps = {
        "sources": {"s": {"type": "inline", "config": {"rows": [{"a": 1}]}}},
        "destinations": {"d": {"type": "blackhole", "inputs": ["s"]}},
    }
    name = "s" if section == "sources" else "d"
    steps[section][name]["rate"] = rate
    return load_text(json.dumps({"name": "w", "version": "1.0", **steps}))


@pytest.mark.parametrize(
    ("rate", "rows", "size"),
    [
        ("1000/s", 1_000.0, None),
        ("6/m", 0.1, None),
        ("10MiB/s", None, float(10 << 20)),
        ("60kB/m", None, 1_000.0),
        ({"rows": "5/s", "bytes": "1KiB/s"}, 5.0, 1_024.0),
        ({"bytes": "1KiB/s"}, None, 1_024.0),
    ],
)
def test_rates_are_read(rate, rows, size):
    for section, step in (("sources", "s"), ("destinations", "d")):
        (pace,) = paces_of(load(rate, section)).values()
        assert (pace.rows_per_s, pace.bytes_per_s) == (rows, size)
        assert list(paces_of(load(rate, section))) == [step]


@pytest.mark.parametrize(
    "rate", [5, "fast", "0/s", "5", "0B/s", "5MiB", [], {}, {"rows": "5MiB/s"}]
)
def test_wrong_rates_are_refused_with_their_place(rate):
    with pytest.raises(DataFlareError) as raised:
        load(rate)
    assert "rate" in str(raised.value)
    assert all(error.spot is not None for error in raised.value.each)


def test_a_transformation_has_no_rate():
    text = json.dumps(
        {
            "name": "w",
            "version": "1.0",
            "sources": {"s": {"type": "inline", "config": {"rows": [{"a": 1}]}}},
            "transformations": {
                "f": {"type": "limit", "inputs": ["s"], "config": {"rows": 1}, "rate": "1/s"}
            },
            "destinations": {"d": {"type": "blackhole", "inputs": ["f"]}},
        }
    )
    with pytest.raises(DataFlareError, match="rate"):
        load_text(text)


def test_rate_of_a_generate_source_stays_its_option(tmp_path):
    wf = Workflow("own", base=tmp_path)
    wf.source("g", "generate", columns={"n": {"sequence": 0}}, rows=1, rate="5/s").to(
        "d", "blackhole"
    )
    step = wf.build().sources["g"]
    assert step.rate is None
    assert step.config["rate"] == "5/s"
