"""Cases that write tables of lakes: a commit a second, and an upsert into a large table."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Candidate, Failed, Measured, take_turns
from benchmarks.streams.case import OURS, Bench, Outcome, asked, shown, workflow

RATE_MIN = 100_000
"""Rows a second, with a commit a second."""
START_S = 4.0
"""How long a run may take before and after its epochs."""
PEAK_MAX_MB = 1_074
"""1 GiB."""
COLUMNS = {
    "id": {"sequence": 0},
    "customer": {"int": [1, 100_000]},
    "status": {"choice": ["new", "paid", "sent", "returned"]},
    "country": {"choice": ["de", "fr", "pl", "us", "jp", "br"]},
    "amount": {"float": [0, 1000]},
    "weight": {"float": [0, 30]},
    "created_at": {"time": {"start": "2026-01-01T00:00:00Z", "step": "1s"}},
}


def appended(bench: Bench, kind: str) -> Outcome:
    """Rows as fast as they come, with a checkpoint, which is a commit, each second."""
    rows = bench.rows(8_000_000)
    command = _fill(bench, kind, rows)
    measured = _turns(bench, kind, command, rows)
    commits = asked("lake_commits", kind, _place(bench, kind))
    outcome = Outcome(f"generate to {kind}, a commit a second", f"at least {RATE_MIN:,} rows/s")
    outcome.ours = f"{shown(measured, rows)}, {commits} commits"
    often = commits >= (measured.turns[-1].wall_s - START_S) / 2
    outcome.met = often and rows / measured.wall.median >= RATE_MIN
    return outcome


def upserted(bench: Bench, kind: str) -> Outcome:
    """Changes of 1 % of the rows, spread over all files of a table."""
    rows = bench.rows(8_000_000)
    changes = bench.scratch / "changes.parquet"
    asked("write_changes", changes, rows)
    _output(bench, _fill(bench, kind, rows))
    definition = {
        "sources": {"orders": {"type": "file", "config": {"path": str(changes)}}},
        "destinations": {
            "out": {**_table(bench, kind, mode="upsert", key=["id"]), "inputs": ["orders"]}
        },
    }
    measured = _turns(bench, kind, workflow(bench, f"{kind}_upsert", definition), rows, keeps=True)
    changed = asked("lake_changed", kind, _place(bench, kind))
    if changed != rows // 100:
        raise Failed(f"{changed:,} rows were changed, expected {rows // 100:,}")
    title = f"upsert of 1 % into {rows / 1e6:g} million rows of {kind}"
    outcome = Outcome(title, f"at most {PEAK_MAX_MB:,} MB")
    outcome.ours = shown(measured, rows // 100)
    outcome.met = measured.rss.max <= PEAK_MAX_MB
    return outcome


CASES: dict[str, Callable[[Bench], Outcome]] = {
    f"{kind}_{name}": partial(case, kind=kind)
    for kind in ("delta", "iceberg")
    for name, case in (("append", appended), ("upsert", upserted))
}


def _place(bench: Bench, kind: str) -> Path:
    return bench.scratch / "lake" / kind


def _table(bench: Bench, kind: str, **config: Any) -> dict[str, Any]:
    place = _place(bench, kind)
    place.mkdir(parents=True, exist_ok=True)
    if kind == "delta":
        return {"type": kind, "config": {"path": str(place / "orders"), **config}}
    catalog = {"type": "sql", "uri": f"sqlite:///{place}/catalog.db", "warehouse": str(place)}
    return {"type": kind, "config": {"catalog": catalog, "table": "shop.orders", **config}}


def _fill(bench: Bench, kind: str, rows: int) -> list[str]:
    """The command that makes the table and appends to it, with a commit a second."""
    definition = {
        "settings": {"checkpoint": {"interval": "1s"}},
        "sources": {
            "orders": {"type": "generate", "config": {"columns": COLUMNS, "rows": rows, "seed": 1}}
        },
        "destinations": {"out": {**_table(bench, kind), "inputs": ["orders"]}},
    }
    return workflow(bench, f"{kind}_append", definition)


def _output(bench: Bench, command: list[str]) -> None:
    take_turns([Candidate("fill", command)], 1, bench.scratch)


def _turns(
    bench: Bench, kind: str, command: list[str], rows: int, *, keeps: bool = False
) -> Measured:
    """keeps: whether the table stays from turn to turn."""

    def ready(name: str) -> None:
        if not keeps:
            _clear(_place(bench, kind))

    def counted(name: str) -> None:
        there = asked("lake_rows", kind, _place(bench, kind))
        if there != rows:
            raise Failed(f"the table has {there:,} rows, expected {rows:,}")

    return take_turns([Candidate(OURS, command)], bench.repeat, bench.scratch, ready, counted)[0]


def _clear(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
