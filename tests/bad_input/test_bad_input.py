"""Every kind of bad input: the whole error block, the exit status, no traceback, no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import command_line_cases
import database_cases
import expression_cases
import file_cases
import graph_cases
import pytest
import run_cases
import step_cases
import yaml_cases
from bad_case import SECRET, Case, execute, is_root, steady

GROUPS = (
    yaml_cases,
    graph_cases,
    expression_cases,
    step_cases,
    file_cases,
    database_cases,
    run_cases,
    command_line_cases,
)
CASES = [
    pytest.param(case, id=f"{group.__name__.removesuffix('_cases')}: {case.name}")
    for group in GROUPS
    for case in group.CASES
]
IN_A_PROCESS = ("a tab", "a circle", "an unknown column", "a ragged row", "an unknown command")


@pytest.mark.parametrize("case", CASES)
def test_the_block_names_the_place_and_the_remedy(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if case.unless_root and is_root():
        pytest.skip("root may read every file")
    status, out, err = execute(case, tmp_path, monkeypatch, capfd)
    assert steady(err) == case.says
    assert status == case.status
    assert out == ""
    assert "Traceback" not in err
    assert SECRET not in out + err
    assert str(tmp_path) not in err


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case.values[0], id=case.id)
        for case in CASES
        if isinstance(case.values[0], Case) and case.values[0].name in IN_A_PROCESS
    ],
)
def test_a_process_says_and_returns_the_same(case: Case, tmp_path: Path) -> None:
    case.make(tmp_path)
    env = {name: value for name, value in os.environ.items() if name != "DATAFLARE_HOME"}
    command = [sys.executable, "-m", "dataflare", *case.args.split(" ")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=120)
    assert done.stderr.decode() == case.says
    assert done.returncode == case.status
    assert done.stdout == b""


def test_a_failed_run_answers_in_json_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (case,) = (each for each in expression_cases.CASES if each.name == "a remainder by zero")
    asked = Case(case.name, case.workflow, f"{case.args} --json", case.status, files=case.files)
    status, out, err = execute(asked, tmp_path, monkeypatch, capfd)
    assert status == 1
    assert steady(err) == case.says
    answer = json.loads(out)
    assert answer["status"] == "failed"
    assert answer["error"]["code"] == "E0519"
    assert answer["error"]["step"] == "more"


def test_the_list_is_long_and_has_no_doubles() -> None:
    names = [str(case.id) for case in CASES]
    assert len(set(names)) == len(names) >= 150
    assert all(isinstance(case.values[0], Case) and case.values[0].says for case in CASES)
