"""Faults from a seed: which, in which text, and which of them are needed. And where runs of chaos write."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from dataflare.errors import WorkflowError
from dataflare.jobs.chaos import redirects
from dataflare.jobs.chaos.fault_proxy import NO_FAULTS, Faults
from dataflare.jobs.chaos.processes import Proxies
from dataflare.jobs.chaos.scenario import (
    Totals,
    attempts_of,
    attempts_text,
    drawn,
    smallest,
)
from dataflare.planner.bind import bind_workflow
from dataflare.sdk.injected_faults import Fault, faults_of, read_counts
from dataflare.workflow.load import load_text

TOTALS = Totals(places=60, file_calls=30, calls=90, seconds=0.4, proxies=True)


@given(st.integers(0, 10_000))
def test_a_seed_gives_the_same_faults_and_their_text_gives_them_again(seed: int) -> None:
    scenario = drawn(seed, TOTALS)
    assert asdict(drawn(seed, TOTALS)) == asdict(scenario)
    assert attempts_of(attempts_text(scenario.attempts)) == scenario.attempts
    for fault in (fault for faults in scenario.attempts for fault in faults):
        assert 0 <= fault.at <= 90
        assert fault.meaning


def test_seeds_give_every_kind_of_fault() -> None:
    kinds = {
        fault.kind
        for seed in range(300)
        for faults in drawn(seed, TOTALS).attempts
        for fault in faults
    }
    assert kinds == {"kill", "pause", "clock", "full", "fail", "slow", "cut", "hang", "delay"}


@pytest.mark.parametrize(
    "text", ["kill", "kill@", "burn@3", "kill@3y", "cut@3", "fail@3s", "full@0.2s"]
)
def test_a_text_that_is_not_a_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text.split("@")[0]):
        faults_of(text)


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=4), st.data()
)
def test_the_smallest_faults_still_fail_and_none_can_be_left_out(
    numbers: list[list[int]], data: st.DataObject
) -> None:
    attempts = tuple(tuple(Fault("kill", n) for n in each) for each in numbers)
    needed = data.draw(st.sampled_from([n for each in numbers for n in each]))

    def fails(kept: tuple[tuple[Fault, ...], ...]) -> bool:
        return any(fault.at == needed for faults in kept for fault in faults)

    assert smallest(attempts, fails, 100) == ((Fault("kill", needed),),)


WORKFLOW = """\
name: orders
version: "1.0"
settings:
  error_handling: {on_error: dead_letter, dead_letter: {path: dead}}
sources:
  rows: {type: generate, config: {rows: 10, columns: {id: {sequence: 0}}}}
destinations:
  one: {type: file, inputs: [rows], config: {path: out/one.csv}}
  parts: {type: file, inputs: [rows], config: {path: out/parts/}}
  lite: {type: sqlite, inputs: [rows], config: {path: /var/data/lite.db, table: orders}}
  shown: {type: stdout, inputs: [rows]}
