"""Every command that is asked for JSON answers in JSON, also when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import ORDERS, answer, cli, write

from dataflare.cli import answers, app

KEYS = {"code", "message", "step", "spots", "notes", "help"}


def run(
    args: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cwd: Path
) -> tuple[int, Any, str]:
    """Status, what was printed as JSON, and standard error, of a command in this process."""
    monkeypatch.chdir(cwd)
    status = app.execute(args)
    told = capsys.readouterr()
    return status, json.loads(told.out), told.err


@pytest.mark.parametrize(
    "args",
    [
        ["validate", "wrong.yaml", "--json"],
        ["check", "wrong.yaml", "--json"],
        ["test", "wrong.yaml", "--json"],
        ["plan", "wrong.yaml", "--json"],
        ["plan", "wrong.yaml", "--format", "json"],
        ["plan", "wrong.yaml", "--format=json"],
        ["preview", "wrong.yaml", "dear", "--json"],
    ],
)
def test_an_error_in_the_file_has_its_place(
    args: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path, "wrong.yaml", ORDERS.replace("amount >=", "amuont >="))
    status, told, err = run(args, capsys, monkeypatch, tmp_path)
    assert status == 2
    error = told["error"]
    assert error.keys() == KEYS
    assert (error["code"], error["step"]) == ("E0203", "dear")
    (spot,) = error["spots"]
    line = ORDERS.splitlines().index('    config: {condition: "amount >= ${param:least}"}') + 1
    assert spot == {"file": "wrong.yaml", "line": line, "column": 26, "length": len("amuont")}
    assert told["errors"] == [error]
    assert "error[E0203]" in err


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["runs", "unknown", "--json"], "E0121"),
        (["checkpoints", "unknown", "--json"], "E0121"),
        (["dlq", "list", "unknown", "--json"], "E0121"),
        (["dlq", "show", "unknown", "--json"], "E0121"),
        (["dlq", "replay", "unknown", "--json"], "E0121"),
        (["connectors", "flie", "--json"], "E0401"),
        (["functions", "sbustr", "--json"], "E0202"),
        (["runs", "--json", "--nonsense"], "E0120"),
        (["check", "missing.yaml", "--json"], "E0114"),
    ],
)
def test_other_errors_answer_in_json_too(
    args: list[str],
    code: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, told, _ = run(args, capsys, monkeypatch, tmp_path)
    assert status == 2
    assert told["error"].keys() == KEYS
    assert told["error"]["code"] == code
    assert told["error"]["spots"] == []


def test_all_errors_of_all_files_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "good.yaml", ORDERS)
    write(
        tmp_path, "two.yaml", ORDERS.replace("amount >=", "x >=").replace("out/dear.csv", "a.pdf")
    )
    args = ["validate", "good.yaml", "two.yaml", "gone.yaml", "--json"]
    status, told, _ = run(args, capsys, monkeypatch, tmp_path)
    assert status == 2
    assert not told["ok"]
    good, two, gone = told["files"]
    assert (good["ok"], good["workflow"], good["steps"], good["errors"]) == (True, "orders", 3, [])
    assert [error["step"] for error in two["errors"]] == ["dear", "out"]
    assert [error["code"] for error in gone["errors"]] == ["E0114"]
    assert told["errors"] == [*two["errors"], *gone["errors"]]
    assert told["error"] == told["errors"][0]


def test_a_variable_that_is_missing_twice_has_two_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ORDERS.replace("out/dear.csv", '"${NOT_SET_1}/${NOT_SET_1}.csv"')
    write(tmp_path, "w.yaml", text)
    _, told, _ = run(["plan", "w.yaml", "--json"], capsys, monkeypatch, tmp_path)
    assert [spot["column"] for spot in told["error"]["spots"]] == [21, 34]


def test_a_run_says_what_it_wrote_where(tmp_path: Path) -> None:
    write(tmp_path, "w.yaml", ORDERS)
    told = answer(cli("run", "w.yaml", "--json", cwd=tmp_path))
    assert told["error"] is None
    assert Path(told["written"]["out"]["path"]) == tmp_path / "out" / "dear.csv"
    assert told["written"]["out"]["rows"] == 2
    assert told["warnings"] == []


def test_a_failed_run_has_the_place_of_its_error(tmp_path: Path) -> None:
    text = ORDERS.replace("amount >= ${param:least}", "100 % (amount - 20) >= 0")
    write(tmp_path, "w.yaml", text)
    done = cli("run", "w.yaml", "--json", cwd=tmp_path)
    told = answer(done)
    assert done.returncode == 1
    assert told["status"] == "failed"
    assert told["error"]["step"] == "dear"
    assert told["error"]["spots"][0]["file"] == "w.yaml"


def test_no_secret_is_in_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAFLARE_SECRET_WORD", "hunter2hunter2")
    text = ORDERS.replace("out/dear.csv", "${secret:WORD}.pdf")
    write(tmp_path, "w.yaml", text)
    monkeypatch.chdir(tmp_path)
    assert app.execute(["validate", "w.yaml", "--json"]) == 2
    told = capsys.readouterr()
    assert "hunter2" not in told.out + told.err


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["runs", "--json"], True),
        (["plan", "w", "-f", "json"], True),
        (["plan", "w", "-fjson"], True),
        (["plan", "w", "--format", "svg"], False),
        (["run", "w", "--", "--json"], False),
        (["run", "json"], False),
    ],
)
def test_what_asks_for_json(args: list[str], wanted: bool) -> None:
    assert answers.is_wanted(args) is wanted


def test_the_variable_of_a_secret_is_shown_as_it_is_written(tmp_path: Path) -> None:
    text = 'name: w\nsources: {s: {type: http, config: {url: "http://x", auth: {type: bearer, token: "${secret:NO_SUCH}"}}}}\ndestinations: {d: {type: blackhole, inputs: [s]}}\n'
    write(tmp_path, "w.yaml", text)
    done = cli("validate", "w.yaml", cwd=tmp_path)
    assert text.splitlines()[1] in done.stderr
    (caret,) = [line for line in done.stderr.splitlines() if "^" in line]
    assert caret.index("^") - len("  | ") == text.splitlines()[1].index("${secret")


def test_convert_prints_its_text_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    status, told, _ = run(["convert", "orders.yaml", "--json"], capsys, monkeypatch, tmp_path)
    assert status == 0
    assert (told["format"], told["output"]) == ("python", None)
    assert "Workflow(" in told["text"]
    args = ["convert", "orders.yaml", "--json", "-o", "orders.py"]
    status, written, _ = run(args, capsys, monkeypatch, tmp_path)
    assert (status, written["output"]) == (0, "orders.py")
    assert (tmp_path / "orders.py").read_text() == written["text"] == told["text"]
    status, told, _ = run(args, capsys, monkeypatch, tmp_path)
    assert status == 2
    assert "--force" in told["error"]["message"]


def test_init_prints_what_it_made_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, told, _ = run(["init", "shop", "--json"], capsys, monkeypatch, tmp_path)
    assert status == 0
    assert (told["name"], told["folder"]) == ("shop", "shop")
    assert all((tmp_path / "shop" / path).is_file() for path in told["files"])
    assert told["next"][-1] == "dataflare run workflow.yaml"
    status, told, _ = run(["init", "shop", "--json"], capsys, monkeypatch, tmp_path)
    assert status == 2
    assert "not empty" in told["error"]["message"]
