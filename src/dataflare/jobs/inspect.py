"""Connect to every system of a workflow in parallel, and report what each has. It writes nothing.

Always true: a system that does not answer delays the command by its timeout at most, because each is
asked on its own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.errors import Blame, DataFlareError, SystemError_, raise_all
from dataflare.jobs.failures import as_dataflare_error
from dataflare.model.types import Schema
from dataflare.planner.bind import bind_workflow
from dataflare.planner.families import reads_many, stream_names_of
from dataflare.planner.families.expand import holds_table
from dataflare.planner.families.keys import keyed, lacks_key
from dataflare.planner.families.tables import PER_TABLE
from dataflare.planner.graph import DestinationNode
from dataflare.planner.lookups import own_table
from dataflare.sdk import registry
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.destination import DestinationConnector
from dataflare.sdk.lookup import LookupConnector
from dataflare.sdk.source import SourceConnector
from dataflare.workflow.load import bind as bind_config
from dataflare.workflow.model import DestinationStep

if TYPE_CHECKING:
    from dataflare.workflow.model import AnyStep, Workflow

TIMEOUT_S = 10.0
_GRACE_S = 0.5
_COLUMNS_SHOWN = 8


class Found(Struct, frozen=True):
    """The answer of a step's system. kind: source, lookup or destination. facts: such as its version."""

    step: str
    kind: str
    type: str
    duration_s: float
    facts: Mapping[str, str]
    schema: Schema | None = None
    error: DataFlareError | None = None

    @property
    def reached(self) -> bool:
        return self.error is None

    def to_json(self) -> dict[str, Any]:
        error = self.error
        return {
            "step": self.step,
            "kind": self.kind,
            "type": self.type,
            "reached": self.reached,
            "duration_s": round(self.duration_s, 3),
            "found": dict(self.facts),
            "error": error and error.to_json(),
        }


class _Probe(Struct, frozen=True):
    """One system to ask. ask: returns its facts and, for a source, its schema."""

    step: AnyStep
    kind: str
    type: str
    ask: Callable[[], Awaitable[tuple[Mapping[str, str], Schema | None]]]


def inspect(
    workflow: Workflow, *, timeout_s: float = TIMEOUT_S, policy: Policy | None = None
) -> list[Found]:
    """The answer of each system: first sources and lookups together, then destinations together, because
    the answer of a destination depends on the columns that reach it.

    Raises errors of a connector's config before it connects to any system.
    """
    checked_policy = policy or Policy()
    errors: list[DataFlareError] = []
    sources: list[_Probe] = []
    ends: dict[str, DestinationConnector] = {}
    for step in workflow.steps():
        try:
            if step.name in workflow.destinations:
                ends[step.name] = _destination(workflow, step, checked_policy)
            else:
                sources.extend(_source_probes(workflow, step, checked_policy))
        except DataFlareError as error:
            errors.append(error.at(step=step.name, spot=step.place_of(error)))
    raise_all(errors)
    answers = _asked(sources, timeout_s)
    schemas = _arriving(workflow, answers, checked_policy)
    probes = [
        _Probe(
            workflow.destinations[name],
            "destination",
            connector.type,
            _destination_asked(connector, schemas.get(name)),
        )
        for name, connector in ends.items()
    ]
    return answers + _asked(probes, timeout_s)


def _source_probes(workflow: Workflow, step: AnyStep, policy: Policy) -> Iterable[_Probe]:
    context = ConnectorContext(step.name, workflow.base, policy)
    type_, config, kind = step.type, step.config, "source"
    if step.name not in workflow.sources:
        if step.type != "lookup" or not isinstance(step.config.get("source"), dict):
            return
        type_, table_config = own_table(step.config["source"], step)  # type: ignore[arg-type]
        config, kind = table_config, "lookup"  # type: ignore[assignment]
        if (keyed_class := registry.asked_by_key(type_, config)) is not None:
            lookup = keyed_class(bind_config(keyed_class.Config, config, step=step.name), context)
            yield _Probe(step, kind, type_, lambda: _lookup_asked(lookup))
            return
    class_ = registry.source(type_)
    connector = class_(bind_config(class_.Config, config, step=step.name), context)
    if kind == "source" and reads_many(workflow.sources[step.name]):
        yield _Probe(step, kind, type_, lambda: _tables_asked(connector, workflow, step, policy))
        return
    if kind == "source":
        connector.contract = workflow.sources[step.name].schema
    yield _Probe(step, kind, type_, lambda: _source_asked(connector))


def _destination(workflow: Workflow, step: AnyStep, policy: Policy) -> DestinationConnector:
    class_ = registry.destination(step.type)
    context = ConnectorContext(step.name, workflow.base, policy)
    config = step.config
    if holds_table(config):
        config = config.without(PER_TABLE)
        # The key of each table is known when its source has been asked.
        config = keyed(config, ("-",)) if _lacks_key(step, class_) else config
    return class_(bind_config(class_.Config, config, step=step.name), context)


