from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from postgres_kit import Database
from servers import postgres as servers
from servers import services

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[servers.PostgresServer]:
    yield from services.running("postgres")


@pytest.fixture
def database(server: servers.PostgresServer, tmp_path: Path) -> Iterator[Database]:
    """A new database of its own."""
    name = f"test_{next(_numbers)}"
    Database(server, "postgres", tmp_path).execute(f"create database {name}")
    yield Database(server, name, tmp_path)
    Database(server, "postgres", tmp_path).execute(f"drop database {name} with (force)")
