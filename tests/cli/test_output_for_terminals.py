"""A closed pipe ends a command quietly; control characters of data do not act on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from command_line import cli, command, environment
from hypothesis import given
from hypothesis import strategies as st

from dataflare.cli import app
from dataflare.formats.visible import visible

WORKFLOW = """\
name: escapes
settings: {error_handling: {on_error: dead_letter}}
sources: {rows: {type: file, config: {path: in.csv}, schema: {id: int64, text: string}}}
destinations: {out: {type: stdout, inputs: [rows], config: {format: FORMAT}}}
"""
CLEAR, REVERSED = "\x1b[2J", "\u202e"


def project(folder: Path, format_: str = "table") -> None:
    text = f"id,text\n1,{CLEAR}red\x07\n2,{REVERSED}abc\nx{CLEAR},no\n4,\x9b31mred\n"
    (folder / "in.csv").write_text(text)
    (folder / "w.yaml").write_text(WORKFLOW.replace("FORMAT", format_))


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["connectors"],
        ["functions", "--json"],
        ["schema"],
        ["dlq", "list", "missing", "--json"],
        ["validate", "missing.yaml", "--json"],
        ["plan", "w.yaml"],
        ["preview", "w.yaml", "rows"],
        ["run", "w.yaml", "--json"],
        ["runs", "--json"],
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_whose_reader_is_gone_ends_like_others(
    tmp_path: Path, words: list[str], unbuffered: str
) -> None:
    project(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command(*words),
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED=unbuffered),
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "E0900" not in done.stderr


def on_a_terminal(*words: str, cwd: Path) -> str:
    """What a command writes to a terminal, standard output and standard error."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command(*words),
        cwd=cwd,
        env=environment(NO_COLOR="1"),
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=subprocess.PIPE,
    )
    os.close(slave)
    written = b""
    while True:
        try:
            data = os.read(master, 65_536)
        except OSError:
            break
        if not data:
            break
        written += data
    assert process.stderr is not None
    written += process.stderr.read()
    process.wait(timeout=120)
    os.close(master)
    return written.decode()


def assert_harmless(text: str) -> None:
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\x9b" not in text
    assert REVERSED not in text


@pytest.mark.parametrize("format_", ["table", "csv", "ndjson"])
def test_cells_do_not_act_on_a_terminal(tmp_path: Path, format_: str) -> None:
    project(tmp_path, format_)
    rows = on_a_terminal("run", "w.yaml", cwd=tmp_path)
    assert_harmless(rows)
    assert "red" in rows
    for words in (
        ["preview", "w.yaml", "rows"],
        ["dlq", "show", "escapes"],
        ["dlq", "list", "escapes"],
    ):
        assert_harmless(on_a_terminal(*words, cwd=tmp_path))
    assert r"\x1b[2J" in on_a_terminal("dlq", "show", "escapes", cwd=tmp_path)


def test_an_error_that_repeats_a_row_is_harmless_too(tmp_path: Path) -> None:
    project(tmp_path)
    done = cli("run", "w.yaml", "--set", "settings.error_handling.on_error=fail", cwd=tmp_path)
    assert done.returncode == 1
    assert_harmless(done.stderr)


def test_a_pipe_gets_the_bytes_of_the_data(tmp_path: Path) -> None:
    project(tmp_path, "csv")
    done = cli("run", "w.yaml", cwd=tmp_path)
    assert f"1,{CLEAR}red\x07\n" in done.stdout


@given(st.text())
def test_visible_text_has_no_control_characters_and_keeps_the_others(text: str) -> None:
    shown = visible(text)
    assert not set(shown) & {chr(i) for i in (*range(32), *range(127, 160))} - {"\n", "\t"}
    if text.isprintable():
        assert shown == text


def test_a_preview_says_which_rows_it_left_out(tmp_path: Path) -> None:
    project(tmp_path)
    done = cli("preview", "w.yaml", "rows", "--json", cwd=tmp_path)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, 2, 4]
    assert "step 'rows': 1 row failed" in done.stderr
    assert "in.csv line 4" in done.stderr


def test_long_values_of_letters_are_shown_whole_on_demand(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "in.csv").write_text("id,text\nx," + "long " * 40 + "end\n")
    cli("run", "w.yaml", cwd=tmp_path)
    assert "end" not in cli("dlq", "show", "escapes", cwd=tmp_path).stdout
    assert "long end" in cli("dlq", "show", "escapes", "--full", cwd=tmp_path).stdout


@pytest.mark.parametrize("columns", [40, 60, 76, 80])
@pytest.mark.parametrize("words", [[], ["run"], ["preview"], ["dlq", "replay"], ["runs"]])
def test_help_is_never_cut(
    columns: int,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert app.execute([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert "…" not in text
    assert "--help" in text
    if words == ["run"]:
        assert "--accept-changes" in text
