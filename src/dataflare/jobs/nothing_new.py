"""A run without new rows does not replace the content of a destination with mode overwrite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataflare.planner import Plan


async def nothing_to_replace_with(plan: Plan, carried: Mapping[str, Any]) -> bool:
    """Whether the run would replace rows by nothing, because earlier runs have read all files. carried:
    by source, from the last finished run."""
    stages = plan.stages.stages
    sources = {stage.name: stage.source for stage in stages if stage.source is not None}
    replaces = any(
        stage.destination is not None and stage.destination.mode == "overwrite" for stage in stages
    )
    if not replaces or any(
        not source.lists_only_new
        or source.reads_all()
        or not source.capabilities().bounded
        or not carried.get(name)
        for name, source in sources.items()
    ):
        return False
    for name, source in sources.items():
        if await source.splits(carried[name]):
            return False
    return True
