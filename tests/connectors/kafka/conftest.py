from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from kafka_kit import Place
from servers import services
from servers.kafka import KafkaCluster

_numbers = itertools.count()


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaCluster]:
    """One broker. A test that kills it starts it again."""
    yield from services.running("kafka")


@pytest.fixture(scope="session")
def three_brokers() -> Iterator[KafkaCluster]:
    yield from services.running("kafka", brokers=3)


@pytest.fixture
def place(kafka: KafkaCluster, tmp_path: Path) -> Place:
    """A new topic of three partitions."""
    return Place(kafka, tmp_path, f"t{next(_numbers)}", partitions=3)
