"""What a run is asked for, besides its workflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from dataflare.jobs.progress import Progress
from dataflare.jobs.result import RunResult
from dataflare.sdk.context import Policy


class RunOptions(Struct, frozen=True):
    """home: where state, checkpoints and history lie. adopt: take over what another home wrote to the
    destinations. for_s: stop after this long. listener: takes news
    while the run goes on. tell: says how it ended, before the run counts as told of."""

    home: Path
    fresh: bool = False
    accept_changes: bool = False
    adopt: bool = False
    for_s: float | None = None
    listener: Callable[[Progress], None] | None = None
    policy: Policy | None = None
    tell: Callable[[RunResult], None] | None = None
