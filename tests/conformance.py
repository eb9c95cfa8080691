"""The marks of connectors: which laws do not hold for one, and why. They stand in docs/conformance.yaml, from which each
connector's page has its table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.source import SourceConnector
from dataflare.testing import check_destination, check_source

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


def keeps_source_laws(type_: str, make: Callable[[], SourceConnector], **more: Any) -> None:
    """As `source_laws`, in a loop of its own."""
    asyncio.run(source_laws(type_, make, **more))


def keeps_destination_laws(type_: str, *given: Any, **more: Any) -> None:
    """As `destination_laws`, in a loop of its own."""
    asyncio.run(destination_laws(type_, *given, **more))


async def source_laws(type_: str, make: Callable[[], SourceConnector], **more: Any) -> None:
    """Check a source against the laws, with its marks. more: what `check_source` takes."""
    replay = marks()[type_]["source"].get("replay", "exact")
    assert make().capabilities().replay.value == replay, "the mark says another `replay`"
    await check_source(make, gaps=gaps(type_, "source"), **more)


async def destination_laws(
    type_: str, make: Callable[[Path], DestinationConnector], read: Any, folder: Path, **more: Any
) -> None:
    """Check a destination against the laws, with its marks. more: what `check_destination` takes."""
    delivery = marks()[type_]["destination"].get("delivery", "exactly once")
    assert make(folder).capabilities().delivery.value == delivery, "the mark says another delivery"
    marked = gaps(type_, "destination")
    await check_destination(make, read, folder, gaps=marked, **more)
