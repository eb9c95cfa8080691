"""`dataflare init`: the project it makes runs, and its tests pass."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from command_line import cli

from dataflare.cli.init import workflow_name


def test_the_printed_next_steps_work(tmp_path: Path) -> None:
    done = cli("init", "My shop", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line, comments=True) for line in done.stdout.splitlines()[1:] if line]
    (change, folder), *commands = lines
    assert (change, folder) == ("cd", "My shop")
    assert [command[1] for command in commands] == ["test", "plan", "preview", "run"]
    for program, *args in commands:
        assert program == "dataflare"
        said = cli(*args, cwd=tmp_path / folder)
        assert said.returncode == 0, said.stderr
    rows = (tmp_path / folder / "out/by_country.csv").read_text().splitlines()
    assert sorted(rows[1:]) == [
        "Brazil,1,64.20",
        "France,2,128.75",
        "Germany,2,359.90",
        "Japan,1,230.50",
    ]
    kept = {path.name for path in (tmp_path / folder).iterdir()}
    assert kept == {".dataflare", ".gitignore", "README.md", "data", "out", "workflow.yaml"}


def test_an_empty_folder_is_taken_and_any_other_refused(tmp_path: Path) -> None:
    assert cli("init", ".", cwd=tmp_path).returncode == 0
    before = (tmp_path / "workflow.yaml").read_text()
    (tmp_path / "workflow.yaml").write_text(before + "# mine\n")
    done = cli("init", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "'.' is not empty: it has .gitignore, README.md, data, ..." in done.stderr
    assert (tmp_path / "workflow.yaml").read_text().endswith("# mine\n")
    assert cli("init", "README.md", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My shop", "my_shop"), ("2024-x", "x"), ("é", "orders"), ("a" * 80, "a" * 63)],
)
def test_a_folder_names_its_workflow(folder: str, name: str) -> None:
    assert workflow_name(folder) == name
