"""What the hand-written pages promise is tried: outputs that they show, and each way to adapt an example."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
VARYING = (
    (re.compile(r", slowest step .*"), ""),  # of a run that took long
    (re.compile(r"\d+\.\d+ s"), "N s"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
)


class Project:
    """A copy of the examples in which commands run, with its state beside the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(
            EXAMPLES, folder, ignore=shutil.ignore_patterns("out", "expected", ".dataflare")
        )
        self.env = {name: value for name, value in os.environ.items() if name != "DATAFLARE_HOME"}

    def edit(self, name: str, *changes: tuple[str, str]) -> None:
        text = (self.folder / name).read_text()
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (self.folder / name).write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dataflare", *arguments],
            cwd=self.folder, env=self.env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def dataflare(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """Standard output and standard error of a command that ends with `status`."""
        command = self.start(*arguments)
        out, err = command.communicate()
        assert command.returncode == status, out + err
        return out, err

    def rows(self, place: str) -> list[dict[str, Any]]:
        read = {".csv": pl.read_csv, ".parquet": pl.read_parquet, ".ndjson": pl.read_ndjson}
        return read[Path(place).suffix](self.folder / place).to_dicts()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "job")


def plain(text: str) -> list[str]:
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


SHOWN = [
    (line, output)
    for block in CONSOLE.findall((ROOT / "docs/cookbook.md").read_text())
    for line, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", block, re.MULTILINE)
]


def test_the_commands_of_the_cookbook_print_what_it_shows(project: Project):
    assert len(SHOWN) >= 8
    for line, output in SHOWN:
        program, *arguments = line.split()
        assert program == "dataflare"
        out, err = project.dataflare(*arguments)
        came = plain(out + err)
        assert [shown for shown in plain(output) if shown not in came] == [], line


def test_a_glob_reads_compressed_files_and_null_values_are_null(project: Project):
    exports = project.folder / "exports"
    exports.mkdir()
    header, *lines = (project.folder / "data/orders.csv").read_text().splitlines()
    (exports / "a.csv.gz").write_bytes(gzip.compress("\n".join([header, *lines[:3]]).encode()))
    last = ",".join("NA" for _ in header.split(","))
    (exports / "b.csv.gz").write_bytes(
        gzip.compress("\n".join([header, *lines[3:], last]).encode())
    )
    project.edit(
        "clean_csv.yaml",
        ("path: data/orders.csv", 'path: "exports/*.csv.gz", null_values: [NA, "-"]'),
        ("path: out/orders.parquet", "path: out/orders.csv"),
    )
    project.dataflare("run", "clean_csv.yaml")
    assert len(project.rows("out/orders.csv")) == 6
    assert None in [row["amount"] for row in project.rows("out/refused.csv")]


@pytest.mark.parametrize(("most", "status"), [("1", 1), ("2", 0), ("10%", 1), ("90%", 0)])
def test_max_errors_stops_a_run(project: Project, most: str, status: int):
    project.edit("bad_rows.yaml", ("max_errors: 10", f"max_errors: {most}"))
    project.dataflare("run", "bad_rows.yaml", status=status)


def test_a_line_of_a_source_is_read_again_once_it_is_correct(project: Project):
    project.dataflare("run", "bad_rows.yaml")
    out, err = project.dataflare("dlq", "replay", "bad_rows", status=1)
    assert "0 rows replayed" in out
    assert "'readings'" in err
    readings = project.folder / "data/readings.csv"
    readings.write_text(readings.read_text().replace("broken", "21.5"))
    out, _ = project.dataflare("dlq", "replay", "bad_rows", status=1)
    assert "1 row replayed; 1 waiting" in out


def test_mirror_deletes_what_the_source_lacks_and_no_more_than_delete_max(project: Project):
    def days(since: str, status: int = 0) -> int:
        project.dataflare("run", "daily_report.yaml", "--param", f"since={since}", status=status)
        table = sqlite3.connect(project.folder / "out/report.sqlite")
        (count,) = table.execute("SELECT count(*) FROM daily").fetchone()
        table.close()
        return int(count)

    project.edit("daily_report.yaml", ("mode: upsert, key:", "mode: mirror, delete_max: 30%, key:"))
    all_days = days("2024-03-01T00:00:00Z")
    assert days("2030-01-01T00:00:00Z", status=1) == all_days
    project.edit("daily_report.yaml", ("delete_max: 30%", "delete_max: 100%"))
    fewer = days("2024-03-03T00:00:00Z")
    assert 0 < fewer < all_days


@pytest.mark.parametrize(("what", "status", "unknown"), [("drop", 0, 0), ("fail", 1, None)])
def test_on_miss_decides_about_unknown_keys(project: Project, what: str, status: int, unknown: Any):
    project.edit(
        "enrich.yaml", ("source: customers\n", f"source: customers\n      on_miss: {what}\n")
    )
    project.dataflare("run", "enrich.yaml", status=status)
    path = project.folder / "out/unknown.csv"
    assert (len(path.read_text().splitlines()[1:]) if path.exists() else None) == unknown


