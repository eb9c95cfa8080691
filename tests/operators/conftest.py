"""Every query of these tests is compared with one that its operators describe anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from checked_queries import checked_queries


@pytest.fixture(autouse=True)
def _checked_queries() -> Iterator[None]:
    with checked_queries():
        yield
