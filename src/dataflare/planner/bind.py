"""Turn a workflow into a logical plan: find the step types, check configs, infer schemas.

It collects as many errors as possible in one pass. A step behind a faulty step is still checked for
what needs no schema: syntax and function names of its expressions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from pydantic import BaseModel

from dataflare.errors import (
    Blame,
    DataFlareError,
    ManyErrors,
    PlanError,
    Retry,
    did_you_mean,
    raise_all,
)
from dataflare.model.batch import Kinds
from dataflare.model.new_fields import Columns
from dataflare.model.types import Schema
from dataflare.operators import registry as operators
from dataflare.operators.applied import applied_first
from dataflare.operators.base import BindContext, Bound, LookupTable, RowOperator
from dataflare.operators.lookup import LookupConfig
from dataflare.operators.names import not_reserved
from dataflare.operators.primitives import conformed
from dataflare.operators.schema_change import refuse_change, without
from dataflare.operators.union import merged
from dataflare.planner import event_time
from dataflare.planner.change_order import check_deletes_by_key, check_lookups
from dataflare.planner.changelog import check_changelogs, input_kinds, joined_changelogs
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Node,
    Port,
    RowsNode,
    SourceNode,
    StatefulNode,
    UnionNode,
)
from dataflare.planner.guarantees import demand, guarantees
from dataflare.planner.lookups import check_bounded, own_table, unknown_table
from dataflare.planner.retries import retry_policies
from dataflare.planner.step_order import in_order
from dataflare.planner.syntax import syntax_only
from dataflare.planner.targets import never_ends, nothing_in_place, one_writer_each
from dataflare.planner.unchecked import (
    Unchecked,
    unasked_destination,
    unasked_source,
    unasked_table,
    unknown_columns,
    unread_source,
    whole_schema,
)
from dataflare.planner.written_as import refuse_replaced
from dataflare.resilience.retry import Retries
from dataflare.sdk import registry as connectors
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.lookup import LookupConnector
from dataflare.sdk.source import SourceConnector
from dataflare.workflow.load import bind as bind_config

if TYPE_CHECKING:
    from dataflare.workflow.model import DestinationStep, SourceStep, TransformationStep, Workflow

Outputs = Mapping[str | None, Schema]


async def bind_workflow(
    workflow: Workflow,
    *,
    policy: Policy | None = None,
    offline: bool = False,
    retries: Retries | None = None,
    learned: Mapping[str, Columns] | None = None,
    folder: Path | None = None,
) -> Graph:
    """The unoptimised plan. offline: do not connect to other machines, and accept sources whose schema
    is then unknown. learned: by source, the columns that earlier runs found in its rows. folder: of the
    workflow's state, where connectors may keep theirs. Raises one error or ManyErrors."""
    bound = await bind_and_note(
        workflow, policy=policy, offline=offline, retries=retries, learned=learned, folder=folder
    )
    return bound.graph()


async def bind_and_note(
    workflow: Workflow,
    *,
    policy: Policy | None = None,
    offline: bool = False,
    inputs: bool = False,
    retries: Retries | None = None,
    learned: Mapping[str, Columns] | None = None,
    folder: Path | None = None,
) -> Binder:
    """Bind the steps, and note what could not be checked. inputs: a missing input on this machine is an
    error, also offline. Raises one error or ManyErrors."""
    retries = retries or Retries(retry_policies(workflow))
    binder = Binder(workflow, policy or Policy(), offline, retries, inputs, learned or {}, folder)
    await binder.sources()
    await binder.transformations()
    await binder.destinations()
    raise_all(binder.errors)
    return binder


