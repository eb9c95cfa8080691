"""The results of a Python workflow: a plan with its drawing, and the outcome of a run."""

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
    """A plan. A notebook shows its drawing, and `print` its text."""

    plan: Plan

    @property
    def guarantees(self) -> dict[str, str]:
        """The guarantee of each destination: `exactly once`, `effectively once`, ..."""
        guarantees = self.view()["guarantees"]
        return {name: str(each["level"]) for name, each in guarantees.items()}

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
    """The outcome of a run. kept: by `memory` destination, the rows that this run added."""

    hidden = ("kept",)

    result: RunResult
    kept: Mapping[str, pl.DataFrame]

    @property
    def run_id(self) -> str:
        """The id of the run, as in its log, and in `settings.run_column`."""
        return self.result.run_id

    @property
    def status(self) -> str:
        """finished, failed, stopped or interrupted."""
        return self.result.status

    @property
    def error(self) -> DataFlareError | None:
        """The error of a failed run, or None."""
        return self.result.error

    @property
    def duration_s(self) -> float:
        """The duration of the run, in seconds."""
        return self.result.duration_s

    @property
    def errors(self) -> dict[str, int]:
        """By step, the number of failed rows that were left out. Steps without such rows are left out."""
        return self._counted("errors")

    @property
    def dead_letters(self) -> dict[str, int]:
        """By step, the number of dead letters. Steps without dead letters are left out."""
        return self._counted("dead_letters")

    def _counted(self, counter: str) -> dict[str, int]:
        counts = {name: int(each[counter] or 0) for name, each in self.result.steps.items()}
        return {name: rows for name, rows in counts.items() if rows}

    @property
    def warnings(self) -> list[str]:
        return self.result.warnings

    @property
    def counts(self) -> dict[str, dict[str, Any]]:
        """By step: rows_in, rows_out, errors, dead_letters, ..."""
        return {name: dict(each) for name, each in self.result.steps.items()}

    @property
    def published(self) -> Mapping[str, Mapping[str, Any]]:
        """By destination, facts about its rows and their place."""
        return self.result.published

    def frame(self, name: str) -> pl.DataFrame:
        """The rows that this run wrote to a `memory` destination. Raises ConfigError (E0405).

        The Polars DataFrame is also an Arrow stream, which any Arrow library reads without a copy.
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
