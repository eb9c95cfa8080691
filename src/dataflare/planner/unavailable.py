"""What the format has and this version cannot do yet is refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dataflare.errors import PlanError, raise_all

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow


def refuse_unavailable(workflow: Workflow) -> None:
    """Raise PlanError (E0314) for settings that nothing here would act on."""
    raise_all(list(_unavailable(workflow)))


def _unavailable(workflow: Workflow) -> Iterator[PlanError]:
    settings = workflow.settings
    if settings.state.backend != "memory":
        yield _error("settings.state.backend", settings.state.backend, "memory")
    if settings.schema_change != "evolve":
        yield _error("settings.schema_change", settings.schema_change, "evolve")


def _error(setting: str, value: str, instead: str) -> PlanError:
    return PlanError(
        f"{setting}: {value} is not available in this version",
        code="E0314",
        help=f"leave it out, or set it to {instead}",
    )
