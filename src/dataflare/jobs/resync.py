"""Ask for a table of a source of changes to be read again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import polars as pl

from dataflare.checkpoint.files import workflow_folder
from dataflare.errors import Blame, DataFlareError, RunError, WorkflowError, did_you_mean
from dataflare.expr import check_condition
from dataflare.jobs.diff import places
from dataflare.jobs.diff.reading import opened
from dataflare.planner import plan
from dataflare.planner.families import expanded
from dataflare.planner.graph import SourceNode
from dataflare.planner.stream_views import StreamView
from dataflare.sdk import resyncs
from dataflare.sdk.source import SourceConnector
from dataflare.workflow.model import InputRef, Workflow


def resync(workflow: Workflow, home: Path, table: str, where: str | None = None) -> str:
    """Ask for it, and return the name of its source. where: a condition; only these rows, and those that destinations have
    of them. Raises an error for a table that is not followed, and where a step behind it could not take its rows again."""
    sources: dict[str, SourceNode] = {}
    types: set[str] = set()
    names: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    for node in plan(workflow, home=home).written:
        if not isinstance(node, SourceNode) or not node.connector.capabilities().changelog:
            continue
        whole = node.connector.whole if isinstance(node.connector, StreamView) else node.connector
        called = {node.id}
        if isinstance(node.connector, StreamView):
            called |= {node.connector.stream.name, node.connector.stream.of.full}
        if whole.resyncs:
            sources[node.id], names[node.id] = node, called
        else:
            others[node.id] = called
            types.add(whole.type)
    found = [id_ for id_, each in names.items() if table in each]
    if not found and (any(table in each for each in others.values()) or (others and not sources)):
        raise RunError(
            f"'{table}' cannot be read again by itself: a source of type {' or '.join(sorted(types))} cannot do it, and one "
            "of type postgres or mysql can",
            code="E0809",
            help="empty its copies in the destination, and run with --fresh to read all tables of the workflow anew",
        )
    if len(found) != 1:
        known = ", ".join(sources) or "none"
        raise WorkflowError(
            f"'{table}' is not one table whose changes the workflow '{workflow.name}' follows and can read again",
            code="E0108",
            notes=[f"such tables: {known}"],
            help=did_you_mean(table, sources) or "name one of these",
        )
    name = found[0]
    if where is not None:
        _ask_for_range(workflow, home, sources[name], where)
        return name
    step = next(iter(sources[name].connector.not_truncated.values()), None)
    if step is not None:
        raise RunError(
            f"'{name}' cannot be read again: step '{step}' could not take back the rows that it has",
            code="E0809",
            help="run with --fresh, with an empty destination",
        )
    resyncs.ask(workflow_folder(home, workflow.name), name)
    return name


def _ask_for_range(workflow: Workflow, home: Path, source: SourceNode, where: str) -> None:
    connector = source.connector
    whole = connector.whole if isinstance(connector, StreamView) else connector
    stream = connector.stream.name if isinstance(connector, StreamView) else None
    if type(whole).range_of is SourceConnector.range_of:
        raise RunError(
            f"single rows of '{source.id}' cannot be read again: a source of type {whole.type} cannot do it",
            code="E0809",
            help="read the whole table again: leave --where out",
        )
    step = next(iter(connector.not_ranged.values()), None)
    if step is not None:
        raise RunError(
            f"single rows of '{source.id}' cannot be read again: step '{step}' does not mirror the table by its key, and could "
            "not take them",
            code="E0809",
            help="read the whole table again: leave --where out",
        )
    condition = check_condition(where, source.schema)
    spelled = whole.range_of(stream, condition)
    if spelled is None:
        raise RunError(
            f"the database of '{source.id}' cannot find the rows where {where}, or would find others",
            code="E0809",
            help="compare columns with values: id between 10 and 20; or read the whole table again",
        )
    key = source.connector.capabilities().key
    keys = asyncio.run(_keys(workflow, source, list(key), where))
    resyncs.ask_for_range(workflow_folder(home, workflow.name), source.id, spelled, keys)


async def _keys(workflow: Workflow, source: SourceNode, key: list[str], where: str) -> pl.DataFrame:
    """The keys of the rows that the destinations have. Of one that cannot find these rows, those of all its rows."""
    found = [pl.DataFrame(schema={name: source.schema[name].to_polars() for name in key})]
    expanded_workflow = await expanded(workflow)
    for step in expanded_workflow.destinations.values():
        if not any(_name(ref) == source.id for ref in step.inputs):
            continue
        side = places.of_step(step.name, "range", expanded_workflow, step.name)
        try:
            reading = await opened(places.filtered(side, where), None)
        except DataFlareError as error:
            if error.blame is not Blame.USER:
                raise
            reading = await opened(side, None)
        frames: list[pl.DataFrame] = []
        reading.end.take = frames.append
        failures = await reading.part.run(
            asyncio.Event(), None, graph=reading.graph, keep_going=True
        )
        if failures:
            raise RunError(
                f"rows of '{step.name}' cannot be read, so it is not known which of them are gone",
                code="E0809",
                help="read the whole table again: leave --where out",
            )
        found += [
            frame.select(pl.col(name).cast(dtype) for name, dtype in found[0].schema.items())
            for frame in frames
        ]
    return pl.concat(found).unique()


def _name(ref: InputRef) -> str:
    return ref.step if ref.output is None else f"{ref.step}.{ref.output}"
