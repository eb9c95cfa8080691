"""What comes back from a workflow written in Python: a plan that draws itself, a run's outcome."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dataflare.errors import ConfigError, DataFlareError, did_you_mean
from dataflare.model.record import Discreet
from dataflare.sdk.registry import missing_library
from dataflare.workflow.dsl.html import outcome_html

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from dataflare import Plan, RunResult


class DrawnPlan(Struct, frozen=True):
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


class Outcome(Discreet, frozen=True):
    """How a run went. kept: by `memory` destination, the rows that this run added."""

    hidden = ("kept",)

    result: RunResult
    kept: Mapping[str, pl.DataFrame]

    @property
    def status(self) -> str:
        """finished, failed, stopped or interrupted."""
        return self.result.status

    @property
    def error(self) -> DataFlareError | None:
        """Why it failed, if it did."""
        return self.result.error

    @property
    def duration_s(self) -> float:
        """How long it took, in seconds."""
        return self.result.duration_s

    @property
    def errors(self) -> dict[str, int]:
        """By step, how many rows failed and were left out; steps without any are not named."""
        return self._counted("errors")

    @property
    def dead_letters(self) -> dict[str, int]:
        """By step, how many rows became dead letters; steps without any are not named."""
        return self._counted("dead_letters")

    def _counted(self, what: str) -> dict[str, int]:
        counted = {name: int(each[what] or 0) for name, each in self.result.steps.items()}
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

        The Polars DataFrame is also an Arrow stream, which any Arrow library takes without a copy.
        """
        if name in self.kept:
            return self.kept[name]
        raise ConfigError(
            f"there is no memory destination '{name}'",
            code="E0405",
            notes=[f"memory destinations: {', '.join(self.kept) or 'none'}"],
            help=did_you_mean(name, self.kept) or f"write to one: .to('{name}', 'memory')",
        )

    def arrow(self, name: str) -> pa.Table:
        """The same rows as a table of pyarrow. Raises ConfigError (E0405, and E0402 where pyarrow is
        not installed)."""
        frame = self.frame(name)
        try:
            import pyarrow
        except ModuleNotFoundError as error:
            raise missing_library("outcome.arrow", error) from error
        return pyarrow.table(frame)

    def _repr_html_(self) -> str:
        return outcome_html(self.result, self.kept)
