"""The demo gives what a few lines of Polars give, in each of its destinations, also when it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from optional_packages import package

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy, with nothing written yet."""
    copy = tmp_path / "demo"
    shutil.copytree(DEMO, copy, ignore=shutil.ignore_patterns("out", ".dataflare"))
    return copy


def command(folder: Path) -> tuple[list[str], dict[str, str]]:
    arguments = [sys.executable, "-m", "dataflare", "run", str(folder / "flights.yaml"), "--json"]
    return arguments, {**os.environ, "DATAFLARE_HOME": str(folder / "home")}


def expected() -> pl.DataFrame:
    """All flights with the rules and the routes of flights.yaml, by hand."""
    flights = pl.read_csv(DEMO / "data/flights.csv.gz", null_values=["NA"])
    mph = pl.col("distance") * 60 / pl.col("air_time")
    delay = pl.col("dep_delay")
    good = (
        (pl.col("distance") > 0)
        & (pl.col("origin") != pl.col("dest"))
        & (delay.is_null() | delay.is_between(-60, 900))
        & (mph.is_null() | (mph.round(1) < 650))
        & (delay.is_null() | pl.col("arr_time").is_not_null())
    )
    way = (
        pl.when(~good)
        .then(pl.lit("rejected"))
        .when(delay.is_null())
        .then(pl.lit("cancelled"))
        .when(delay > 15)
        .then(pl.lit("late"))
        .otherwise(pl.lit("on_time"))
    )
    return flights.with_columns(way.alias("way"))


def check_results(out: Path) -> None:
    """Each destination against the expectation: rows, sums, keys."""
    duckdb = package("duckdb")
    flights = expected()
    ways = dict(flights["way"].value_counts().iter_rows())
    good = flights.filter(pl.col("way") != "rejected")

    written = pl.read_parquet(out / "flights.parquet")
    key = ["month", "day", "carrier", "flight", "origin"]
    assert written.height == good.height == written.select(key).n_unique()
    assert written["distance"].sum() == good["distance"].sum()
    assert written["airline"].null_count() == 0
    planes = pl.read_csv(DEMO / "data/planes.csv", null_values=["NA"])
    known = good["tailnum"].is_in(planes["tailnum"].implode()).sum()
    assert written["maker"].count() == known

    assert pl.read_parquet(out / "late").height == ways["late"]
    assert pl.read_csv(out / "cancelled.csv").height == ways["cancelled"]
    rejected = [json.loads(line) for line in (out / "rejected.ndjson").read_text().splitlines()]
    assert len(rejected) == ways["rejected"]
    assert all(row["failed_rules"] for row in rejected)

    on_time = duckdb.connect(str(out / "warehouse.duckdb"), read_only=True)
    assert on_time.execute("SELECT count(*) FROM on_time").fetchone() == (ways["on_time"],)
    on_time.close()

    months = good.group_by("carrier", "month").agg(
        pl.len().alias("flights"),
        pl.col("dep_delay").mean().round(2).alias("mean_delay"),
        pl.col("distance").sum().alias("miles"),
    )
    report = sqlite3.connect(out / "report.sqlite")
    rows = report.execute(
        "SELECT carrier, month, flights, mean_delay, miles FROM carrier_months ORDER BY 1, 2"
    ).fetchall()
    report.close()
    assert [tuple(row) for row in rows] == months.sort("carrier", "month").rows()


def test_the_demo_gives_what_polars_gives(demo: Path):
    arguments, env = command(demo)
    done = subprocess.run(arguments, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "finished"
    assert result["steps"]["flights"]["rows_out"] == 336_776
    check_results(demo / "out")


def test_the_demo_killed_and_run_again_gives_the_same(demo: Path):
    """Killed as soon as there is a checkpoint; then run to its end."""
    arguments, env = command(demo)
    run = subprocess.Popen(arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    manifests = demo / "home" / "flights"
    while run.poll() is None and not list(manifests.glob("*/manifest-*.json")):
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = subprocess.run(arguments, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_results(demo / "out")


def test_the_demo_run_twice_doubles_nothing(demo: Path):
    arguments, env = command(demo)
    for _ in range(2):
        subprocess.run(
            arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True
        )
    check_results(demo / "out")
