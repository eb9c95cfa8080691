"""The part of a workflow that a test needs, with given rows instead of systems. Pure except for files.

Always true: the part connects to no system: the rows of every source are given or inline, and every
destination stores its rows in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from dataflare.errors import DataFlareError, Spot, WorkflowError, did_you_mean
from dataflare.model import types
from dataflare.model.types import Field, Schema
from dataflare.planner.bind import bind_workflow
from dataflare.planner.lookups import own_table
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.source import SourceConnector
from dataflare.workflow.form import reserved
from dataflare.workflow.load import bind as bind_config
from dataflare.workflow.model import DestinationStep, InputRef, SourceStep, TransformationStep
from dataflare.workflow.nodes import SpotMap, key_spot_of, spot_of

if TYPE_CHECKING:
    from dataflare.workflow.model import Workflow, WorkflowTest
    from dataflare.workflow.settings import EventTime

OPERATION_COLUMN, WATERMARK = "_op", "_watermark"
_ITSELF = "inline"
"""The type of source that needs no stub, because its rows are in the workflow."""


async def stubbed(workflow: Workflow, test: WorkflowTest, policy: Policy) -> Workflow:
    """The workflow of a test, with one destination for each expectation (see `collected_as`).

    Raises WorkflowError: E0108 for an unknown step, E0115 for a source without rows.
    """
    return await _Stubs(workflow, test, policy).workflow()


def collected_as(workflow: Workflow, test: WorkflowTest, expected: str) -> str:
    """The name of the destination that stores the actual rows of an expectation."""
    if expected in workflow.destinations:
        return expected
    return reserved(f"_expected_{list(test.expect).index(expected)}")


class _Stubs:
    def __init__(self, written: Workflow, test: WorkflowTest, policy: Policy) -> None:
        self.written, self.test, self.policy = written, test, policy
        self.sources: dict[str, SourceStep] = {}
        self.transformations: dict[str, TransformationStep] = {}
        self.destinations: dict[str, DestinationStep] = {}
        self.known: Mapping[str, Mapping[str | None, Schema]] | None = None

    async def workflow(self) -> Workflow:
        for given_name in self.test.given:
            self._check_name(given_name, self.test.given, destinations=False)
        for expected in self.test.expect:
            self._check_name(expected, self.test.expect, destinations=True)
            await self._expect(expected, key_spot_of(self.test.expect, expected))
        changes: dict[str, Any] = {"parallelism": 1, "guarantee": None, "run_column": None}
        if self._moves_time():
            changes["mode"] = "streaming"
        settings = self.written.settings.model_copy(update=changes)
        return replace(
            self.written,
            settings=settings,
            sources=self.sources,
            transformations=self.transformations,
            destinations=self.destinations,
        )

    def _moves_time(self) -> bool:
        """Whether event time moves while the test runs, so that rows may be late: given rows say so, or a
        source that the rows stand for has no end."""
        if any(WATERMARK in row for rows in self.test.given.values() for row in rows):
            return True
        return any(
            not connector.capabilities().bounded
            for name in self.test.given
            if (source := self.written.sources.get(name)) is not None
            and (connector := self._connector(source.type, source.config, name)) is not None
        )

    def _event_time(self, given_name: str) -> EventTime | None:
        """The event time of given rows: that of their source, or of the only one in front of their step whose
        column they have."""
        rows = self.test.given[given_name]
        columns = {name for row in rows for name in row}
        steps, names = [self._split(given_name)[0]], set[str]()
        while steps:
            name = steps.pop()
            names.add(name)
            step = self.written.transformations.get(name)
            steps += [ref.step for ref in step.inputs] if step is not None else []
        found = {
            source.event_time.column: source.event_time
            for name, source in self.written.sources.items()
            if name in names and source.event_time is not None
        }
        if given_name in self.written.sources:
            return self.written.sources[given_name].event_time
        fitting = [each for column, each in found.items() if column in columns]
        return fitting[0] if len(fitting) == 1 else None

    def _check_name(self, name: str, names: Any, *, destinations: bool) -> None:
        step_names = [*self.written.sources, *self.written.transformations]
        step_names += self.written.destinations if destinations else ()
        if name in step_names or self._split(name)[0] in self.written.transformations:
            return
        raise WorkflowError(
            f"there is no step '{name}'",
            code="E0108",
            spot=key_spot_of(names, name),
            notes=[f"steps: {', '.join(step_names)}"],
            help=did_you_mean(name, step_names),
        )

    def _split(self, name: str) -> tuple[str, str | None]:
        """The step of a name such as `router.eu`, and the output. A step of one table has a dot in its own name."""
        step = name.rpartition(".")[0]
        if name in self.written.transformations or not step:
            return name, None
        while step not in self.written.transformations and "." in step:
            step = step.rpartition(".")[0]
        return step, name[len(step) + 1 :]

    async def _expect(self, expected: str, spot: Spot | None) -> None:
        name = collected_as(self.written, self.test, expected)
        if expected in self.written.destinations:
            refs = self.written.destinations[expected].inputs
        else:
            refs = (InputRef(*self._split(expected), spot),)
        inputs = tuple([await self._read(ref) for ref in refs])
        self.destinations[name] = DestinationStep(
            name=name, type="blackhole", spot=spot, inputs=inputs
        )

    async def _read(self, ref: InputRef) -> InputRef:
        """The test's step for an input. It is added if needed."""
        if str(ref) in self.test.given and not self._is_lookup(str(ref)):
            name = ref.step if ref.output is None else self._name_for("given", str(ref))
            if name not in self.sources:
                schema, whole = await self._schema(ref)
                self._add_source(str(ref), name, schema, whole=whole)
            return InputRef(name, None, ref.spot)
        if ref.step in self.written.sources:
            self._keep_source(ref.step)
        elif ref.step not in self.transformations:
            await self._keep(self.written.transformations[ref.step])
        return ref

    def _name_for(self, prefix: str, name: str) -> str:
        return reserved(f"_{prefix}_{list(self.test.given).index(name)}")

    def _is_lookup(self, name: str) -> bool:
        step = self.written.transformations.get(name)
        return step is not None and step.type == "lookup"

    async def _keep(self, step: TransformationStep) -> None:
        inputs = tuple([await self._read(ref) for ref in step.inputs])
        if step.type == "lookup":
            step = await self._with_table(step)
        self.transformations[step.name] = replace(step, inputs=inputs)

    def _keep_source(self, name: str) -> None:
        step = self.written.sources[name]
        if step.type != _ITSELF:
            raise self._not_given(name, f"source '{name}'")
        self.sources[name] = step

    async def _with_table(self, step: TransformationStep) -> TransformationStep:
        """A lookup with a given table. The rows are given under the name of the lookup or of its source."""
        source = step.config.get("source")
        is_source = isinstance(source, str) and source in self.written.sources
        given_name = step.name if step.name in self.test.given else source if is_source else None
        if given_name == source and given_name not in self.test.given:
            self._keep_source(str(source))
            return step
        if given_name is None:
            if isinstance(source, dict) and source.get("type") != _ITSELF:
                raise self._not_given(step.name, f"the table of the lookup '{step.name}'")
            return step
        table = self._name_for("table", given_name)
        if table not in self.sources:
            schema, whole = await self._table_schema(step)
            self._add_source(given_name, table, schema, whole=whole)
        config = step.config.without("source").without("cache")
        config.put("source", table, None, step.spot_of("config", "source"))
        return replace(step, config=config)

    def _not_given(self, name: str, subject: str) -> WorkflowError:
        return WorkflowError(
            f"test '{self.test.name}' gives no rows for {subject}",
            code="E0115",
            spot=self.test.spot,
            help=f"a test does not connect to systems; add given: {{{name}: [...]}}",
        )

    def _add_source(
        self, given_name: str, name: str, schema: Schema | None, *, whole: bool
    ) -> None:
        """Add the given rows as a source. whole: the schema is complete."""
        rows = self.test.given[given_name]
        for row in rows:
            for column in row if schema is not None and whole else ():
                assert schema is not None
                if column not in (OPERATION_COLUMN, WATERMARK) and column not in schema:
                    raise WorkflowError(
                        f"'{given_name}' has no column '{column}'",
                        code="E0203",
                        spot=key_spot_of(row, column),
                        notes=[f"its columns: {', '.join(schema.names)}"],
                        help=did_you_mean(column, schema.names),
                    )
        config = SpotMap({"rows": rows})
        event_time = self._event_time(given_name)
        if any(WATERMARK in row for row in rows):
            config["watermarks"] = "columns"
        is_column = event_time is not None and event_time.column.isidentifier()
        if event_time is not None and is_column and event_time.column not in (schema or ()):
            timestamp = Field(event_time.column, types.timestamp("us", "UTC"))
            schema = Schema((*(schema or ()), timestamp))
        if any(OPERATION_COLUMN in row for row in rows):
            config["changelog"] = "columns"
        spot = spot_of(self.test.given, given_name) or key_spot_of(self.test.given, given_name)
        self.sources[name] = SourceStep(
            name=name,
            type=_ITSELF,
            config=config,
            schema=schema,
            spot=spot,
            event_time=event_time,
        )

    # -- the types that given rows take ------------------------------------------------------------

    async def _schema(self, ref: InputRef) -> tuple[Schema | None, bool]:
        """The schema of given rows, if it can be known, and whether it is complete."""
        source = self.written.sources.get(ref.step)
        if source is not None:
            return await self._source_schema(source)
        if self.known is None:
            self.known = {}
            settings = self.written.settings.model_copy(update={"guarantee": None})
            with contextlib.suppress(DataFlareError):
                graph = await bind_workflow(
                    replace(self.written, settings=settings), policy=self.policy, offline=True
                )
                self.known = {node.id: node.outputs for node in graph}
        schema = self.known.get(ref.step, {}).get(ref.output)
        return schema, schema is not None

    async def _table_schema(self, step: TransformationStep) -> tuple[Schema | None, bool]:
        source = step.config.get("source")
        if isinstance(source, str):
            return await self._source_schema(self.written.sources[source])
        type_, config = own_table(source, step)
        return await self._local_schema(type_, config, step.name)

    async def _source_schema(self, step: SourceStep) -> tuple[Schema | None, bool]:
        """The step's declared schema, which may be incomplete, or else the schema of a local source."""
        if step.schema is not None:
            return step.schema, False
        return await self._local_schema(step.type, step.config, step.name)

    async def _local_schema(self, type_: str, config: Any, step: str) -> tuple[Schema | None, bool]:
        if type_ == _ITSELF:
            return None, False
        connector = self._connector(type_, config, step)
        if connector is not None and connector.capabilities().local:
            with contextlib.suppress(DataFlareError):
                return await connector.schema(), True
        return None, False

    def _connector(self, type_: str, config: Any, step: str) -> SourceConnector | None:
        """The description of a source that is not connected; None if it cannot be made here."""
        with contextlib.suppress(DataFlareError):
            class_ = registry.source(type_)
            context = ConnectorContext(step, self.written.base, self.policy)
            return class_(bind_config(class_.Config, config, step=step), context)
        return None
