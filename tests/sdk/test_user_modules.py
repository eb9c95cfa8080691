"""Modules beside a workflow: each folder has its own, in one process, whatever their names are."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from dataflare.errors import ConfigError
from dataflare.sdk.runtime import Runtime
from dataflare.sdk.user_code import load


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def package(folder: Path, who: str) -> Path:
    """A folder whose modules import each other in each way that Python has."""
    return write(
        folder,
        helpers=f"WHO = '{who}'\n",
        steps=(
            "import importlib, json, helpers as first\n"
            "from helpers import WHO as second\n"
            "import tools.deep.names\n"
            "import tools.deep.names as fourth\n"
            "from tools import near\n"
            "def who():\n"
            "    import helpers\n"
            "    from tools.deep import names\n"
            "    by_name = importlib.import_module('tools.near')\n"
            "    return [first.WHO, second, tools.deep.names.WHO, fourth.WHO, near.WHO, helpers.WHO,\n"
            "            names.WHO, by_name.WHO, json.loads('\"json\"')]\n"
        ),
        tools__near="from .deep.names import WHO\n",
        tools__deep__names="from ...tools.kind import WHO\n",
        tools__kind="import helpers\nWHO = helpers.WHO\n",
        tools____init__="",
        tools__deep____init__="",
    )


def test_folders_with_modules_of_the_same_names_do_not_meet(tmp_path: Path) -> None:
    for each in "ab":
        package(tmp_path / each, each)
    (tmp_path / "a/tools/__init__.py").write_text("")
    before = list(sys.path), set(sys.modules)
    with Runtime().entered(), Runtime().entered():
        functions = [load("steps:who", tmp_path / each) for each in "ab"]
        for who, function in zip("ab", functions, strict=True):
            assert function() == [who] * 8 + ["json"]
    assert (sys.path, set(sys.modules) - before[1]) == (before[0], set())


def test_each_run_executes_the_modules_once(tmp_path: Path) -> None:
    text = "seen = []\ndef one():\n    seen.append(1)\n    return len(seen)\n"
    write(tmp_path, steps=text + "def two():\n    import steps\n    return steps.one()\n")
    for _ in range(2):
        with Runtime().entered():
            assert load("steps:one", tmp_path)() == 1
            assert load("steps:two", tmp_path)() == 2


def test_outside_of_runs_a_changed_file_is_read_again(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path, steps=f"from helpers import number\ndef n():\n    return {'1' * number}1\n")
        write(tmp_path, helpers="number = 1" + "0" * number)
        assert load("steps:n", tmp_path)() == int("1" * (number + 1))
        assert load("steps:n", tmp_path) is load("steps:n", tmp_path)


def test_a_module_that_the_script_imported_is_not_imported_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        imported_by_the_script="def f():\n    return 1\n",
        steps="import imported_by_the_script as m\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import imported_by_the_script as module  # type: ignore[import-not-found]

    try:
        with Runtime().entered():
            assert load("imported_by_the_script:f", tmp_path) is module.f
            assert load("steps:m.f", tmp_path) is module.f
    finally:
        del sys.modules["imported_by_the_script"]


def test_names_of_python_and_of_packages_keep_their_meaning(tmp_path: Path) -> None:
    (tmp_path / "polars").mkdir()  # data, not a package
    write(
        tmp_path,
        json="def f():\n    return 'own'\n",
        steps="import json, polars\ndef f():\n    return polars.DataFrame, json.__name__\n",
    )
    import json

    with Runtime().entered():
        import polars as pl

        assert load("steps:f", tmp_path)() == (pl.DataFrame, "json")
        assert load("json:f", tmp_path)() == "own"
    assert sys.modules["json"] is json


def test_classes_can_be_pickled_and_have_hints(tmp_path: Path) -> None:
    write(
        tmp_path,
        steps=(
            "from __future__ import annotations\nfrom dataclasses import dataclass\n"
            "import typing\n@dataclass\nclass Row:\n    n: int\n    next: Row | None = None\n"
            "def hints():\n    return typing.get_type_hints(Row)\n"
        ),
    )
    with Runtime().entered():
        row: Any = load("steps:Row", tmp_path)
        assert pickle.loads(pickle.dumps(row(1, row(2)))) == row(1, row(2))
        assert load("steps:hints", tmp_path)()["n"] is int


@pytest.mark.parametrize(
    ("text", "says", "help"),
    [
        ("import nothere", "No module named 'nothere'", "install it"),
        (
            "import helpers.more",
            "No module named 'helpers.more'; 'helpers' is not a package",
            "helpers",
        ),
        ("from helpers import nothing", "cannot import name 'nothing' from 'helpers'", "folder"),
        ("1/0", "ZeroDivisionError: division by zero", "fix steps"),
    ],
)
def test_errors_call_modules_as_their_users_do(
    tmp_path: Path, text: str, says: str, help: str
) -> None:
    write(tmp_path, helpers="", steps=text)
    with Runtime().entered(), pytest.raises(ConfigError) as raised:
        load("steps:f", tmp_path)
    error = raised.value
    assert says in error.message
    assert help in (error.help or "")
    assert "_dataflare" not in f"{error.message} {error.help}"


def test_a_module_that_appears_later_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load("appears:f", tmp_path)
    write(tmp_path, appears="def f():\n    return 1\n")
    os.utime(tmp_path, (1, 1))
    assert load("appears:f", tmp_path)() == 1
