"""The first rows that reach a step. It writes to no destination."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl
from msgspec import Struct

from dataflare.checkpoint.home import home_of
from dataflare.checkpoint.runs import learned_by
from dataflare.jobs.collector import CollectorDestination
from dataflare.jobs.learning import refuse_more, with_more
from dataflare.jobs.up_to import END, Failures, Part, port_of, with_tables
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.model.new_fields import Columns, FieldsAppeared
from dataflare.planner.bind import bind_workflow
from dataflare.planner.graph import SourceNode
from dataflare.sdk.context import Policy

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow

OPERATION = "_op"
"""What a row of a changelog is: insert, update_before, update_after or delete."""


def preview(
    workflow: Workflow, step: str, rows: int = 20, *, policy: Policy | None = None
) -> pl.DataFrame:
    """The first `rows` rows that leave `step` or `step.output`, or that reach a destination.

    The run stops as soon as there are enough rows. Raises PlanError (E0108) for an unknown step, and
    the errors that a run raises.
    """
    return look(workflow, step, rows, policy=policy).rows


class Look(Struct, frozen=True):
    """rows: the first ones. findings: by source before the step, facts about its data. doubts: by source,
    what looks wrong but is not an error. failures: by step, rows that were read and left out."""

    rows: pl.DataFrame
    findings: dict[str, Mapping[str, str]]
    doubts: dict[str, Sequence[str]]
    failures: dict[str, Failures]


def look(workflow: Workflow, step: str, rows: int = 20, *, policy: Policy | None = None) -> Look:
    """As `preview`, with the findings of the sources."""
    learned: Mapping[str, Columns] = learned_by(home_of(workflow.file), workflow.name)
    for replans in itertools.count(1):
        try:
            return asyncio.run(_look(workflow, step, rows, policy, learned))
        except FieldsAppeared as appeared:
            refuse_more(appeared, replans)
            learned = with_more(learned, appeared)
    raise AssertionError("unreachable")


def with_words(frame: pl.DataFrame) -> pl.DataFrame:
    """A changelog with the kinds of its rows as words in `_op`, in place of their numbers."""
    if KIND_COLUMN not in frame.columns:
        return frame
    kinds = {int(kind): kind.name.lower() for kind in RowKind}
    words = pl.col(KIND_COLUMN).replace_strict(kinds, return_dtype=pl.String).alias(OPERATION)
    rows = frame.drop(KIND_COLUMN)
    return rows if OPERATION in rows.columns else rows.with_columns(frame.select(words))


async def _look(
    workflow: Workflow,
    step: str,
    rows: int,
    policy: Policy | None,
    learned: Mapping[str, Columns],
) -> Look:
    workflow = await with_tables(workflow, step, policy)
    bound = await bind_workflow(workflow, policy=policy, learned=learned)
    stop = asyncio.Event()
    collector = CollectorDestination(rows, stop, END)
    part = Part.of(workflow, bound, port_of(bound, step), collector)
    failures = await part.run(stop, policy)
    sources = [node for node in part.graph if isinstance(node, SourceNode)]
    return Look(
        with_words(collector.frame(part.graph.nodes[END].schema)),
        {node.step: node.connector.findings() for node in sources},
        {node.step: node.connector.doubts() for node in sources},
        failures,
    )
