"""A plan as text."""

from __future__ import annotations

import json
from typing import Any


def render(view: dict[str, Any]) -> str:
    """For now, the facts."""
    return json.dumps(view, indent=2)
