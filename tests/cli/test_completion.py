"""The shell completes files, steps, types, functions, environments and workflows that ran."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from command_line import ORDERS, cli, command, environment, write

TYPED = [
    ("run ", ["data/", "orders.yaml"]),
    ("run data/", ["data/inner.yml"]),
    ("preview orders.yaml ", ["rows", "dear", "out"]),
    ("preview orders.yaml de", ["dear"]),
    ("run orders.yaml --env ", ["prod", "test"]),
    ("plan orders.yaml --param ", ["least="]),
    ("connectors sqli", ["sqlite"]),
    ("functions substr", ["substr", "substring"]),
    ("runs ", ["orders"]),
    ("dlq list ", ["orders"]),
    ("preview missing.yaml ", []),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("completion")
    write(made, "orders.yaml", ORDERS + "environments: {prod: {}, test: {}}\n")
    write(made, "compose.yaml", "services: {}\n")
    write(made, "data/inner.yml", ORDERS)
    assert cli("run", "orders.yaml", cwd=made).returncode == 0
    subprocess.run(["rm", "-r", made / "out"], check=True)
    return made


@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_bash_is_offered(typed: str, offered: list[str], folder: Path) -> None:
    words = f"dataflare {typed}"
    place = len(words.split()) - (not words.endswith(" "))
    env = environment(_DATAFLARE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(place))
    done = subprocess.run(command(), cwd=folder, env=env, capture_output=True, text=True)
    assert done.stderr == ""
    assert set(offered) <= set(done.stdout.split())
    if not typed.startswith("functions"):
        assert done.stdout.split() == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_show_what_a_step_is(shell: str, folder: Path) -> None:
    more = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
    env = environment(
        _DATAFLARE_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="dataflare preview orders.yaml ",
        **more,
    )
    done = subprocess.run(command(), cwd=folder, env=env, capture_output=True, text=True)
    assert "filter transformation" in done.stdout


def test_dlq_alone_explains_itself(folder: Path) -> None:
    done = cli("dlq", cwd=folder)
    assert done.returncode == 0
    assert done.stderr == ""
    for word in ("replay", "on_error: dead_letter", "dataflare dlq list orders"):
        assert word in " ".join(done.stdout.split())
