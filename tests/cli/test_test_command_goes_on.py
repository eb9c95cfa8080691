"""`dataflare test` refuses what `validate` refuses, goes on after a bad test, and leaves its JUnit file."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import write

from dataflare.cli import app

FLOW = """\
name: tt
sources:
  o: {type: file, config: {path: "${NOT_SET_ANYWHERE}/gone.csv"}, schema: {a: int64}}
transformations: {f: {type: filter, inputs: [o], config: {condition: "a > 0"}}}
destinations: {p: {type: http, inputs: [f], config: {url: "${NOT_SET_EITHER}"}}}
tests:
  - {name: bad, given: {o: [{a: one}]}, expect: {f: []}}
  - {name: fails, given: {o: [{a: 1}]}, expect: {f: [{a: 2}]}}
  - {name: holds, given: {o: [{a: 1}, {a: -1}]}, expect: {f: [{a: 1}]}}
"""


def junit(path: Path) -> dict[str, str]:
    """What became of each test: passed, failure or error."""
    cases = ElementTree.parse(path).getroot().iter("testcase")
    return {case.attrib["name"]: next((child.tag for child in case), "passed") for case in cases}


def test_a_bad_test_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "w.yaml", FLOW)
    assert app.execute(["test", "w.yaml", "--json", "--junit", "j.xml"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert [each["status"] for each in told["tests"]] == ["error", "failed", "passed"]
    assert told["error"] == told["tests"][0]["error"]
    assert told["error"]["spots"][0]["line"] == 7
    assert junit(tmp_path / "j.xml") == {"bad": "error", "fails": "failure", "holds": "passed"}


def test_without_a_bad_one_the_status_is_that_of_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "w.yaml", "".join(line for line in FLOW.splitlines(True) if "bad" not in line))
    assert app.execute(["test", "w.yaml"]) == 1


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("a > 0", "zz > 0", "E0203"),
        ("type: filter", "type: fliter", "E0313"),
        ("name: tt", "nmae: tt", "E0103"),
        ("url:", "ulr:", "E0403"),
    ],
)
def test_an_invalid_file_is_refused(
    old: str,
    new: str,
    code: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOT_SET_ANYWHERE", "x")
    monkeypatch.setenv("NOT_SET_EITHER", "http://127.0.0.1:9")
    write(tmp_path, "w.yaml", FLOW.replace(old, new))
    assert app.execute(["test", "w.yaml", "--json", "--junit", "j.xml"]) == 2
    assert code in {error["code"] for error in json.loads(capsys.readouterr().out)["errors"]}
    assert list(junit(tmp_path / "j.xml").values()) == ["error"]


def test_an_invalid_file_without_tests_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = FLOW[: FLOW.index("tests:")].replace("a > 0", "zz > 0")
    write(tmp_path, "w.yaml", text)
    assert app.execute(["test", "w.yaml"]) == 2
