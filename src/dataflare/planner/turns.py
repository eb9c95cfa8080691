"""Which sources take turns: the tables of one source of many, so that not all of them have connections at once. Pure.

Always true: a source that takes turns waits for no other source. Where the rows of two sources meet, a step may read
one side before the other; a reader that waits for its turn there would wait for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dataflare.sdk.source import SupportsDiscovery

if TYPE_CHECKING:
    from dataflare.planner.physical import Edge, Stage


def with_turns(stages: Sequence[Stage], edges: Sequence[Edge]) -> tuple[Stage, ...]:
    """The stages, in which sources that take turns say with which family."""
    behind: dict[int, set[int]] = {stage.id: set() for stage in stages}
    for edge in edges:
        behind[edge.from_stage].add(edge.to_stage)
    reached = {stage.id: _reached(stage.id, behind) for stage in stages if stage.source}
    shared = {
        each
        for first, those in reached.items()
        for other, these in reached.items()
        if first < other
        for each in those & these
    }
    return tuple(
        replace(stage, turns=stage.name.partition(".")[0])
        if stage.id in reached and not reached[stage.id] & shared and _can_wait(stage)
        else stage
        for stage in stages
    )


def _reached(start: int, behind: dict[int, set[int]]) -> set[int]:
    found: set[int] = set()
    ahead = [start]
    while ahead:
        following = behind[ahead.pop()] - found
        found |= following
        ahead += following
    return found


def _can_wait(stage: Stage) -> bool:
    """Whether a source is one of many tables, ends, and holds no event time back."""
    source = stage.source
    return (
        "." in stage.name
        and source is not None
        and source.capabilities().bounded
        and not isinstance(source, SupportsDiscovery)
        and stage.event_time is None
    )
