"""`dataflare test`: what it prints, its exit statuses, JUnit XML, and rewriting the file."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import answer, cli, write

TESTED = """\
name: tested
params: {least: {type: int64, default: 10}}
sources:
  rows: {type: file, config: {path: "${ROWS_FOLDER}/rows.csv"}, schema: {id: int64, amount: int64}}
transformations:
  dear: {type: filter, inputs: [rows], config: {condition: "amount >= ${param:least}"}}
destinations:
  out: {type: file, inputs: [dear], config: {path: "${OUT}"}}
tests:
  - name: cheap rows are dropped
    given: {rows: [{id: 1, amount: 5}, {id: 2, amount: 10}]}
    expect: {out: [{id: 2}]}
  - name: with another least
    params: {least: 7}
    given: {rows: [{id: 1, amount: 7}]}
    expect:
      out: [{id: 1}]  # the one
"""
WRONG = TESTED.replace("[{id: 1}]", "[{id: 3}]")


def test_tests_pass_without_the_variables_that_only_systems_need(tmp_path: Path) -> None:
    write(tmp_path, "w.yaml", TESTED)
    done = cli("test", "w.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 tests: 2 passed, 0 failed"
    assert [path.name for path in tmp_path.iterdir()] == ["w.yaml"]


def test_a_variable_that_an_expression_needs_must_be_set(tmp_path: Path) -> None:
    write(tmp_path, "w.yaml", TESTED.replace("${param:least}", "${LEAST}"))
    done = cli("test", "w.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "'LEAST' is not set" in done.stderr


def test_a_failing_test_is_a_table_a_status_and_junit(tmp_path: Path) -> None:
    write(tmp_path, "w.yaml", WRONG)
    done = cli("test", "w.yaml", "--junit", "out/junit.xml", cwd=tmp_path)
    assert done.returncode == 1
    assert "- missing     3" in done.stdout
    assert "+ unexpected  1" in done.stdout
    suite = ElementTree.parse(tmp_path / "out/junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "out: 1 row missing, 1 row unexpected"


def test_json_is_one_object(tmp_path: Path) -> None:
    write(tmp_path, "w.yaml", WRONG)
    done = cli("test", "w.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 1
    said = answer(done)
    assert (said["workflow"], said["passed"], said["failed"]) == ("tested", 1, 1)
    assert said["tests"][1]["differences"]["out"] == [
        {"kind": "missing", "expected": {"id": 3}},
        {"kind": "unexpected", "actual": {"id": 1}},
    ]


def test_update_rewrites_what_did_not_hold_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, "w.yaml", WRONG)
    done = cli("test", "w.yaml", "--update", "--junit", "junit.xml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert path.read_text() == TESTED
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("s)")] == ["ok", "updated"]
    assert lines[-2:] == [
        "2 tests: 1 passed, 1 updated, 0 failed",
        "w.yaml now expects the actual rows; check the changes before you keep them",
    ]
    assert "FAIL" not in done.stdout
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")
    done = cli("test", "w.yaml", "--update", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "2 tests: 2 passed, 0 failed"
    assert path.read_text() == TESTED


def test_update_mends_no_errors(tmp_path: Path) -> None:
    """Two differ, and in one the data end the run."""
    broken = WRONG.replace("amount >= ${param:least}", "amount + 9223372036854775800 > 0")
    path = write(tmp_path, "w.yaml", broken)
    done = cli("test", "w.yaml", "--update", "--json", cwd=tmp_path)
    assert done.returncode == 1
    said = answer(done)
    assert (said["passed"], said["failed"], said["updated"]) == (0, 1, ["with another least"])
    assert [each["status"] for each in said["tests"]] == ["error", "updated"]
    assert path.read_text() == broken.replace("[{id: 3}]", "[{id: 1}]")
    shared = WRONG.replace("[{id: 2}]", "&two [{id: 2}]").replace("[{id: 3}]", "*two")
    path = write(tmp_path, "w.yaml", shared)
    done = cli("test", "w.yaml", "--update", cwd=tmp_path)
    assert done.returncode == 2
    assert "FAIL    with another least" in done.stdout
    assert "error[E0116]" in done.stderr
    assert path.read_text() == shared


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("expect: {out:", "expect: {uot:", "E0108"),
        ("[{id: 2}]", "[{di: 2}]", "E0203"),
        ("given: {rows: [{id: 1, amount: 7}]}", "given: {}", "E0115"),
        ("amount: 5}", "amount: five}", "E0405"),
    ],
)
def test_a_wrong_test_is_an_error_of_the_file(
    old: str, new: str, code: str, tmp_path: Path
) -> None:
    write(tmp_path, "w.yaml", TESTED.replace(old, new))
    done = cli("test", "w.yaml", cwd=tmp_path, ROWS_FOLDER="a", OUT="b.csv")
    assert done.returncode == 2
    assert f"error[{code}]" in done.stderr
    assert "--> w.yaml:" in done.stderr