"""


def test_every_path_that_a_run_writes_is_inside_the_folder(tmp_path: Path) -> None:
    workflow = load_text(WORKFLOW, base=Path("/srv/flows"))
    sets = dict(each.split("=", 1) for each in redirects.redirected(workflow, tmp_path))
    assert {path: json.loads(value) for path, value in sets.items()} == {
        "destinations.one.config.path": f"{tmp_path}/written/srv/flows/out/one.csv",
        "destinations.parts.config.path": f"{tmp_path}/written/srv/flows/out/parts/",
        "destinations.lite.config.path": f"{tmp_path}/written/var/data/lite.db",
        "settings.error_handling.dead_letter.path": f"{tmp_path}/written/srv/flows/dead",
    }


@pytest.mark.parametrize(
    ("destination", "named"),
    [
        ("{type: postgres, inputs: [rows], config: {connection_string: 'postgresql://h/d', table: t}}", "'one' of type postgres"),
        ("{type: file, inputs: [rows], config: {path: 's3://bucket/out.csv'}}", "'one' of type file"),
    ],
)  # fmt: skip
def test_a_destination_that_cannot_be_redirected_is_refused_by_name(
    destination: str, named: str, tmp_path: Path
) -> None:
    text = WORKFLOW.replace(
        "{type: file, inputs: [rows], config: {path: out/one.csv}}", destination
    )
    with pytest.raises(WorkflowError, match=named) as raised:
        redirects.redirected(load_text(text), tmp_path)
    assert raised.value.code == "E0130"


def test_a_source_without_an_end_is_refused_by_name() -> None:
    workflow = load_text(WORKFLOW.replace("rows: 10, ", "").replace("one.csv", "one/"))
    with pytest.raises(WorkflowError, match="the source 'rows' have no end"):
        redirects.refuse(workflow, asyncio.run(bind_workflow(workflow)))


def test_a_source_that_reads_the_file_of_a_destination_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "lite.db")) as database:
        database.execute("create table given (id integer primary key)")
    source = "{type: sqlite, config: {path: lite.db, table: given}}"
    text = WORKFLOW.replace("/var/data/lite.db", "lite.db").replace(
        "{type: generate, config: {rows: 10, columns: {id: {sequence: 0}}}}", source
    )
    workflow = load_text(text, base=tmp_path)
    with pytest.raises(WorkflowError, match="'rows' reads what the destination 'lite' writes"):
        redirects.refuse(workflow, asyncio.run(bind_workflow(workflow)))


def test_an_address_in_a_config_is_replaced_by_that_of_a_proxy_and_nothing_else_is() -> None:
    text = WORKFLOW.replace(
        "{type: generate, config: {rows: 10, columns: {id: {sequence: 0}}}}",
        "{type: postgres, config: {connection_string: 'postgresql://me:se%2Fcret@db.example:5433/shop?a=1', table: t}}",
    )
    (server,) = redirects.servers(load_text(text))
    assert (server.path, server.host, server.port) == (
        "sources.rows.config.connection_string",
        "db.example",
        5433,
    )
    assert server.through(99) == "postgresql://me:se%2Fcret@127.0.0.1:99/shop?a=1"


FAULTY = """
import os, time
from dataflare.sdk import injected_faults
from dataflare.sdk.crashpoints import crash_point
before = time.time()
crash_point("one")
print(round(time.time() - before, -1), flush=True)
for _ in range(3):
    try:
        os.replace("a", "b")
    except OSError as error:
        print(error.errno, flush=True)
crash_point("two")
print("not reached")
"""


def test_a_process_does_to_itself_what_is_asked_and_its_counts_survive_it(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    asked = {
        "DATAFLARE_FAULTS": "clock@1:3600, full@2, kill@2",
        "DATAFLARE_FAULT_COUNTS": str(counts),
    }
    done = subprocess.run(
        [sys.executable, "-c", FAULTY], env=os.environ | asked, cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    missing, full = str(errno.ENOENT), str(errno.ENOSPC)
    assert done.stdout.split() == ["3600.0", missing, full, missing]
    assert read_counts(counts)[:3] == (2, 3, 0)
    assert read_counts(counts)[4] == 3


def test_a_hang_that_ends_leaves_a_delay_until_the_end_of_the_attempt() -> None:
    target = ("127.0.0.1", 9)
    with Proxies([target]) as proxies:
        proxy = proxies._proxies[target]
        proxies.act(Fault("delay", 0.0, timed=True, seconds=0.5))
        proxies.act(Fault("hang", 0.0, timed=True, seconds=1.0))
        assert not proxy._passing.is_set()
        proxies.go_on()
        assert proxy._passing.is_set()
        assert proxy.faults == Faults(delay_s=0.5)
        proxies.act(Fault("hang", 0.0, timed=True, seconds=1.0))
        proxies.clear()
        assert proxy._passing.is_set()
        assert proxy.faults == NO_FAULTS
