from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from nats_kit import Place
from servers import services
from servers.nats import NatsServer


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """A test that kills it starts it again."""
    yield from services.running("nats")


@pytest.fixture
def place(nats_server: NatsServer, tmp_path: Path) -> Place:
    """A stream that no other test has."""
    return Place(nats_server, tmp_path)
