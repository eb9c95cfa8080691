from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from search_kit import Place
from servers import services
from servers.opensearch import OpenSearch

_numbers = itertools.count()


@pytest.fixture(scope="session")
def opensearch() -> Iterator[OpenSearch]:
    """One node. A test that kills it starts it again."""
    yield from services.running("opensearch")


@pytest.fixture
def place(opensearch: OpenSearch, tmp_path: Path) -> Iterator[Place]:
    """The name of a new index, whose indexes are gone afterwards."""
    made = Place(opensearch, tmp_path, f"t{next(_numbers)}")
    yield made
    opensearch.ask("DELETE", f"/{made.index}*")
