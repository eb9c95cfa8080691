"""The result of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from dataflare.errors import DataFlareError
from dataflare.model.run_status import ResultStatus, recorded

UNREAD_STATUS = 141
"""What a shell reports for a program ended by SIGPIPE."""


class RunResult(Struct, frozen=True):
    """status: see `model.run_status`.

    steps: counts by step, of this process. published: by destination, facts about what it has and where.
    notes: facts for the user that are not warnings, such as '3 files were read by earlier runs'. times: by stage, named
    after its first step, the seconds that its tasks were busy, waiting for rows, and blocked by what is behind them. slowest:
    which of them set the pace, in words; None where none did.
    """

    workflow: str
    run_id: str
    status: ResultStatus
    resumed_from: int | None
    duration_s: float
    steps: Mapping[str, Mapping[str, Any]]
    checkpoints: int
    last_checkpoint_bytes: int
    error: DataFlareError | None = None
    warnings: list[str] = field(default_factory=list)
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    slowest: str | None = None

    @property
    def exit_status(self) -> int:
        match self.status:
            case "finished" | "stopped" | "running":
                return 0
            case "interrupted":
                return 130
            case "unread":
                return UNREAD_STATUS
        return self.error.exit_status if self.error is not None else 1

    def to_json(self) -> dict[str, Any]:
        """The object that `run --json` prints."""
        return {
            "workflow": self.workflow,
            "run_id": self.run_id,
            "status": recorded(self.status),
            "resumed_from": self.resumed_from,
            "duration_s": round(self.duration_s, 3),
            "steps": {name: dict(counts) for name, counts in self.steps.items()},
            "checkpoints": {
                "completed": self.checkpoints,
                "last_bytes": self.last_checkpoint_bytes,
            },
            "written": {name: dict(facts) for name, facts in self.published.items()},
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "times": {name: dict(seconds) for name, seconds in self.times.items()},
            "slowest": self.slowest,
            "error": self.error.to_json() if self.error is not None else None,
        }
