"""Users' code that ends the process ends its step, wherever it is called."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from dataflare.errors import DataError
from dataflare.sdk import user_exits
from tests.cli.command_line import cli

ENDINGS = {
    "exit": ("raise SystemExit(0)", "called sys.exit(0)"),
    "exit with a text": ("import sys; sys.exit('no more')", "called sys.exit('no more')"),
    "interrupt": ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
    "generator": ("raise GeneratorExit", "raised GeneratorExit"),
    "cancelled": ("import asyncio; raise asyncio.CancelledError", "raised CancelledError"),
    "own": ("raise type('Own', (BaseException,), {})('it')", "raised Own: it"),
}
HEAD = 'name: w\nversion: "1.0"\nsettings: {restart: {attempts: 0}}\n'
ROWS = "sources: {s: {type: inline, config: {rows: [{id: 1}, {id: 2}]}}}\n"
OUT = "destinations: {a: {type: file, inputs: [%s], config: {path: o.ndjson}}}\n"
STEP = (
    'transformations: {p: {type: python, inputs: [s], config: {function: "m:f", %s}%s}}\n'
    + OUT % "p"
)
RECORD = "mode: record, schema: {id: int64}"
WORKFLOWS = {
    "batch": (STEP % ("schema: {id: int64}", ""), "def f(rows):\n    %s\n"),
    "record": (STEP % (RECORD, ""), "def f(row):\n    %s\n"),
    "process": (STEP % (f"{RECORD}, execution: process", ""), "def f(row):\n    %s\n"),
    "source": (
        'sources: {p: {type: python, config: {function: "m:f"}, schema: {id: int64}}}\n'
        + OUT % "p",
        "def f():\n    yield {'id': 1}\n    %s\n",
    ),
    "destination": (
        ROWS + 'destinations: {p: {type: python, inputs: [s], config: {function: "m:f"}}}\n',
        "def f(rows):\n    %s\n",
    ),
}


def written(folder: Path, workflow: str, module: str) -> Path:
    (folder / "m.py").write_text(module)
    file = folder / "w.yaml"
    file.write_text(HEAD + ("" if "sources:" in workflow else ROWS) + workflow)
    return file


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("place", ["batch", "process"])
def test_whatever_a_function_raises_fails_the_run(tmp_path: Path, place: str, ending: str) -> None:
    code, words = ENDINGS[ending]
    workflow, module = WORKFLOWS[place]
    result = cli("run", str(written(tmp_path, workflow, module % code)), "--json", cwd=tmp_path)
    assert result.returncode == 1, result
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["step"]) == ("E0520", "p")
    assert f"m:f {words}" in error["message"]
    assert not (tmp_path / "o.ndjson").exists()


@pytest.mark.parametrize("place", WORKFLOWS)
def test_sys_exit_fails_the_run_wherever_it_is_called(tmp_path: Path, place: str) -> None:
    workflow, module = WORKFLOWS[place]
    result = cli(
        "run", str(written(tmp_path, workflow, module % "raise SystemExit(0)")), cwd=tmp_path
    )
    assert result.returncode == 1, result
    assert "error[E0520]: step 'p': m:f called sys.exit(0)" in result.stderr
    (run,) = json.loads(cli("runs", "w", "--json", cwd=tmp_path).stdout)
    assert (run["status"], run["error"]["code"]) == ("failed", "E0520")


@pytest.mark.parametrize("execution", ["thread", "process"])
def test_a_row_whose_function_exits_is_a_dead_letter(tmp_path: Path, execution: str) -> None:
    workflow = STEP % (
        f"{RECORD}, execution: {execution}",
        ", error_handling: {on_error: dead_letter}",
    )
    module = "def f(row):\n    if row['id'] == 2: raise SystemExit(0)\n    return row\n"
    result = cli("run", str(written(tmp_path, workflow, module)), cwd=tmp_path)
    assert result.returncode == 0, result
    assert (tmp_path / "o.ndjson").read_text() == '{"id":1}\n'
    (letters,) = json.loads(cli("dlq", "list", "w", "--json", cwd=tmp_path).stdout)
    assert letters["code"] == "E0520"


@pytest.mark.parametrize("command", ["validate", "plan", "run", "lineage", "check"])
def test_a_module_that_exits_when_it_is_imported_is_an_error(tmp_path: Path, command: str) -> None:
    file = written(tmp_path, STEP % (RECORD, ""), "import sys\ndef f(row): ...\nsys.exit(0)\n")
    result = cli(command, str(file), cwd=tmp_path)
    assert result.returncode == 2, result
    assert "error[E0408]: cannot import 'm:f': it called sys.exit(0)" in result.stderr
    assert 'if __name__ == "__main__":' in result.stderr


CLASSES = """
from pydantic import BaseModel
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Split
from dataflare.model.types import Schema
from dataflare.sdk.source import EndOfSplit, Replay, SourceCapabilities, SourceConnector, SplitReader
import polars as pl

def leave(place):
    if place == "{place}":
        raise SystemExit(0)

class Options(BaseModel):
    pass

class Mine(SourceConnector):
    type, Config = "mine", Options
    def capabilities(self):
        return SourceCapabilities(replay=Replay.NONE, replay_reason="of a test", bounded=True)
    async def schema(self):
        return Schema.of({{"id": "int64"}})
    async def splits(self, carried=None):
        leave("splits")
        return [Split("rows", {{}})]
    async def open(self, split, position):
        leave("open")
        return Reader()

class Reader(SplitReader):
    async def read_batch(self, rows_max):
        leave("read")
        raise EndOfSplit
    def position(self):
        raise NotImplementedError
"""


@pytest.mark.parametrize("place", ["splits", "open", "read"])
def test_a_connector_of_the_user_that_exits_fails_the_run(tmp_path: Path, place: str) -> None:
    source = 'sources: {p: {type: python, config: {function: "m:Mine"}}}\n' + OUT % "p"
    result = cli("run", str(written(tmp_path, source, CLASSES.format(place=place))), cwd=tmp_path)
    assert result.returncode == 1, result
    assert "error[E0520]: user code called sys.exit(0)" in result.stderr
    (run,) = json.loads(cli("runs", "w", "--json", cwd=tmp_path).stdout)
    assert run["status"] == "failed"


def raised_by(code: str) -> BaseException:
    try:
        exec(code, {"signal": signal, "__name__": "of_a_user"})
    except BaseException as error:
        return error
    raise AssertionError(code)


def test_what_a_signal_interrupts_is_not_the_codes_own() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert user_exits.is_interrupt(raised_by("signal.raise_signal(signal.SIGINT)"))
        again = "try:\n  signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt:\n  raise"
        assert user_exits.is_interrupt(raised_by(again))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not user_exits.is_interrupt(raised_by("raise KeyboardInterrupt"))
    assert not user_exits.is_interrupt(raised_by("raise SystemExit(1)"))


def test_an_exit_in_a_task_does_not_end_its_event_loop() -> None:
    async def leaves() -> None:
        raise SystemExit(0)

    async def beside() -> None:
        task = asyncio.ensure_future(user_exits.kept_inside(leaves(), "p"))
        with pytest.raises(DataError, match="called sys") as raised:
            await task
        assert (raised.value.code, raised.value.step) == ("E0520", "p")

    asyncio.run(beside())
