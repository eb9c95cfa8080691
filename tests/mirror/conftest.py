from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "connectors" / "kafka"))

from mirror_servers import both_servers
from servers import services
from servers.kafka import KafkaCluster


@pytest.fixture(scope="session")
def servers_to_kill() -> Iterator[dict[str, Any]]:
    """One of each kind, by the connector's name. A test that kills one starts it again."""
    with both_servers() as running:
        yield running


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaCluster]:
    yield from services.running("kafka")
