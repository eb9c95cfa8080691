"""What is wrong with a command line is said in one block, and the status is 2."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from command_line import ORDERS, answer, cli, command, environment, write

import dataflare
from dataflare.cli import app, common


@pytest.mark.parametrize(
    ("args", "message", "help_"),
    [
        (["vlaidate"], "no such command 'vlaidate'", "did you mean 'validate'?"),
        (["deploy", "w"], "the command 'deploy' is not available in this version", ""),
        (["run", "w.yaml", "--fersh"], "no such option '--fersh'", "did you mean '--fresh'?"),
        (["run"], "missing argument 'FILE'", "see 'dataflare run --help'"),
        (["run", "w.yaml", "--for", "soon"], "--for takes a duration such as 30s, 5m or 1h, not 'soon'", ""),
        (["run", "w.yaml", "--param", "least"], "--param takes NAME=VALUE, not 'least'", ""),
        (["plan", "w.yaml", "--format", "pdf"], "'pdf' is not one of 'text', 'mermaid'", ""),
        (["preview", "w.yaml", "dear", "--rows", "0"], "0", ""),
        (["connectors", "flie"], "unknown connector type 'flie'", "did you mean 'file'?"),
        (["functions", "sbustr"], "unknown function 'sbustr'", "did you mean 'substr'?"),
        (["runs", "unknown"], "no workflow 'unknown' has run here", ""),
        (["checkpoints", "unknown"], "no workflow 'unknown' has run here", ""),
    ],
)  # fmt: skip
def test_one_block_and_status_2(args: list[str], message: str, help_: str, tmp_path: Path) -> None:
    write(tmp_path, "w.yaml", ORDERS)
    done = cli(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error[E0")
    assert message in first
    assert all(line.startswith("   = ") for line in rest)
    assert not help_ or f"   = help: {help_}" in rest


@pytest.mark.parametrize("name", ["run", "validate", "plan"])
def test_a_missing_workflow_file_is_named_with_its_neighbour(name: str, tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    done = cli(name, "ordres.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error[E0114]: there is no workflow file 'ordres.yaml'\n"
        "   = help: did you mean 'orders.yaml'?\n"
    )


def test_a_folder_is_no_workflow_file(tmp_path: Path) -> None:
    done = cli("validate", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "is a folder" in done.stderr


def test_every_file_is_validated_and_the_worst_status_counts(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    write(tmp_path, "wrong.yaml", ORDERS.replace("type: filter", "type: fliter"))
    done = cli("validate", "wrong.yaml", "orders.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "ok  orders.yaml  (orders: 3 steps)\n"
    assert "error[E0" in done.stderr
    assert "wrong.yaml:" in done.stderr


def test_an_error_in_an_expression_shows_its_place(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS.replace("amount >= ", "amuont >= "))
    done = cli("validate", "orders.yaml", cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error[E0203]")
    assert any(line.strip().startswith("--> orders.yaml:") for line in lines)
    assert any(line.rstrip().endswith("^" * len("amuont")) for line in lines)
    assert "   = help: did you mean 'amount'?" in lines


def test_run_with_json_answers_in_json_whatever_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    write(tmp_path, "wrong.yaml", ORDERS.replace("type: filter", "type: fliter"))
    for args, code in (
        (["missing.yaml"], "E0114"),
        (["wrong.yaml"], None),
        (["orders.yaml", "--nonsense"], "E0120"),
        (["orders.yaml", "--for", "soon"], "E0120"),
    ):
        done = cli("run", *args, "--json", cwd=tmp_path)
        assert done.returncode == 2
        told = answer(done)
        assert told["status"] == "failed"
        assert told["error"].keys() == {"code", "message", "step", "spots", "notes", "help"}
        assert code in (None, told["error"]["code"])
        assert f"error[{told['error']['code']}]: " in done.stderr


def test_no_traceback_unless_debug_is_asked_for_anywhere(tmp_path: Path) -> None:
    assert "Traceback" not in cli("run", "no.yaml", cwd=tmp_path).stderr
    for args in (["--debug", "run", "no.yaml"], ["run", "no.yaml", "--debug"]):
        done = cli(*args, cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback (most recent call last)" in done.stderr
        assert done.stderr.rstrip().splitlines()[-1] == (
            "error[E0114]: there is no workflow file 'no.yaml'"
        )


def test_help_is_no_error(tmp_path: Path) -> None:
    for args in ([], ["--help"], ["run", "-h"]):
        done = cli(*args, cwd=tmp_path)
        assert done.returncode == 0
        assert "Usage: dataflare" in done.stdout
        assert done.stderr == ""


def test_a_reader_that_has_gone_away_is_told_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command("functions"),
            cwd=tmp_path,
            env=environment(),
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141


def test_what_nobody_expected_is_a_bug_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(common, "known_workflows", broken)
    assert app.execute(["runs"]) == 1
    assert capsys.readouterr().err == (
        "error[E0900]: ZeroDivisionError: division by zero\n"
        "   = this is a bug in DataFlare; please report it, with the output of --debug\n"
    )
    assert app.execute(["runs", "--debug"]) == 1
    assert "in broken\n" in capsys.readouterr().err


def test_an_interrupt_before_anything_began_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "known_workflows", interrupted)
    assert app.execute(["runs"]) == 130
    assert capsys.readouterr().err == ""


def test_the_version_can_be_asked_for_beside_other_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert app.execute(["--debug", "--version"]) == 0
    assert capsys.readouterr().out == f"dataflare {dataflare.__version__}\n"


def test_no_secret_is_told_by_an_error(tmp_path: Path) -> None:
    text = ORDERS.replace("path: out/dear.csv", 'path: "${secret:DEST}/dear.wrong"')
    write(tmp_path, "orders.yaml", text)
    for args in (["orders.yaml"], ["orders.yaml", "--json"], ["--debug", "orders.yaml"]):
        done = cli("run", *args, cwd=tmp_path, DEST="hunter2hunter2")
        assert done.returncode == 2
        assert "error[E0" in done.stderr
        assert "hunter2" not in done.stdout + done.stderr


def test_a_closed_standard_output_and_a_narrow_encoding_are_no_errors(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    line = [*command("plan", "orders.yaml")]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *line],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    narrow = cli("plan", "orders.yaml", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert narrow.returncode == 0, narrow.stderr
    assert r"\u25cb rows" in narrow.stdout
