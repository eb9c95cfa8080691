from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.append(str(Path(__file__).parents[1]))

from mysql_kit import Database, new_database
from servers import mariadb as servers
from servers import services

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[servers.MariaDbServer]:
    yield from services.running("mariadb")


@pytest.fixture
def database(server: servers.MariaDbServer, tmp_path: Path) -> Iterator[Database]:
    """A new database of its own."""
    yield from new_database(server, f"test_{next(_numbers)}", tmp_path)


@pytest.fixture
def plain(database: Database) -> Database:
    """A new database, reached without TLS."""
    from binlog_kit import Plain

    return Plain(database.server, database.name, database.folder)
