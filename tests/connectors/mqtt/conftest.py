from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from mqtt_kit import Place
from servers import services
from servers.mosquitto import MosquittoServer


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[MosquittoServer]:
    """A test that kills it starts it again."""
    yield from services.running("mosquitto")


@pytest.fixture
def place(mosquitto: MosquittoServer, tmp_path: Path) -> Place:
    """A topic that no other test has."""
    return Place(mosquitto, tmp_path)
