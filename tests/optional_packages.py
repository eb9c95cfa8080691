"""Packages of extras that a test needs: without one the test is skipped, but in CI it fails."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def package(name: str) -> Any:
    """The module. Raises pytest's own outcomes where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = f"the package of '{name}' is missing: pip install -e '.[dev]' ({error})"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing, allow_module_level=True)
