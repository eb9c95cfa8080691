from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from pulsar_kit import Place
from servers import services
from servers.pulsar import PulsarServer


@pytest.fixture(scope="session")
def pulsar_server() -> Iterator[PulsarServer]:
    """A test that kills it starts it again."""
    yield from services.running("pulsar")


@pytest.fixture
def place(pulsar_server: PulsarServer, tmp_path: Path) -> Place:
    """A topic that no other test has."""
    return Place(pulsar_server, tmp_path)
