"""What comes back from a workflow written in Python: a plan that draws itself, a run's outcome."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dataflare.errors import ConfigError, DataFlareError, did_you_mean

if TYPE_CHECKING:
    import polars as pl

    from dataflare import Plan, RunResult


@dataclass(frozen=True)
class DrawnPlan:
    """A plan. In a notebook it is its drawing, printed it is its text."""

    plan: Plan

    @property
    def guarantees(self) -> dict[str, str]:
        """What each destination is promised: `exactly once`, `effectively once`, ..."""
        promised = self.view()["guarantees"]
        return {name: str(each["level"]) for name, each in promised.items()}

    def view(self) -> dict[str, Any]:
        """The plan as JSON."""
        return self.plan.view()

    def draw(self, format: str = "svg") -> str:
        """The plan as `text`, `mermaid`, `dot` or `svg`."""
        drawing = importlib.import_module(f"dataflare.planner.render.{format}")
        return str(drawing.render(self.view()))

    def __str__(self) -> str:
        return self.draw("text")

    def _repr_svg_(self) -> str:
        return self.draw("svg")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"image/svg+xml": self.draw("svg"), "text/plain": str(self)}


@dataclass(frozen=True)
class Outcome:
    """How a run went. kept: by `memory` destination, the rows that this run added."""

    result: RunResult
    kept: Mapping[str, pl.DataFrame] = field(repr=False)

    @property
    def status(self) -> str:
        """finished, failed, stopped or interrupted."""
        return self.result.status

    @property
    def error(self) -> DataFlareError | None:
        """Why it failed, if it did."""
        return self.result.error

    @property
    def errors(self) -> dict[str, int]:
        """By step, how many rows failed and were left out; steps without any are not named."""
        counted = {name: int(each["errors"]) for name, each in self.result.steps.items()}
        return {name: rows for name, rows in counted.items() if rows}

    @property
    def warnings(self) -> list[str]:
        return self.result.warnings

    @property
    def counts(self) -> dict[str, dict[str, Any]]:
        """By step: rows_in, rows_out, errors, dead_letters, ..."""
        return {name: dict(each) for name, each in self.result.steps.items()}

    @property
    def published(self) -> Mapping[str, Mapping[str, Any]]:
        """By destination, what lies where."""
        return self.result.published

    def frame(self, name: str) -> pl.DataFrame:
        """The rows that a `memory` destination took in this run. Raises ConfigError (E0405).

        It is a Polars DataFrame, and as such also an Arrow stream: `pyarrow.table(frame)`.
        """
        if name in self.kept:
            return self.kept[name]
        raise ConfigError(
            f"there is no memory destination '{name}'",
            code="E0405",
            notes=[f"memory destinations: {', '.join(self.kept) or 'none'}"],
            help=did_you_mean(name, self.kept) or f"write to one: .to('{name}', 'memory')",
        )
