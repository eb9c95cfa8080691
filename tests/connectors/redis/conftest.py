from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from redis_kit import Place
from servers import redis as servers
from servers import services


@pytest.fixture(scope="session")
def running_server() -> Iterator[servers.RedisServer]:
    yield from services.running("redis")


@pytest.fixture
def server(running_server: servers.RedisServer) -> servers.RedisServer:
    """Empty, and running whatever the test before did to it."""
    running_server.kill()
    running_server.start()
    return running_server


@pytest.fixture
def place(running_server: servers.RedisServer, tmp_path: Path) -> Iterator[Place]:
    """A key that no other test has."""
    made = Place(running_server, tmp_path)
    yield made
    made.close()
