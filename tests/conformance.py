"""The marks of connectors: which laws do not hold for one, and why. They stand in docs/conformance.yaml, from which each
connector's page has its table."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

MARKS = Path(__file__).parents[1] / "docs" / "conformance.yaml"


@cache
def marks() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(MARKS.read_text())
    return loaded


def gaps(type_: str, role: str) -> dict[str, str]:
    """By law, why it does not hold. A suite that is given them fails where one of these holds. role: source, destination
    or lookup."""
    found: dict[str, str] = marks()[type_][role].get("gaps") or {}
    return found
