"""Counts per step of one run. Counted per batch, never per row.

Always true: `errors`, `dead_letters` and `late` are exact; a row count that fusion or pushdown makes
unknowable becomes None and stays None.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from dataflare.errors import DataError

_SHARE_FROM_ROWS = 10_000


class LeftOut(Struct):
    """A field that a source's columns lack. place: of the first row that has a value there."""

    rows: int
    place: str


class StepMetrics(Struct):
    """rows_in and rows_out: None once unknowable. tasks and ended: its parallel copies. left_out: by
    path, the fields that its columns lack."""

    kind: str = "transformation"
    rows_in: int | None = 0
    rows_out: int | None = 0
    bytes_out: int = 0
    errors: int = 0
    dead_letters: int = 0
    late: int = 0
    seconds: float = 0.0
    tasks: int = 0
    ended: int = 0
    warnings: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)

    def leave_out(self, path: str, found: LeftOut) -> None:
        before = self.left_out.setdefault(path, LeftOut(0, found.place))
        before.rows += found.rows

    @property
    def done(self) -> bool:
        """Whether every copy has come to its end."""
        return self.tasks > 0 and self.ended >= self.tasks

    def add_in(self, rows: int | None) -> None:
        self.rows_in = None if rows is None or self.rows_in is None else self.rows_in + rows

    def add_out(self, rows: int | None, num_bytes: int = 0) -> None:
        self.rows_out = None if rows is None or self.rows_out is None else self.rows_out + rows
        self.bytes_out += num_bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "bytes_out": self.bytes_out,
            "errors": self.errors,
            "dead_letters": self.dead_letters,
            "late": self.late,
        }


class JobMetrics:
    """All steps of a run, by name."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self.steps = {name: StepMetrics(kind) for name, kind in kinds.items()}
        self.errors_max: dict[str, int | float] = {}
        self._inner: dict[str, StepMetrics] = {}

    def step(self, name: str) -> StepMetrics:
        """The counts of a step; those of stages no user wrote (dead letters) are kept apart."""
        return self.steps.get(name) or self._inner.setdefault(name, StepMetrics("destination"))

    def start_over(self) -> None:
        """Forget all counts: what was counted is taken back."""
        self.steps = {name: StepMetrics(step.kind) for name, step in self.steps.items()}
        self._inner.clear()

    def check_errors(self) -> None:
        """Raise DataError (E0530) for a step with more failed rows than `max_errors` allows. A
        share is judged from 10,000 rows on."""
        for name, most in self.errors_max.items():
            step = self.steps[name]
            seen = max(step.rows_in or 0, (step.rows_out or 0) + step.errors)
            allowed = most if isinstance(most, int) else most * seen
            if isinstance(most, float) and seen < _SHARE_FROM_ROWS:
                continue
            if step.errors > allowed:
                shown = f"{most:,}" if isinstance(most, int) else f"{most:.3g} of {seen:,} rows"
                raise DataError(
                    f"step '{name}': {step.errors:,} rows failed, more than max_errors allows ({shown})",
                    code="E0530",
                    step=name,
                    help="look at the dead letters or warnings, mend the data, or raise max_errors",
                )

    def to_json(self) -> dict[str, Any]:
        return {name: step.to_json() for name, step in self.steps.items()}
