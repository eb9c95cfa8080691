from __future__ import annotations

import pytest


@pytest.fixture(scope="session", params=["sqlite", "duckdb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
