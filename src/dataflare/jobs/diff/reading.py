"""Read one side of a comparison into partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import polars as pl
from msgspec import Struct
from msgspec.structs import replace
from pydantic import BaseModel

from dataflare.checkpoint.home import home_of
from dataflare.checkpoint.runs import learned_by
from dataflare.jobs.diff.partitions import Partitions
from dataflare.jobs.diff.places import Side, refused
from dataflare.jobs.up_to import END, Failures, Part, port_of
from dataflare.model.batch import SharedDataBatch
from dataflare.model.new_fields import Columns
from dataflare.model.types import Schema
from dataflare.planner.bind import bind_workflow
from dataflare.planner.graph import DestinationNode, Graph, SourceNode
from dataflare.sdk.context import ConnectorContext, DestinationContext, Policy
from dataflare.sdk.destination import (
    Committable,
    Delivery,
    DestinationCapabilities,
    DestinationConnector,
    Writer,
    WriteStats,
)
from dataflare.sdk.source import SourceConnector, SupportsProjection
from dataflare.sdk.sql.source import TableSource
from dataflare.sdk.threads import in_thread

T = TypeVar("T")
Take = Callable[[pl.DataFrame], None]


class Reading(Struct, frozen=True):
    """A side that is bound. graph: what is run, with the destination `END`."""

    side: Side
    part: Part
    graph: Graph
    end: ComparedRows
    policy: Policy | None

    @property
    def schema(self) -> Schema:
        return self.part.graph.nodes[END].schema

    @property
    def table(self) -> SourceConnector | None:
        """The source whose rows are all that is read, each as it is there; None where steps change them."""
        match [node for node in self.graph if not isinstance(node, DestinationNode)]:
            case [SourceNode() as node]:
                return node.connector
        return None

    def of_table(self, connector: SourceConnector) -> Reading:
        """The same with another connector of its table."""
        nodes = {
            id_: replace(node, connector=connector) if isinstance(node, SourceNode) else node
            for id_, node in self.graph.nodes.items()
        }
        return replace(self, graph=Graph(nodes, self.graph.effects))

    def of_columns(self, names: list[str]) -> Reading:
        """The same with these columns alone, where the source can leave others unread."""
        table: Any = self.table
        if not isinstance(table, SupportsProjection) or set(names) == set(self.schema.names):
            return self
        connector: Any = table.with_columns(names)
        reading = self.of_table(connector)
        schema = self.schema.select(names)
        nodes = {
            id_: replace(node, outputs={None: schema}) for id_, node in reading.graph.nodes.items()
        }
        return replace(reading, graph=Graph(nodes, reading.graph.effects))

    def catalog_key(self) -> tuple[str, ...]:
        """The key that the catalogue of the side has."""
        nodes = [node for node in self.part.graph if isinstance(node, SourceNode)]
        if len(nodes) == 1 and isinstance(nodes[0].connector, TableSource):
            return nodes[0].connector.catalog_key()
        return ()

    async def into(self, partitions: Partitions) -> dict[str, Failures]:
        """Read all rows. Those that failed, by step."""
        self.end.take = partitions.add
        return await self.part.run(asyncio.Event(), self.policy, graph=self.graph, keep_going=True)


async def both(left: Awaitable[T], right: Awaitable[T]) -> tuple[T, T]:
    """Both results. If one of them fails, the other one is stopped first."""
    tasks = [asyncio.ensure_future(left), asyncio.ensure_future(right)]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return tasks[0].result(), tasks[1].result()


async def opened(
    side: Side, policy: Policy | None, learned: Mapping[str, Columns] | None = None
) -> Reading:
    """Bind a side. Raises what binding raises, and WorkflowError (E0129) for rows without an end and for changes
    that cannot be told from rows."""
    workflow = side.workflow
    if learned is None:
        learned = learned_by(home_of(workflow.file), workflow.name) if workflow.file else {}
    if side.written is not None:
        workflow = await _typed(side, policy)
    bound = await bind_workflow(workflow, policy=policy, learned=learned)
    end = ComparedRows(END)
    part = Part.of(workflow, bound, port_of(bound, side.step), end)
    if not part.graph.ends():
        raise refused(
            f"the rows of '{side.label}' have no end",
            "compare a table, or set mode: batch in the settings of the workflow",
        )
    for node in part.graph:
        if isinstance(node, SourceNode) and node.connector.capabilities().deletes_by_key:
            raise refused(
                f"'{side.label}' reads changes of '{node.step}', whose deletes have a key alone",
                "write them to a table with mode: mirror, and compare that",
            )
    return Reading(side, part, part.optimised(), end, policy)


async def _typed(side: Side, policy: Policy | None) -> Any:
    """The workflow that reads a file of text, with the types of the rows that are written to it."""
    assert side.written is not None
    workflow, name = side.written
    bound = await bind_workflow(workflow, policy=policy)
    node = bound.nodes[name]
    assert isinstance(node, DestinationNode)
    sources = {
        name: replace(source, schema=node.schema) for name, source in side.workflow.sources.items()
    }
    return replace(side.workflow, sources=sources)


class ComparedRows(DestinationConnector):
    """Gives each batch to `take`."""

    type = "diff"
    Config = BaseModel

    def __init__(self, name: str) -> None:
        super().__init__(None, ConnectorContext(name))
        self.take: Take = _nowhere

    def capabilities(self) -> DestinationCapabilities:
        return DestinationCapabilities(Delivery.FLEETING, "nothing is kept", changelog=True)

    async def open(self, context: DestinationContext, restored: Committable | None) -> Writer:
        return _Rows(self)


def _nowhere(frame: pl.DataFrame) -> None:
    raise AssertionError("no partitions are set")


class _Rows(Writer):
    def __init__(self, destination: ComparedRows) -> None:
        self._destination = destination

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        await in_thread(self._destination.take, batch.frame)
        return WriteStats(batch.num_rows, batch.num_bytes)
