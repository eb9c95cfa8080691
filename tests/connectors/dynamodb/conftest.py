from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from dynamodb_kit import Place
from servers import services
from servers.aws import AwsServer


@pytest.fixture(scope="session")
def aws() -> Iterator[AwsServer]:
    yield from services.running("aws")


@pytest.fixture
def place(aws: AwsServer, tmp_path: Path) -> Place:
    """A table that no other test has."""
    return Place(aws, tmp_path)
