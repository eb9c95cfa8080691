from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from clickhouse_kit import Database
from servers import clickhouse as servers
from servers import services

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[servers.ClickhouseServer]:
    yield from services.running("clickhouse")


@pytest.fixture
def database(server: servers.ClickhouseServer, tmp_path: Path) -> Iterator[Database]:
    """A new database of its own."""
    name = f"test_{next(_numbers)}"
    server.ask(f"create database {name}")
    yield Database(server, name, tmp_path)
    server.ask(f"drop database {name} sync")
