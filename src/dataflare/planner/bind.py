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
    DataFlareError,
    PlanError,
    Retry,
    did_you_mean,
    raise_all,
)
from dataflare.model.new_fields import Columns
from dataflare.model.types import Schema
from dataflare.operators import registry as operators
from dataflare.operators.applied import applied_first
from dataflare.operators.base import LATE, BindContext, Bound, LookupTable, RowOperator
from dataflare.operators.lookup import LookupConfig
from dataflare.operators.names import not_reserved
from dataflare.operators.primitives import conformed
from dataflare.operators.schema_change import refuse_change, without
from dataflare.operators.union import merged
from dataflare.planner import event_time
from dataflare.planner.bind_sources import Outputs, SourceBinder, UnknownSchema
from dataflare.planner.change_order import check_lookups
from dataflare.planner.changelog import check_changelogs, input_kinds, joined_changelogs
from dataflare.planner.fallbacks import check_diverted, check_fallback, in_divert_order
from dataflare.planner.families.errors import joined
from dataflare.planner.families.keys import key_of_versions, keyed, lacks_key, with_key
from dataflare.planner.families.tables import PER_TABLE
from dataflare.planner.graph import (
    BranchNode,
    DestinationNode,
    Graph,
    Port,
    RowsNode,
    StatefulNode,
    UnionNode,
)
from dataflare.planner.guarantees import demand, guarantees
from dataflare.planner.history_mode import STEP
from dataflare.planner.lookups import check_bounded, own_table, unknown_table
from dataflare.planner.retries import retry_policies
from dataflare.planner.run_column import check_run_column, refuse_lacking, with_run_column
from dataflare.planner.step_order import in_order
from dataflare.planner.syntax import syntax_only
from dataflare.planner.targets import never_ends, nothing_in_place, one_writer_each
from dataflare.planner.unchecked import (
    unasked_destination,
    unasked_table,
    unknown_columns,
)
from dataflare.planner.whole_changes import with_whole_changes
from dataflare.planner.written_as import refuse_replaced
from dataflare.resilience.retry import Retries
from dataflare.sdk import registry as connectors
from dataflare.sdk.context import Policy
from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.lookup import LookupConnector
from dataflare.workflow.load import bind as bind_config
from dataflare.workflow.nodes import SpotMap

if TYPE_CHECKING:
    from dataflare.workflow.model import DestinationStep, TransformationStep, Workflow


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
    raise_all(joined(binder.errors, workflow.families or {}))
    return binder


