"""`dataflare convert`: to Python and back, on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import cli, write

FILE = """\
name: small
version: "1.0"
sources:
  rows: {type: inline, config: {rows: [{id: 1}, {id: 2}]}}
transformations:
  big: {type: filter, inputs: [rows], config: {condition: id > 1}}
destinations:
  out: {type: stdout, inputs: [big], config: {format: ndjson}}
"""


def test_there_and_back_and_each_runs(tmp_path: Path) -> None:
    write(tmp_path, "small.yaml", FILE)
    assert cli("convert", "small.yaml", "-o", "small.py", cwd=tmp_path).returncode == 0
    done = cli("convert", "small.py", "-o", "again.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, again = (
        cli("plan", name, "--format", "json", cwd=tmp_path).stdout
        for name in ("small.yaml", "again.yaml")
    )
    assert first == again
    assert cli("run", "again.yaml", "--quiet", cwd=tmp_path).stdout == '{"id":2}\n'


def test_without_a_place_it_is_printed(tmp_path: Path) -> None:
    write(tmp_path, "small.yaml", FILE)
    done = cli("convert", "small.yaml", cwd=tmp_path)
    assert 'big = rows.filter("big", condition="id > 1")' in done.stdout


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("x = 1\n", "builds 0 workflows where one was expected"),
        ("from dataflare import Workflow\na, b = Workflow('a'), Workflow('b')\n", "it builds: a, b"),
        ("import nowhere_at_all\n", "raised ModuleNotFoundError"),
        ("x = (\n", "raised SyntaxError"),
        ("from dataflare import Workflow\n\nw = Workflow('a')\nw.source('s', 'file', path='a').python('p', lambda f: f)\n",
         "is known to this process only"),
    ],
)  # fmt: skip
def test_a_script_that_builds_no_workflow_is_refused(
    script: str, said: str, tmp_path: Path
) -> None:
    write(tmp_path, "w.py", script)
    done = cli("convert", "w.py", cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    write(tmp_path, "small.yaml", FILE)
    write(tmp_path, "small.py", "mine")
    assert cli("convert", "small.yaml", "-o", "small.py", cwd=tmp_path).returncode == 2
    assert (tmp_path / "small.py").read_text() == "mine"
    assert cli("convert", "small.yaml", "-o", "small.py", "--force", cwd=tmp_path).returncode == 0
