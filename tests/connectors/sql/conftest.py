from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(scope="session", params=["sqlite", "duckdb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