@pytest.mark.parametrize("method", ["keep_last", "redact", "hash"])
def test_other_ways_of_masking_and_several_partitions(project: Project, method: str):
    project.edit(
        "mask_and_partition.yaml",
        ("email: email}", f"email: {method}}}"),
        ("partition_by: [country]", "partition_by: [country, customer_id]"),
    )
    project.dataflare("run", "mask_and_partition.yaml")
    lake = pl.read_parquet(project.folder / "out/lake/**/*.parquet", hive_partitioning=True)
    before = pl.read_csv(project.folder / "data/orders.csv")["email"].drop_nulls()
    assert not set(lake["email"].drop_nulls()) & set(before)
    assert {"country", "customer_id"} <= set(lake.columns)


@pytest.mark.parametrize("how", ["execution: process", "mode: batch"])
def test_a_python_step_in_another_process_gives_the_same(project: Project, how: str):
    project.edit(
        "python_step.yaml", ('function: "loyalty:score"', f'function: "loyalty:score"\n      {how}')
    )
    project.dataflare("run", "python_step.yaml")
    assert [row["points"] for row in project.rows("out/points.csv")] == [120, 80, 30]


def test_a_python_step_whose_type_is_wrong_names_the_column(project: Project):
    project.edit(
        "python_step.yaml", ("points: int64", "points: int8"), ("amount: 120.5", "amount: 1200.5")
    )
    _, err = project.dataflare("run", "python_step.yaml", status=1)
    assert "'points'" in err


def test_a_source_without_end_stops_after_its_time_and_goes_on(project: Project):
    project.edit("generated_stream.yaml", ("rows: 10000", "rate: 1000/s"))
    text = (project.folder / "generated_stream.yaml").read_text()
    head, _, tail = text.partition("  by_page:")
    text = head + tail[tail.index("destinations:") :]
    text = text.replace("inputs: [by_page]", "inputs: [long_visits]")
    text = text.replace("path: out/pages.csv", "path: out/pages, format: csv")
    (project.folder / "stream.yaml").write_text(text)
    out, _ = project.dataflare("run", "stream.yaml", "--for", "1s", "--json")
    assert json.loads(out)["status"] == "stopped"
    out, _ = project.dataflare("run", "stream.yaml", "--for", "1s", "--json")
    assert json.loads(out)["resumed_from"]


def test_one_run_at_a_time_and_sigterm_leaves_a_checkpoint(project: Project):
    (project.folder / "live.yaml").write_text(
        "name: live\nversion: '1.0'\n"
        "sources: {s: {type: generate, config: {rate: 1000/s, columns: {id: {sequence: 0}}}}}\n"
        "destinations: {d: {type: stdout, inputs: [s], config: {format: ndjson}}}\n"
    )
    running = project.start("run", "live.yaml", "--quiet")
    assert running.stdout
    running.stdout.readline()
    _, err = project.dataflare("run", "live.yaml", status=1)
    assert "E0801" in err
    running.send_signal(signal.SIGTERM)
    running.communicate()
    assert running.returncode == 130
    listed, _ = project.dataflare("checkpoints", "live", "--json")
    assert json.loads(listed)


def test_a_lost_state_folder_doubles_nothing(project: Project):
    (project.folder / "copy.yaml").write_text(
        "name: copy\nversion: '1.0'\n"
        "sources: {s: {type: file, config: {path: data/orders.csv}}}\n"
        "destinations: {d: {type: sqlite, inputs: [s], config: {path: out/c.db, table: t}}}\n"
    )
    project.dataflare("run", "copy.yaml")
    shutil.rmtree(project.folder / ".dataflare")
    _, err = project.dataflare("run", "copy.yaml", status=2)
    assert "E0806" in err
    assert "--adopt" in err


def test_secrets_are_read_from_files(project: Project):
    (project.folder / "secrets").mkdir()
    (project.folder / "secrets" / "COUNTRY").write_text("fr\n")
    project.env["DATAFLARE_SECRETS_DIR"] = str(project.folder / "secrets")
    project.edit("clean_csv.yaml", ('"amount > 0"', '"lower(country) = ${secret:COUNTRY}"'))
    project.edit("clean_csv.yaml", ("path: out/orders.parquet", "path: out/orders.csv"))
    project.dataflare("run", "clean_csv.yaml")
    assert {row["country"] for row in project.rows("out/orders.csv")} == {"FR"}


def test_the_parameter_of_the_start_page(tmp_path: Path):
    page = (ROOT / "docs/start.md").read_text()
    rows, flow = (
        re.search(rf"^```{kind}\n(.*?)^```", page, re.M | re.S) for kind in ("csv", "yaml")
    )
    declared = re.search(r"^```yaml\n(params:.*?)^```", page, re.M | re.S)
    assert rows
    assert flow
    assert declared
    project = Project(tmp_path / "job")
    (project.folder / "orders.csv").write_text(rows[1])
    text = flow[1].replace('"amount > 0"', '"amount > ${param:least}"').replace(".parquet", ".csv")
    (project.folder / "orders.yaml").write_text(text + declared[1])
    project.dataflare("run", "orders.yaml")
    assert len(project.rows("out/orders.csv")) == 3
    project.dataflare("run", "orders.yaml", "--param", "least=50")
    assert len(project.rows("out/orders.csv")) == 2
    out, _ = project.dataflare("runs", "orders", "--json")
    assert len(json.loads(out)) == 2
