from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.append(str(Path(__file__).parents[1]))

from postgres_kit import Database, new_database
from servers import postgres as servers
from servers import services

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[servers.PostgresServer]:
    yield from services.running("postgres")


@pytest.fixture
def database(server: servers.PostgresServer, tmp_path: Path) -> Iterator[Database]:
    """A new database of its own."""
    yield from new_database(server, f"test_{next(_numbers)}", tmp_path)


@pytest.fixture(scope="session")
def logical_server() -> Iterator[servers.PostgresServer]:
    """A server with many slots."""
    with servers.server("max_replication_slots = 20", "max_wal_senders = 20") as server:
        yield server


@pytest.fixture
def logical(logical_server: servers.PostgresServer, tmp_path: Path) -> Iterator[Database]:
    """A new database on it."""
    name = f"test_{next(_numbers)}"
    admin = Database(logical_server, "postgres", tmp_path)
    admin.execute(f"create database {name}")
    yield Database(logical_server, name, tmp_path)
    for (slot,) in admin.rows("select slot_name from pg_replication_slots"):
        admin.execute(
            f"select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}'",
            f"select pg_drop_replication_slot('{slot}')",
        )
    admin.execute(f"drop database {name} with (force)")
