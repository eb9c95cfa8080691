"""Ask the sources of many tables what they have.

Always true: a workflow without such a source asks nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dataflare.errors import Blame, ConfigError, DataFlareError, PlanError, Retry, did_you_mean
from dataflare.model.width import columns_bounded
from dataflare.planner.families.expand import expand, without_unread
from dataflare.planner.families.tables import PER_TABLE, TABLES, Family, family_of
from dataflare.planner.history_mode import with_histories
from dataflare.resilience.retry import Retries
from dataflare.sdk import registry
from dataflare.sdk.catalog import SupportsCatalog, listed, wanted
from dataflare.sdk.context import ConnectorContext, Policy
from dataflare.sdk.source import SourceConnector
from dataflare.workflow.load import bind
from dataflare.workflow.model import SourceStep, Workflow

Only = Mapping[str, Set[str]]
"""By source, the streams of an unfinished run: it goes on with these, whatever its system has now."""
_AT_ONCE = 4


def reads_many(step: SourceStep) -> bool:
    """Whether a source may read many tables."""
    try:
        class_ = registry.source(step.type)
    except DataFlareError:  # an unknown type is reported when the step is bound
        return False
    if TABLES in class_.Config.model_fields:
        return TABLES in step.config
    return class_.streams is not SourceConnector.streams


async def expanded(
    workflow: Workflow,
    *,
    policy: Policy | None = None,
    offline: bool = False,
    inputs: bool = False,
    retries: Retries | None = None,
    folder: Path | None = None,
    only: Only | None = None,
) -> Workflow:
    """The workflow with a step for each table, once its sources have said which there are, and one for each
    destination that keeps a history. offline: sources on
    other machines are not asked; what reads them stays as it is written. inputs: a missing file on this machine is an
    error, also offline. Raises one error or ManyErrors."""
    many = [step for step in workflow.sources.values() if reads_many(step)]
    if workflow.families is not None or not many:
        return with_histories(workflow)
    asking = _Asking(workflow, policy or Policy(), offline, inputs, retries or Retries(), folder)
    families: dict[str, Family] = {}
    unknown = []
    for step in many:
        try:
            with columns_bounded(workflow.settings.resources.columns):
                family = await asking.family(step, (only or {}).get(step.name))
        except DataFlareError as error:
            raise error.at(step=step.name, spot=step.place_of(error)) from None
        if family is not None:
            families[step.name] = family
        elif TABLES in step.config:
            unknown.append(step.name)
    whole = expand(workflow, families, asking.policy, unknown)
    return with_histories(without_unread(whole, workflow))


async def stream_names_of(workflow: Workflow, source: str, policy: Policy) -> list[str] | None:
    """The streams that a source gives now. None: it is one table."""
    asking = _Asking(workflow, policy, False, False, Retries(), None)
    family = await asking.family(workflow.sources[source], None)
    return None if family is None else list(family.streams)


class _Asking:
    def __init__(
        self,
        workflow: Workflow,
        policy: Policy,
        offline: bool,
        inputs: bool,
        retries: Retries,
        folder: Path | None,
    ) -> None:
        self.workflow, self.policy, self.offline, self.inputs = workflow, policy, offline, inputs
        self.retries, self.folder = retries, folder

    async def family(self, step: SourceStep, only: Set[str] | None) -> Family | None:
        """What a source gives. None: it is one table, or cannot be asked now."""
        connector = self._connector(step, step.config)
        if self.offline and not connector.capabilities().local:
            return None
        try:
            return await self._asked(connector, step, only)
        except DataFlareError as error:
            # A missing file may still appear.
            passing = error.blame is Blame.SYSTEM
            if self.offline and passing and not (self.inputs and error.retry is Retry.NEVER):
                return None
            raise
        finally:
            await connector.aclose()

    def _connector(self, step: SourceStep, config: Mapping[str, Any]) -> SourceConnector:
        class_ = registry.source(step.type)
        memory = self.workflow.settings.resources.memory
        context = ConnectorContext(
            step.name, self.workflow.base, self.policy, memory=memory, folder=self.folder
        )
        return class_(bind(class_.Config, config, step=step.name), context)

    async def _asked(
        self, connector: SourceConnector, step: SourceStep, only: Set[str] | None
    ) -> Family | None:
        retrying = self.retries.of(step.name)
        if TABLES not in step.config and not connector.gives_streams():
            return None
        if step.schema is not None and TABLES in step.config:
            raise ConfigError(
                f"source '{step.name}' has a 'schema', which is of one table, and reads many",
                code="E0405",
                step=step.name,
                spot=step.key_spot_of("schema"),
                help="declare types for each table: per_table: {orders: {schema: {price: string}}}",
            )
        if connector.gives_streams():
            if not self.offline:
                await retrying.call(connector.validate)
            streams = await retrying.call(connector.streams)
            return Family({stream.name: stream.of for stream in streams or ()})
        if not isinstance(connector, SupportsCatalog):
            raise ConfigError(
                f"the source type '{step.type}' cannot say which tables its system has",
                code="E0429",
                step=step.name,
                spot=step.key_spot_of("config", TABLES),
                help="write a source for each table",
            )
        entries = await retrying.call(connector.catalog)
        patterns = [str(each) for each in connector.config.tables]
        family = family_of(step, wanted(entries, patterns, step.name), list(connector.chosen_by()))
        if only is not None:
            family = Family(
                {name: of for name, of in family.streams.items() if name in only},
                {name: each for name, each in family.steps.items() if name in only},
            )
        return await self._by_the_rule(step, family)

    async def _by_the_rule(self, step: SourceStep, family: Family) -> Family:
        """The family in which a table without the cursor column of `incremental` is read in full."""
        rule = step.config.get("incremental")
        column = rule.get("column") if isinstance(rule, Mapping) else None
        if column is None:
            return family
        own = step.config.get(PER_TABLE) or {}
        asked = {n: s for n, s in family.steps.items() if "incremental" not in own.get(n, {})}
        room = asyncio.Semaphore(_AT_ONCE)

        async def columns(each: SourceStep) -> Sequence[str]:
            connector = self._connector(each, each.config.without("incremental"))
            async with room:
                try:
                    schema = await self.retries.of(step.name).call(connector.schema)
                finally:
                    await connector.aclose()
            return [name.casefold() for name in schema.names]

        found = await asyncio.gather(*map(columns, asked.values()))
        steps = dict(family.steps)
        lacking = [
            n for n, names in zip(asked, found, strict=True) if column.casefold() not in names
        ]
        if asked and len(lacking) == len(asked):
            names = list(dict.fromkeys(name for each in found for name in each))
            raise PlanError(
                f"no table of source '{step.name}' has the column '{column}' of 'incremental'",
                code="E0341",
                step=step.name,
                spot=step.spot_of("config", "incremental", "column"),
                notes=[f"its tables: {listed(list(asked))}"],
                help=did_you_mean(column, names) or "name a column that grows in some of them",
            )
        for name in lacking:
            note = f"read in full by each run: it has no column '{column}'"
            config = steps[name].config.without("incremental")
            steps[name] = replace(steps[name], config=config, notes=(note,))
        return Family(family.streams, steps)
