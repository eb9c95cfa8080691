from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "mysql"))
sys.path.append(str(Path(__file__).parents[1] / "postgres"))

import mysql_kit
import postgres_kit
from server_databases import ServerDatabase
from servers import services

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[object]:
    yield from services.running("postgres")


@pytest.fixture(scope="session")
def mysql() -> Iterator[object]:
    yield from services.running("mariadb")


@pytest.fixture(params=["postgres", "mysql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerDatabase]:
    """A new database of its own on each server."""
    kit = mysql_kit if request.param == "mysql" else postgres_kit
    server = request.getfixturevalue(request.param)
    yield from kit.new_database(server, f"served_{next(_numbers)}", tmp_path)
