"""What users' code prints does not come into the answer of a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import cli

MODULE = """
import os, sys
print("printed at import")
sys.stdout.write("written at import")
os.write(1, b"through the descriptor")
def f(row):
    print("printed by the function")
    return row
"""
WORKFLOW = """
name: w
sources: {s: {type: inline, config: {rows: [{id: 1}]}}}
transformations: {p: {type: python, inputs: [s], config: {function: "m:f", mode: record}}}
destinations: {a: {type: file, inputs: [p], config: {path: o.ndjson}}}
tests: [{name: t, given: {s: [{id: 2}]}, expect: {a: [{id: 2}]}}]
"""
ASKING = {
    "validate": ["w.yaml", "--json"],
    "plan": ["w.yaml", "--format", "json"],
    "lineage": ["w.yaml", "--json"],
    "check": ["w.yaml", "--json"],
    "preview": ["w.yaml", "p", "--json"],
    "test": ["w.yaml", "--json"],
    "run": ["w.yaml", "--json"],
}


@pytest.mark.parametrize("command", ASKING)
def test_standard_output_is_json_alone(tmp_path: Path, command: str) -> None:
    (tmp_path / "m.py").write_text(MODULE)
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    done = cli(command, *ASKING[command], cwd=tmp_path)
    assert done.returncode == 0, done
    json.loads(done.stdout)
    assert "printed at import" in done.stderr
    assert "through the descriptor" in done.stderr


def test_a_drawing_is_alone_too(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(MODULE)
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    done = cli("plan", "w.yaml", "--format", "mermaid", cwd=tmp_path)
    assert done.stdout.startswith("---\ntitle: ")
    assert "printed at import" in done.stderr


def test_validate_warns_of_alerts_without_their_notifier(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(MODULE)
    (tmp_path / "w.yaml").write_text(
        WORKFLOW + "alerts: [{name: bad, when: failed, notify: pager}]\n"
    )
    done = cli("validate", "w.yaml", "--json", cwd=tmp_path)
    told = "alerts notify 'pager', and the workflow has no 'notifiers': they are only shown"
    assert json.loads(done.stdout)["files"][0]["warnings"] == [told]
    assert told in done.stderr
