from __future__ import annotations

import sys
from pathlib import Path

import pytest
from optional_packages import package

sys.path.insert(0, str(Path(__file__).parent))
package("deltalake")
package("pyiceberg")
from lake_kit import KINDS, Lake  # noqa: E402


@pytest.fixture(params=KINDS)
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return Lake(request.param, tmp_path)