class Binder(SourceBinder):
    """Binds the steps of a workflow, section by section."""

    def graph(self) -> Graph:
        """The nodes as a plan. Raises the errors that only the whole plan shows, with their place."""
        graph = joined_changelogs(Graph(self.nodes))
        streaming = event_time.is_streaming(self.workflow, self.endless)
        graph = event_time.stamped(graph, self.workflow, streaming=streaming)
        settings = self.workflow.settings
        try:
            check_changelogs(graph)
            check_diverted(graph, self.workflow)
            graph = with_whole_changes(graph)
            check_lookups(graph)
            event_time.refuse_repeated(graph)
            event_time.refuse_zoneless(graph, self.workflow)
            one_writer_each(graph, self.workflow)
            nothing_in_place(graph, self.workflow, self._all_sources())
            refuse_replaced(graph)
            demand(guarantees(graph), settings.guarantee)
        except DataFlareError as error:
            step = self.workflow.step(error.step or "")
            raise error.at(spot=step.place_of(error)) from None
        unmatched = [place for place, matched in self.matched.items() if not matched]
        doubts = {step: f"the pattern '{text}' matches no column" for step, text in unmatched}
        return replace(graph, doubts=doubts)

    async def transformations(self) -> None:
        for step in in_order(self.workflow):
            self.outputs[step.name] = None
            try:
                await self._transformation(step)
            except DataFlareError as error:
                self._note(error, step)
                if error.code == "E0204" and "string" in error.message:
                    error.notes += self._types_of_samples(step)

    async def _transformation(self, step: TransformationStep) -> None:
        class_ = operators.step(step.type, self.workflow.base, self.policy)
        config: BaseModel = bind_config(class_.Config, step.config, step=step.name)
        self.outputs_of[step.name] = class_.extra_outputs(config)
        check_fallback(self.workflow, step)
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
        if any(ref.step in self.open_ended for ref in step.inputs):
            self.open_ended.add(step.name)
            del self.outputs_of[step.name]
        if isinstance(config, LookupConfig):
            await self._load_table(config.source, step)
        schemas = [self._schema_of(ref) for ref in step.inputs]
        if any(schema is None for schema in schemas):
            syntax_only(config)
            self._check_time(step, class_.extra_outputs(config))
            self.unchecked.append(unknown_columns(step.name, step.kind))
            return
        if class_.key_of_source and not step.config.get("key"):
            ports = [self._port(ref) for ref in step.inputs]
            config = bind_config(
                class_.Config, with_key(step, Graph(self.nodes), ports), step=step.name
            )
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
            kinds=input_kinds(self.kinds, self.nodes, map(self._port, step.inputs)),
            ends=tuple(ref.step not in self.endless for ref in step.inputs),
        )
        bound = class_.bind(config, [s for s in schemas if s is not None], context)
        for pattern, matched in context.matched.items():
            place = step.name.partition(".")[0], pattern
            self.matched[place] = self.matched.get(place, False) or matched
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

    def _check_time(self, step: TransformationStep, outputs: tuple[str, ...]) -> None:
        """Refuse a step that works by event time, which has rows that are late, where it is known without the columns
        that an input has none."""
        timed = tuple(not self._is_timeless(ref.step) for ref in step.inputs)
        if LATE in outputs:
            event_time.refuse_timeless(step, timed, self.workflow)
        if not all(timed):
            self.timeless.add(step.name)

    def _is_timeless(self, name: str) -> bool:
        source = self.workflow.sources.get(name)
        bound = self.outputs.get(name) is not None
        if source is not None:
            return source.event_time is None
        return name not in self.timed if bound else name in self.timeless

    def _add(self, step: TransformationStep, bound: Bound) -> None:
        """Turn a bound step into nodes."""
        name, ports = step.name, [self._port(ref) for ref in step.inputs]
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
        for name, step in in_divert_order(self.workflow):
            try:
                await self._destination(name, step)
            except DataFlareError as error:
                self._note(error, step)

    async def _destination(self, name: str, step: DestinationStep) -> None:
        class_ = connectors.destination(step.type)
        step_config = self._of_table(step, class_.Config.model_fields)
        config: BaseModel = bind_config(class_.Config, step_config, step=name)
        connector = class_(config, self._context(name))
        connector.widens = self.workflow.settings.widens_types
        capabilities = connector.capabilities()
        check_fallback(self.workflow, step, hands_back=capabilities.hands_back)
        if capabilities.bounded_only and never_ends(self.workflow, self.endless):
            raise PlanError(
                f"destination '{name}' needs a run that ends: {capabilities.reason}",
                code="E0319",
                step=name,
                spot=step.spot,
                help=f"choose a mode or path that rows are added to, or {self.how_to_bound()}"
                + (
                    " (each run replaces what the one before wrote)" if connector.replaces() else ""
                ),
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
        run_column = self.workflow.settings.run_column
        check_run_column(name, connector, target, run_column)
        lacking = await self._lacking(connector, with_run_column(target, run_column), name)
        if lacking:
            target = target.select([each for each in target.names if each not in lacking])
        letters = self.workflow.settings.schema_change == "dead_letter"
        conform = tuple(
            without(name, lacking, target, schema, letters=letters)
            if lacking
            else conformed(name, target, schema)
            for schema in known_schemas
        )
        written = with_run_column(target, run_column)
        if not self.offline:
            await self.retries.of(name).call(lambda: connector.validate(written))
        elif not capabilities.local:
            self.unchecked.append(unasked_destination(step))
        elif self.inputs:
            await connector.validate(written)
        self.nodes[name] = DestinationNode(
            name,
            name,
            step.type,
            {None: target},
            tuple(self._port(ref) for ref in step.inputs),
            connector,
            conform,
            run_column,
        )
        self.outputs[name], self.outputs_of[name] = {None: target}, ()

    def _of_table(self, step: DestinationStep, options: Mapping[str, Any]) -> SpotMap:
        """The config of a destination, with the key of its table where it is one of many, and of versions behind a
        history."""
        if any(ref.step in self.open_ended for ref in step.inputs):
            config = step.config.without(PER_TABLE)
            return keyed(config, ("-",)) if lacks_key(step, options) else config
        if not lacks_key(step, options):
            return step.config
        graph, ports = Graph(self.nodes), [self._port(ref) for ref in step.inputs]
        is_known = all(self._schema_of(ref) is not None for ref in step.inputs)
        if is_known and (key := key_of_versions(graph, ports)):
            return keyed(step.config, key)
        if "." not in step.name and not any(STEP in ref.step for ref in step.inputs):
            return step.config
        return with_key(step, graph, ports) if is_known else keyed(step.config, ("-",))

    async def _lacking(
        self, connector: DestinationConnector, schema: Schema, step: str
    ) -> Sequence[str]:
        """The columns that are missing in the destination and that `schema_change` does not allow to
        create. Raises PlanError (E0323) if `schema_change` is `fail`."""
        change = self.workflow.settings.schema_change
        if self.offline or change == "evolve":
            return ()
        lacking = await self.retries.of(step).call(lambda: connector.lacking(schema))
        refuse_lacking(step, lacking, self.workflow.settings.run_column, change)
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
                raise UnknownSchema()
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
            raise UnknownSchema()
        schema = await self._ask_schema(connector, step.name)
        self.tables[step.name] = LookupTable(step.name, connector, schema, f"the {type_} table")

    async def _ask(
        self, class_: type[LookupConnector], config: Any, step: TransformationStep
    ) -> None:
        """Record the description of a system that is asked key by key."""
        bound: BaseModel = bind_config(class_.Config, config, step=step.name)
        connector = class_(bound, self._context(step.name))
        if not self.offline:
            try:
                await self.retries.of(step.name).call(connector.validate)
            except DataFlareError as error:
                if step.config.get("optional") is not True or error.retry is Retry.NEVER:
                    raise
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