def _lacks_key(step: AnyStep, class_: type[DestinationConnector]) -> bool:
    return isinstance(step, DestinationStep) and lacks_key(step, class_.Config.model_fields)


async def _tables_asked(
    connector: SourceConnector, workflow: Workflow, step: AnyStep, policy: Policy
) -> tuple[Mapping[str, str], Schema | None]:
    """What a source has that reads many tables."""
    names = await stream_names_of(workflow, step.name, policy)
    if names is None:
        return await _source_asked(connector)
    await connector.aclose()
    shown = ", ".join(names[:_COLUMNS_SHOWN]) + (", ..." if len(names) > _COLUMNS_SHOWN else "")
    return {"tables": f"{len(names)} ({shown})"}, None


async def _source_asked(connector: SourceConnector) -> tuple[Mapping[str, str], Schema | None]:
    try:
        await connector.validate()
        facts = await connector.inspect()
        schema = await connector.schema()
    finally:
        await connector.aclose()
    names = list(schema.names)
    first_names = ", ".join(names[:_COLUMNS_SHOWN]) + (
        ", ..." if len(names) > _COLUMNS_SHOWN else ""
    )
    return {**facts, "columns": f"{len(names)} ({first_names})"}, schema


async def _lookup_asked(connector: LookupConnector) -> tuple[Mapping[str, str], Schema | None]:
    await connector.validate()
    return await connector.inspect(), None


def _destination_asked(
    connector: DestinationConnector, schema: Schema | None
) -> Callable[[], Awaitable[tuple[Mapping[str, str], Schema | None]]]:
    async def ask() -> tuple[Mapping[str, str], Schema | None]:
        target = connector.writes_to()
        facts = {"place": target.place} if target is not None else {}
        inspected = dict(await connector.inspect())
        facts |= inspected
        if schema is not None:
            await connector.validate(schema)
        elif not inspected:
            facts["columns"] = "not known, so they were not checked"
        return facts, None

    return ask


def _arriving(workflow: Workflow, answers: Iterable[Found], policy: Policy) -> dict[str, Schema]:
    """The columns that reach each destination, if the sources gave their schemas."""
    schemas = {each.step: each.schema for each in answers if each.kind == "source" and each.schema}
    sources = {
        name: replace(step, schema=step.schema or schemas.get(name))
        for name, step in workflow.sources.items()
    }
    settings = workflow.settings.model_copy(update={"guarantee": None})
    part = replace(workflow, sources=sources, settings=settings)
    with contextlib.suppress(DataFlareError):
        graph = asyncio.run(bind_workflow(part, policy=policy, offline=True))
        ends = [node for node in graph if isinstance(node, DestinationNode)]
        return {node.id: node.written for node in ends}
    return {}


def _asked(probes: list[_Probe], timeout_s: float) -> list[Found]:
    """Ask all systems in parallel."""
    answers: dict[int, Found] = {}
    started = time.monotonic()

    def ask(number: int, probe: _Probe) -> None:
        facts: Mapping[str, str] = {}
        schema: Schema | None = None
        error: DataFlareError | None = None
        try:
            facts, schema = asyncio.run(_within(probe, timeout_s))
        except TimeoutError:
            error = _silent(probe, timeout_s)
        except BaseException as raised:  # on a thread of its own no signal raises
            error = as_dataflare_error(raised)
        answers[number] = _found(probe, started, facts, schema, error)

    threads = [
        threading.Thread(target=ask, args=each, daemon=True, name=f"inspect-{each[1].step.name}")
        for each in enumerate(probes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, started + timeout_s + _GRACE_S - time.monotonic()))
    return [
        answers.get(number) or _found(probe, started, {}, None, _silent(probe, timeout_s))
        for number, probe in enumerate(probes)
    ]


async def _within(probe: _Probe, timeout_s: float) -> tuple[Mapping[str, str], Schema | None]:
    return await asyncio.wait_for(_coroutine(probe), timeout_s)


async def _coroutine(probe: _Probe) -> tuple[Mapping[str, str], Schema | None]:
    return await probe.ask()


def _silent(probe: _Probe, timeout_s: float) -> DataFlareError:
    name = probe.step.name
    return SystemError_(
        f"'{name}' did not answer within {timeout_s:g} s",
        code="E0610",
        step=name,
        help="check that the system runs and can be reached from here",
    )


def _found(
    probe: _Probe,
    started: float,
    facts: Mapping[str, str],
    schema: Schema | None,
    error: DataFlareError | None,
) -> Found:
    step = probe.step
    if error is not None and error.blame is not Blame.INTERNAL:
        error = error.at(step=step.name, spot=step.place_of(error))
    duration_s = time.monotonic() - started
    return Found(step.name, probe.kind, probe.type, duration_s, facts, schema, error)
