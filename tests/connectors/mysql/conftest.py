from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.append(str(Path(__file__).parents[1] / "postgres"))  # `changing`, a source of changes

from mysql_kit import Database
from servers import mariadb as servers
from servers import services

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[servers.MariaDbServer]:
    yield from services.running("mariadb")


@pytest.fixture
def database(server: servers.MariaDbServer, tmp_path: Path) -> Iterator[Database]:
    """A new database of its own."""
    name = f"test_{next(_numbers)}"
    whole = Database(server, "test", tmp_path)
    whole.execute(f"create database {name}")
    yield Database(server, name, tmp_path)
    whole.execute(f"drop database {name}")
