"""What a command imports decides how fast it answers: the quick ones import almost nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ORDERS, environment, write

import dataflare

_LISTS_MODULES = """\
import json, sys
sys.argv = ["dataflare", *sys.argv[1:]]
import dataflare.__main__ as entry
if sys.argv[1:] == ["--version"]:
    entry.main()
else:
    from dataflare.cli import app
    app.execute(sys.argv[1:])
polars = sys.modules.get("polars")
threads = polars.thread_pool_size() if polars else None
print(json.dumps([sorted({name.partition(".")[0] for name in sys.modules}), threads]))
"""
HEAVY = {"polars", "sqlglot", "pydantic", "yaml", "typer", "rich", "asyncio", "duckdb", "pyarrow"}


def after(*args: str, cwd: Path) -> tuple[set[str], int | None]:
    """The top-level modules that a command line has imported, and how many threads Polars has."""
    done = subprocess.run(
        [sys.executable, "-c", _LISTS_MODULES, *args],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    modules, threads = json.loads(done.stdout.splitlines()[-1])
    return set(modules), threads


def test_the_version_is_answered_before_anything_is_imported(tmp_path: Path) -> None:
    modules, _ = after("--version", cwd=tmp_path)
    assert not modules & (HEAVY | {"importlib_metadata", "inspect", "argparse"})


def test_help_needs_no_data_library(tmp_path: Path) -> None:
    modules, _ = after("--help", cwd=tmp_path)
    assert not modules & {"polars", "sqlglot", "yaml", "duckdb", "pyarrow"}


def test_a_mistyped_command_is_refused_without_a_table_library(tmp_path: Path) -> None:
    modules, _ = after("vlaidate", cwd=tmp_path)
    assert not modules & (HEAVY - {"typer", "pydantic"})


def test_validate_leaves_out_what_the_workflow_does_not_use(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    modules, _ = after("validate", "orders.yaml", cwd=tmp_path)
    assert {"polars", "sqlglot"} <= modules
    unused = {
        "duckdb",
        "pyarrow",
        "numpy",
        "pandas",
        "python_calamine",
        "rich",
        "adbc_driver_sqlite",
    }
    assert not modules & unused


def test_polars_has_the_threads_that_the_workflow_grants(tmp_path: Path) -> None:
    write(tmp_path, "orders.yaml", ORDERS)
    _, threads = after("validate", "orders.yaml", cwd=tmp_path)
    assert threads == 3
    _, threads = after(
        "validate", "orders.yaml", "--set", "settings.resources.threads=1", cwd=tmp_path
    )
    assert threads == 1


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_the_package_version(flag: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", flag],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"dataflare {dataflare.__version__}\n"