class Binder:
    """Binds the steps of a workflow, section by section.

    unchecked: what could not be checked offline. connectors: the sources, by step. outputs: by step; None if
    they are unknown. outputs_read: those that some step reads. timed: the steps whose rows have an event time.
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
        self.endless: set[str] = set()
        self.timed: set[str] = set()
        self.kinds: dict[str, Kinds] = {}
        self.tables: dict[str, LookupTable] = {}

    def graph(self) -> Graph:
        """The nodes as a plan. Raises the errors that only the whole plan shows, with their place."""
        graph = joined_changelogs(Graph(self.nodes))
        streaming = event_time.is_streaming(self.workflow, self.endless)
        graph = event_time.stamped(graph, self.workflow, streaming=streaming)
        settings = self.workflow.settings
        try:
            check_changelogs(graph)
            check_lookups(graph)
            check_deletes_by_key(graph)
            event_time.refuse_repeated(graph)
            event_time.refuse_zoneless(graph, self.workflow)
            one_writer_each(graph, self.workflow)
            nothing_in_place(graph, self.workflow, self._all_sources())
            refuse_replaced(graph)
            demand(guarantees(graph), settings.guarantee)
        except DataFlareError as error:
            step = self.workflow.step(error.step or "")
            raise error.at(spot=step.place_of(error)) from None
        return graph

    def _all_sources(self) -> dict[str, SourceConnector]:
        """By step, the sources of the file and those that are described inside a lookup."""
        sources = dict(self.connectors)
        for step, table in self.tables.items():
            if isinstance(table.source, SourceConnector) and table.name == step:
                sources[step] = table.source
        return sources

    async def sources(self) -> None:
        for name, step in self.workflow.sources.items():
            self.outputs[name], self.outputs_of[name] = None, ()
            try:
                connector = self._source(step.type, step.config, name, step.schema)
                self.connectors[name] = connector
                connector.has_event_time = step.event_time is not None
                if not connector.capabilities().bounded:
                    self.endless.add(name)
                schema = await self._schema(connector, step)
                not_reserved(
                    name,
                    schema.names if schema else (),
                    "rename it where the rows come from, or list the columns to read: columns: [...]",
                )
                if step.event_time is not None:
                    self.timed.add(name)
                    if schema is not None:
                        event_time.event_time_of(step, schema)
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

    def _context(self, step: str) -> ConnectorContext:
        memory = self.workflow.settings.resources.memory
        return ConnectorContext(
            step, self.workflow.base, self.policy, memory=memory, folder=self._folder
        )

    def _source(
        self, type_: str, config: Any, name: str, contract: Schema | None = None
    ) -> SourceConnector:
        class_ = connectors.source(type_)
        bound: BaseModel = bind_config(class_.Config, config, step=name)
        connector = class_(bound, self._context(name))
        connector.contract = contract
        connector.learned = self.learned.get(name, {})
        connector.adds_columns = self.workflow.settings.schema_change == "evolve"
        return connector

    async def _schema(self, connector: SourceConnector, step: SourceStep) -> Schema | None:
        if self.offline:
            if not connector.capabilities().local:
                self.unchecked.append(unasked_source(step, more=connector.finds_new_fields))
                return whole_schema(connector, step)
            try:
                return await connector.schema()
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
        return await retrying.call(connector.schema)

    async def transformations(self) -> None:
        for step in in_order(self.workflow):
            self.outputs[step.name] = None
            try:
                await self._transformation(step)
            except DataFlareError as error:
                self._note(error, step)

    async def _transformation(self, step: TransformationStep) -> None:
        class_ = operators.step(step.type, self.workflow.base, self.policy)
        config: BaseModel = bind_config(class_.Config, step.config, step=step.name)
        self.outputs_of[step.name] = class_.extra_outputs(config)
        if class_.inputs_max is not None and len(step.inputs) > class_.inputs_max:
            raise PlanError(
                f"step '{step.name}' ({step.type}) takes one input, and has {len(step.inputs)}",
                code="E0318",
                step=step.name,
                spot=step.inputs[1].spot,
                help="join them first in a step of type union",
            )
        self._check_refs(step)
        if any(ref.step in self.endless for ref in step.inputs):
            self.endless.add(step.name)
        if isinstance(config, LookupConfig):
            await self._load_table(config.source, step)
        schemas = [self._schema_of(ref) for ref in step.inputs]
        if any(schema is None for schema in schemas):
            syntax_only(config)
            self.unchecked.append(unknown_columns(step.name, step.kind))
            return
        timed = tuple(ref.step in self.timed for ref in step.inputs)
        context = BindContext(
            step=step.name,
            base=self.workflow.base,
            policy=self.policy,
            bounded=step.name not in self.endless,
            parallelism=self.workflow.settings.parallelism,
            table=lambda source: self.tables[step.name],
            timed=timed,
            inputs=tuple(map(str, step.inputs)),
            streaming=event_time.is_streaming(self.workflow, self.endless),
            read=frozenset(o for name, o in self.outputs_read if name == step.name and o),
            kinds=input_kinds(self.kinds, self.nodes, step.inputs),
            ends=tuple(ref.step not in self.endless for ref in step.inputs),
        )
        bound = class_.bind(config, [s for s in schemas if s is not None], context)
        if context.changes and bound.stateful is not None and bound.stateful.bounded_only:
            # What comes at the end of the inputs needs the rows that are left then.
            stateful = applied_first(bound.stateful, len(step.inputs))
            bound = replace(bound, stateful=stateful)
        if bound.stateful is not None and bound.stateful.finite:
            self.endless.discard(step.name)
        if bound.stateful is not None and bound.stateful.timed:
            event_time.refuse_timeless(step, timed, self.workflow)
        if all(timed) and event_time.keeps_time(bound):
            self.timed.add(step.name)
        for schema in bound.outputs.values():
            not_reserved(step.name, schema.names)
        self.outputs[step.name] = bound.outputs
        self._add(step, bound)

    def _add(self, step: TransformationStep, bound: Bound) -> None:
        """Turn a bound step into nodes."""
        name, ports = step.name, [Port(ref.step, ref.output) for ref in step.inputs]
        if bound.union is not None:
            self.nodes[name] = UnionNode(
                name, name, step.type, bound.outputs, tuple(ports), bound.union
            )
            return
        extra_read = any((name, output) in self.outputs_read for output in bound.outputs if output)
        if bound.branch is not None and (extra_read or not bound.operators):
            self.nodes[name] = BranchNode(
                name, name, step.type, bound.outputs, ports[0], bound.branch
            )
            return
        if bound.stateful is not None:
            if bound.operators:
                ports = [self._before(step, port, bound.operators) for port in ports]
            self.nodes[name] = StatefulNode(
                name, name, step.type, bound.outputs, tuple(ports), bound.stateful
            )
            return
        outputs: Outputs = {None: bound.outputs[None]}
        self.nodes[name] = RowsNode(name, name, step.type, outputs, ports[0], bound.operators)

    def _before(
        self, step: TransformationStep, port: Port, operators: tuple[RowOperator, ...]
    ) -> Port:
        """What a stateful step reads: its input after the operators that prepare its rows."""
        schema = self._port_schema(port)
        for operator in operators:
            schema = operator.output_schema(schema)
        id_ = f"{step.name}/in"
        while id_ in self.nodes:
            id_ += "+"
        self.nodes[id_] = RowsNode(id_, step.name, step.type, {None: schema}, port, operators)
        return Port(id_)

    def _port_schema(self, port: Port) -> Schema:
        return self.nodes[port.node].outputs[port.output]

    async def destinations(self) -> None:
        for name, step in self.workflow.destinations.items():
            try:
                await self._destination(name, step)
            except DataFlareError as error:
                self._note(error, step)

    async def _destination(self, name: str, step: DestinationStep) -> None:
        class_ = connectors.destination(step.type)
        config: BaseModel = bind_config(class_.Config, step.config, step=name)
        connector = class_(config, self._context(name))
        connector.widens = self.workflow.settings.widens_types
        capabilities = connector.capabilities()
        if capabilities.bounded_only and never_ends(self.workflow, self.endless):
            raise PlanError(
                f"destination '{name}' needs a run that ends: {capabilities.reason}",
                code="E0319",
                step=name,
                spot=step.spot,
                help="bound the sources (for `generate`: rows), or choose another mode or path",
            )
        self._check_refs(step)
        schemas = [self._schema_of(ref) for ref in step.inputs]
        if self.offline and capabilities.local:
            connector.writes_to()
        if any(schema is None for schema in schemas):
            self.unchecked.append(unknown_columns(name, step.kind))
            return
        known_schemas = [schema for schema in schemas if schema is not None]
        target = known_schemas[0]
        for other in known_schemas[1:]:
            target = merged(target, other, name)
        lacking = await self._lacking(connector, target, name)
        if lacking:
            target = target.select([each for each in target.names if each not in lacking])
        letters = self.workflow.settings.schema_change == "dead_letter"
        conform = tuple(
            without(name, lacking, target, schema, letters=letters)
            if lacking
            else conformed(name, target, schema)
            for schema in known_schemas
        )
        if not self.offline:
            await self.retries.of(name).call(lambda: connector.validate(target))
        elif not capabilities.local:
            self.unchecked.append(unasked_destination(step))
        elif self.inputs:
            await connector.validate(target)
        self.nodes[name] = DestinationNode(
            name,
            name,
            step.type,
            {None: target},
            tuple(Port(ref.step, ref.output) for ref in step.inputs),
            connector,
            conform,
        )

    async def _lacking(
        self, connector: DestinationConnector, schema: Schema, step: str
    ) -> Sequence[str]:
        """The columns that are missing in the destination and that `schema_change` does not allow to
        create. Raises PlanError (E0323) if `schema_change` is `fail`."""
        change = self.workflow.settings.schema_change
        if self.offline or change == "evolve":
            return ()
        lacking = await self.retries.of(step).call(lambda: connector.lacking(schema))
        if lacking and change == "fail":
            raise refuse_change(step, lacking, schema)
        return lacking

    async def _load_table(self, source: Any, step: TransformationStep) -> None:
        """Open the source of a lookup and record its schema."""
        if isinstance(source, str):
            if source not in self.workflow.sources:
                raise unknown_table(source, step, self.workflow.sources)
            schemas = self.outputs.get(source)
            if schemas is None:
                self.unchecked.append(unknown_columns(step.name, step.kind))
                raise _Unknown()
            connector = self.connectors[source]
            check_bounded(connector, step, source)
            self.tables[step.name] = LookupTable(source, connector, schemas[None], source)
            return
        type_, config = own_table(source, step)
        keyed_class = connectors.asked_by_key(type_, config)
        if keyed_class is not None:
            await self._ask(keyed_class, config, step)
            return
        try:
            connector = self._source(type_, config, step.name)
        except DataFlareError as error:
            raise error.at(spot=step.spot_of("config", "source", "type")) from None
        check_bounded(connector, step, type_)
        if self.offline and not connector.capabilities().local:
            self.unchecked.append(unasked_table(step, type_))
            raise _Unknown()
        schema = await self._ask_schema(connector, step.name)
        self.tables[step.name] = LookupTable(step.name, connector, schema, f"the {type_} table")

    async def _ask(
        self, class_: type[LookupConnector], config: Any, step: TransformationStep
    ) -> None:
        """Record the description of a system that is asked key by key."""
        bound: BaseModel = bind_config(class_.Config, config, step=step.name)
        connector = class_(bound, self._context(step.name))
        if not self.offline:
            await self.retries.of(step.name).call(connector.validate)
        else:
            self.unchecked.append(unasked_table(step, class_.type))
        self.tables[step.name] = LookupTable(step.name, connector, Schema(()), class_.type)

    def _schema_of(self, ref: Any) -> Schema | None:
        outputs = self.outputs.get(ref.step)
        return None if outputs is None else outputs.get(ref.output)

    def _check_refs(self, step: TransformationStep | DestinationStep) -> None:
        for ref in step.inputs:
            outputs = self.outputs.get(ref.step)
            extra_outputs = self.outputs_of.get(ref.step)
            if ref.step not in self.outputs or extra_outputs is None:
                continue
            main = outputs is None or None in outputs
            if ref.output in extra_outputs or (ref.output is None and main):
                continue
            all_names = [*([ref.step] if main else []), *(f"{ref.step}.{n}" for n in extra_outputs)]
            raise PlanError(
                f"step '{step.name}' reads '{ref}', which is not an output of '{ref.step}'",
                code="E0108",
                step=step.name,
                spot=ref.spot,
                notes=[f"its outputs: {', '.join(all_names)}"],
                help=did_you_mean(str(ref), all_names),
            )

    def _note(self, error: DataFlareError, step: Any) -> None:
        if isinstance(error, _Unknown):
            return
        parts = error.errors if isinstance(error, ManyErrors) else [error]
        for part in parts:
            self.errors.append(part.at(step=step.name, spot=step.place_of(part)))


class _Unknown(DataFlareError):
    """Ends the binding of a step whose schema is unknown offline. It is not an error."""

    def __init__(self) -> None:
        super().__init__("the schema is not known")
