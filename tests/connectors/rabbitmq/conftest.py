from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from rabbitmq_kit import Place
from servers import services
from servers.rabbitmq import RabbitmqServer


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitmqServer]:
    """A test that kills it starts it again."""
    yield from services.running("rabbitmq")


@pytest.fixture
def place(rabbitmq: RabbitmqServer, tmp_path: Path) -> Place:
    """A quorum queue that no other test has."""
    return Place(rabbitmq, tmp_path)
