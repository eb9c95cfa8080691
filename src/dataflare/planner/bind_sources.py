"""The first part of turning a workflow into a logical plan: the sources, with their schemas or streams.

Always true: a source with streams has a node for each stream that is read, and they share one connector.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from dataflare.errors import Blame, DataFlareError, ManyErrors, Retry
from dataflare.model.batch import Kinds
from dataflare.model.new_fields import Columns
from dataflare.model.types import Schema
from dataflare.model.width import check_width, columns_bounded, field_count
from dataflare.operators.base import LookupTable
from dataflare.operators.names import not_reserved
from dataflare.planner import event_time
from dataflare.planner.fallbacks import check_fallback
from dataflare.planner.families.tables import TABLES
from dataflare.planner.graph import Node, Port, SourceNode
from dataflare.planner.stream_views import StreamView
from dataflare.planner.unchecked import (
    Unchecked,
    unasked_source,
    unasked_tables,
    unread_source,
    whole_schema,
)
from dataflare.resilience.retry import Retries
from dataflare.sdk import registry as connectors
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.source import SourceConnector
from dataflare.workflow.load import bind as bind_config
from dataflare.workflow.model import InputRef, SourceStep, Workflow

_SAMPLED = ("csv", "ndjson", "json", "excel")
"""Formats of files that have no types of their own."""
_BOUNDS: Mapping[str, tuple[Any, str]] = {
    "stop": (Literal["latest"] | None, "stop: latest"),
    "bounded": (bool, "bounded: true"),
    "rows": (int | None, "rows: N"),
}
"""The options by which sources without end get one, with their types."""

Outputs = Mapping[str | None, Schema]


class SourceBinder:
    """Binds the sources of a workflow.

    unchecked: what could not be checked offline. connectors: the sources, by step. outputs: by step; None if
    they are unknown. open_ended: the steps whose outputs are not known, because the tables of a source are not.
    matched: by step as it is written and pattern of columns, whether a column matches it. outputs_read: those that some step reads. timed: the steps whose rows have an event time.
    """

    def __init__(
        self,
        workflow: Workflow,
        policy: Policy,
        offline: bool,
        retries: Retries,
        inputs: bool,
        learned: Mapping[str, Columns],
        folder: Path | None = None,
    ) -> None:
        self._folder = folder
        self.workflow, self.policy, self.offline, self.inputs = workflow, policy, offline, inputs
        self.retries, self.learned = retries, learned
        self.unchecked: list[Unchecked] = []
        self.nodes: dict[str, Node] = {}
        self.errors: list[DataFlareError] = []
        self.connectors: dict[str, SourceConnector] = {}
        self.outputs: dict[str, Outputs | None] = {}
        self.outputs_of: dict[str, tuple[str, ...]] = {}
        self.outputs_read = {
            (ref.step, ref.output) for step in workflow.steps() for ref in step.inputs
        }
        self.open_ended: set[str] = set()
        self._shared: dict[str, dict[str, Any]] = {}
        self.matched: dict[tuple[str, str], bool] = {}
        self.streams: dict[str, frozenset[str]] = {}
        self.endless: set[str] = set()
        self.timed: set[str] = set()
        self.timeless: set[str] = set()
        """Steps that were not bound and whose rows have no event time for certain."""
        self.kinds: dict[str, Kinds] = {}
        self.tables: dict[str, LookupTable] = {}

    def _all_sources(self) -> dict[str, SourceConnector]:
        """By step, the sources of the file and those that are described inside a lookup."""
        sources = dict(self.connectors)
        for step, table in self.tables.items():
            if isinstance(table.source, SourceConnector) and table.name == step:
                sources[step] = table.source
        return sources

    def how_to_bound(self) -> str:
        """The option by which each endless source ends."""
        options: dict[str, str] = {}
        for name in sorted(self.endless & self.connectors.keys()):
            fields = self.connectors[name].Config.model_fields
            for option, (type_, text) in _BOUNDS.items():
                if option in fields and fields[option].annotation == type_:
                    options[name] = text
        if not options:
            return "use sources that end"
        return "bound the sources: " + ", ".join(f"{text} in '{n}'" for n, text in options.items())

    async def sources(self) -> None:
        for name, step in self.workflow.sources.items():
            self.outputs[name], self.outputs_of[name] = None, ()
            try:
                connector = self._source(step.type, step.config, name, step.schema)
                self.connectors[name] = connector
                check_fallback(self.workflow, step)
                connector.has_event_time = step.event_time is not None
                if not connector.capabilities().bounded:
                    self.endless.add(name)
                if step.event_time is not None:
                    self.timed.add(name)
                if await self._add_streams(connector, step):
                    continue
                schema = await self._schema(connector, step)
                self._check(schema, step)
            except DataFlareError as error:
                self._note(error, step)
                continue
            if schema is None:
                continue
            self.outputs[name] = {None: schema}
            if (name, None) in self.outputs_read:
                self.nodes[name] = SourceNode(
                    name, name, step.type, {None: schema}, connector, all_columns=len(schema)
                )
        self.errors += event_time.endless_in_batch(self.workflow, self.endless)

    def _check(self, schema: Schema | None, step: SourceStep) -> None:
        """Raise an error for columns that no step may have, and for an event time that does not fit."""
        not_reserved(
            step.name,
            schema.names if schema else (),
            "rename it where the rows come from, or list the columns to read: columns: [...]",
        )
        if step.event_time is not None and schema is not None:
            event_time.event_time_of(step, schema)

    async def _add_streams(self, connector: SourceConnector, step: SourceStep) -> bool:
        """Add the nodes of a source with streams. Returns whether it is one."""
        name = step.name
        unlisted = TABLES in step.config and name not in (self.workflow.families or {})
        if self.offline and not connector.capabilities().local and not unlisted:
            return False
        if self.offline and unlisted:
            del self.outputs_of[name]
            self.open_ended.add(name)
            self.unchecked.append(unasked_tables(step))
            return True
        retrying = self.retries.of(name)
        if not self.offline:
            await retrying.call(connector.validate)
        streams = await retrying.call(connector.streams)
        if streams is None:
            return False
        names = self.streams[name] = frozenset(stream.name for stream in streams)
        self.outputs[name] = {stream.name: stream.columns for stream in streams}
        self.outputs_of[name] = tuple(stream.name for stream in streams)
        for stream in streams:
            if (name, stream.name) in self.outputs_read:
                self._check(stream.columns, step)
                self._add_stream(StreamView(connector, stream, names), step)
        return True

    def _add_stream(self, view: StreamView, step: SourceStep) -> None:
        columns, port = view.stream.columns, self._port(InputRef(step.name, view.stream.name))
        self.nodes[port.node] = SourceNode(
            port.node, step.name, step.type, {None: columns}, view, all_columns=len(columns)
        )

    def _port(self, ref: InputRef) -> Port:
        """The output that an input of a step is. Each stream of a source is a node."""
        if ref.output in self.streams.get(ref.step, ()):
            return Port(str(ref))
        return Port(ref.step, ref.output)

    def _context(self, step: str) -> ConnectorContext:
        memory = self.workflow.settings.resources.memory
        family, dot, stream = step.partition(".")
        return ConnectorContext(
            step,
            self.workflow.base,
            self.policy,
            memory=memory,
            folder=self._folder,
            shared=self._shared.setdefault(family, {}) if dot else None,
            table=(self.workflow.families or {}).get(family, {}).get(stream),
        )

    def _source(
        self, type_: str, config: Any, name: str, contract: Schema | None = None
    ) -> SourceConnector:
        class_ = connectors.source(type_)
        bound: BaseModel = bind_config(class_.Config, config, step=name)
        connector = class_(bound, self._context(name))
        connector.contract = contract
        connector.learned = self.learned.get(name, {})
        connector.streams_learned = {
            step.removeprefix(f"{name}."): columns
            for step, columns in self.learned.items()
            if step.startswith(f"{name}.")
        }
        connector.in_batch = self.workflow.settings.mode == "batch"
        connector.adds_columns = self.workflow.settings.schema_change == "evolve"
        return connector

    async def _schema(self, connector: SourceConnector, step: SourceStep) -> Schema | None:
        if self.offline:
            if not connector.capabilities().local:
                self.unchecked.append(unasked_source(step, more=connector.finds_new_fields))
                return whole_schema(connector, step)
            try:
                return await self._bounded_schema(connector)
            except DataFlareError as error:
                # A missing file may still appear, so the schema is only unknown. A wrong config is an error.
                if error.blame is Blame.SYSTEM and not (self.inputs and error.retry is Retry.NEVER):
                    self.unchecked.append(unread_source(step, error))
                    return step.schema
                raise
        return await self._ask_schema(connector, step.name)

    async def _ask_schema(self, connector: SourceConnector, step: str) -> Schema:
        """Ask a source's system for its columns."""
        retrying = self.retries.of(step)
        await retrying.call(connector.validate)
        return await retrying.call(partial(self._bounded_schema, connector))

    async def _bounded_schema(self, connector: SourceConnector) -> Schema:
        """The columns of a source. Raises DataError (E0561) for more than the settings allow."""
        with columns_bounded(self.workflow.settings.resources.columns):
            schema = await connector.schema()
            check_width(field_count(field.type for field in schema))
        return schema

    def _types_of_samples(self, step: Any) -> list[str]:
        """Notes on the sources before a step whose types are those of a sample: a text may be there for one cell."""
        above, waiting = set[str](), [step]
        while waiting:
            refs = {ref.step for ref in waiting.pop().inputs} - above
            above |= refs
            waiting += [self.workflow.step(name) for name in refs]
        return [
            f"the types of '{name}' come from a sample of its rows: name the type of a column in its 'schema'"
            for name, connector in sorted(self.connectors.items())
            if name in above
            and self.workflow.sources[name].schema is None
            and connector.findings().get("format") in _SAMPLED
        ]

    def _note(self, error: DataFlareError, step: Any) -> None:
        if isinstance(error, UnknownSchema):
            return
        parts = error.errors if isinstance(error, ManyErrors) else [error]
        for part in parts:
            self.errors.append(part.at(step=step.name, spot=step.place_of(part)))


class UnknownSchema(DataFlareError):
    """Ends the binding of a step whose schema is unknown offline. It is not an error."""

    def __init__(self) -> None:
        super().__init__("the schema is not known")
