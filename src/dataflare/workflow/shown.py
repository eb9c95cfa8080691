"""Config as it may be shown: secrets by name, passwords hidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.model.text import SourceText
from dataflare.security.redact import MASK, is_secret_name, redact_connections


def shown(value: Any, *, key: str = "") -> Any:
    """The value as plain JSON. key: its name, which may mean that it is a secret."""
    match value:
        case SourceText():
            if any(variable.secret for variable in value.variables):
                return redact_connections(value.shown)
            if is_secret_name(key):
                return value.shown if value.variables else MASK
            return redact_connections(str(value))
        case str():
            return MASK if is_secret_name(key) else redact_connections(value)
        case Mapping():
            return {str(name): shown(item, key=str(name)) for name, item in value.items()}
        case list() | tuple():
            return [shown(item, key=key) for item in value]
        case None | bool() | int() | float():
            return MASK if is_secret_name(key) and value is not None else value
    return str(value)
