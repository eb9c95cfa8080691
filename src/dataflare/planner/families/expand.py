"""Rewrite a workflow whose sources read many tables: one step for each table. Pure.

Always true: a step is applied to the streams that reach it, and is named `step.table`; what reads the step is rewritten
in turn. A step that takes one input table, and is given several, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from dataflare.errors import DataFlareError, PlanError, did_you_mean, raise_all
from dataflare.model.text import SourceText
from dataflare.operators import registry as operators
from dataflare.planner.families.tables import PER_TABLE, Family, merge, per_table
from dataflare.planner.step_order import in_order
from dataflare.sdk.context import Policy
from dataflare.sdk.streams import PLACES, TableName
from dataflare.workflow.load import bind
from dataflare.workflow.model import (
    DestinationStep,
    InputRef,
    SourceStep,
    TransformationStep,
    Workflow,
)
from dataflare.workflow.nodes import SpotMap, key_spot_of, spot_of

TABLE, SCHEMA = "{table}", "{schema}"
_SHOWN = 20
_S = TypeVar("_S", TransformationStep, DestinationStep)


class Read(Struct, frozen=True):
    """One input of a step. name, of: the stream, where it is one of many."""

    ref: InputRef
    name: str = ""
    of: TableName | None = None


def expand(
    workflow: Workflow,
    families: Mapping[str, Family],
    policy: Policy,
    unknown: Iterable[str] = (),
) -> Workflow:
    """The workflow with a step for each table. families: by source. unknown: sources of many tables that were not
    asked; what reads them stays as it is written. Raises one error or ManyErrors."""
    return _Expansion(workflow, families, policy, set(unknown)).run()


def holds_table(config: Mapping[str, object]) -> list[str]:
    """The options that hold `{table}` or `{schema}`."""
    return [
        key
        for key in PLACES
        if isinstance(text := config.get(key), str) and (TABLE in text or SCHEMA in text)
    ]


class _Expansion:
    """streams: by step that stands for many tables, the table of each stream. shared: the sources of which one reader
    gives all streams."""

    def __init__(
        self,
        workflow: Workflow,
        families: Mapping[str, Family],
        policy: Policy,
        unknown: set[str],
    ) -> None:
        self.workflow, self.families, self.policy = workflow, families, policy
        self.unknown = unknown
        self.streams: dict[str, Mapping[str, TableName]] = {
            name: family.streams for name, family in families.items()
        }
        self.shared = {name for name, family in families.items() if not family.steps}
        self.errors: list[DataFlareError] = []

    def run(self) -> Workflow:
        transformations: dict[str, TransformationStep] = {}
        destinations: dict[str, DestinationStep] = {}
        for step in in_order(self.workflow):
            for each in self._expanded(step, self._transformation):
                transformations[each.name] = each
        for destination in self.workflow.destinations.values():
            for one in self._expanded(destination, self._destination):
                destinations[one.name] = one
        raise_all(self.errors)
        sources: dict[str, SourceStep] = {}
        for name, source in self.workflow.sources.items():
            family = self.families.get(name)
            more = family.steps if family is not None else {}
            sources |= {s.name: s for s in more.values()} or {name: source}
        return replace(
            self.workflow,
            sources=sources,
            transformations=transformations,
            destinations=destinations,
            families=self.streams,
        )

    def _expanded(self, step: _S, expand_step: object) -> list[_S]:
        if any(ref.step in self.unknown for ref in step.inputs):
            self.unknown.add(step.name)
            return [step]
        try:
            reads = [self._reads(step, ref) for ref in step.inputs]
            return expand_step(step, reads)  # type: ignore[operator,no-any-return]
        except DataFlareError as error:
            for each in error.each:
                self.errors.append(each.at(step=step.name, spot=step.place_of(each)))
            return []

    def _reads(self, step: TransformationStep | DestinationStep, ref: InputRef) -> list[Read]:
        """The streams that an input is: several where it stands for many tables."""
        tables = self.streams.get(ref.step)
        if tables is None:
            return [Read(ref)]
        if ref.output is None:
            return [Read(self._ref(ref, name), name, of) for name, of in tables.items()]
        if ref.output in tables:
            return [Read(self._ref(ref, ref.output), ref.output, tables[ref.output])]
        outputs = self._outputs(ref.step)
        if ref.output in outputs:
            return [Read(self._ref(ref, name, ref.output), name, of) for name, of in tables.items()]
        for name, of in tables.items():
            if ref.output.removeprefix(f"{name}.") in outputs and ref.output.startswith(name):
                return [Read(self._ref(ref, name, ref.output[len(name) + 1 :]), name, of)]
        shown = [f"{ref.step}.{name}" for name in (*tables, *outputs)]
        raise PlanError(
            f"step '{step.name}' reads '{ref}', which is not a table of '{ref.step}'",
            code="E0108",
            step=step.name,
            spot=ref.spot,
            notes=[f"its tables: {_listed(shown)}"],
            help=did_you_mean(str(ref), shown) or "name one of these",
        )

    def _outputs(self, name: str) -> tuple[str, ...]:
        """The outputs that a step of many tables has for each of them."""
        step = self.workflow.transformations.get(name)
        if step is None:
            return ()
        class_ = operators.step(step.type, self.workflow.base, self.policy)
        return class_.extra_outputs(bind(class_.Config, step.config, step=name))

    def _ref(self, ref: InputRef, name: str, output: str | None = None) -> InputRef:
        if ref.step in self.shared:
            return InputRef(ref.step, name, ref.spot)
        return InputRef(f"{ref.step}.{name}", output, ref.spot)

    def _transformation(
        self, step: TransformationStep, reads: list[list[Read]]
    ) -> list[TransformationStep]:
        many = next((r for r, i in zip(reads, step.inputs, strict=True) if self._is_many(i)), None)
        if many is None:
            return [replace(step, inputs=tuple(each.ref for read in reads for each in read))]
        class_ = operators.step(step.type, self.workflow.base, self.policy)
        if not class_.each_table or len(reads) > 1:
            raise self._takes_one(step, many)
        self.streams[step.name] = {each.name: each.of for each in many if each.of is not None}
        return [
            replace(
                step,
                name=f"{step.name}.{each.name}",
                was=None if step.was is None else f"{step.was}.{each.name}",
                inputs=(each.ref,),
            )
            for each in many
        ]

    def _is_many(self, ref: InputRef) -> bool:
        """Whether an input stands for many tables, also where it is only one of late."""
        tables = self.streams.get(ref.step)
        if tables is None or ref.output in tables:
            return False
        return ref.output is None or ref.output in self._outputs(ref.step)

    def _takes_one(self, step: TransformationStep | DestinationStep, many: list[Read]) -> PlanError:
        refs = [str(each.ref) for each in many]
        first = refs[0] if refs else "step.table"
        place = "" if isinstance(step, TransformationStep) else self._place_help(step)
        return PlanError(
            f"step '{step.name}' ({step.type}) takes one table, and its input stands for {len(refs)}",
            code="E0340",
            step=step.name,
            spot=next((ref.spot for ref in step.inputs if self._is_many(ref)), None),
            notes=[f"they are: {_listed(refs)}"],
            help=f"take one of them: inputs: [{first}]{place}",
        )

    def _place_help(self, step: DestinationStep) -> str:
        option = next((key for key in PLACES if key in step.config), "table")
        return f"; or write each to a place of its own: {option}: '{TABLE}'"

    def _destination(self, step: DestinationStep, reads: list[list[Read]]) -> list[DestinationStep]:
        every = [each for read in reads for each in read]
        streams = [each for each in every if each.of is not None]
        options = holds_table(step.config)
        if not options or not streams:
            if any(self._is_many(ref) for ref in step.inputs):
                raise self._takes_one(step, streams)
            if PER_TABLE in step.config:
                raise PlanError(
                    f"'{PER_TABLE}' of step '{step.name}' is for a destination of many tables",
                    code="E0340",
                    step=step.name,
                    spot=key_spot_of(step.config, PER_TABLE),
                    help=f"write the options in 'config', or {TABLE} in its place",
                )
            return [replace(step, inputs=tuple(each.ref for each in every))]
        if len(streams) < len(every):
            other = next(each.ref for each in every if each.of is None)
            raise PlanError(
                f"step '{step.name}' has {TABLE} in its '{options[0]}', and its input '{other}' is not a table of a source",
                code="E0340",
                step=step.name,
                spot=other.spot,
                help="give that input a destination of its own",
            )
        return self._for_each(step, streams, options)

    def _for_each(
        self, step: DestinationStep, streams: list[Read], options: list[str]
    ) -> list[DestinationStep]:
        changes = per_table(step.config, (each.name for each in streams), step.name)
        made: dict[str, DestinationStep] = {}
        for each in streams:
            assert each.of is not None
            name = f"{step.name}.{each.name}"
            if name in made:  # the same table of another input
                first = made[name]
                made[name] = replace(first, inputs=(*first.inputs, each.ref))
                continue
            config = step.config.without(PER_TABLE)
            for option in options:
                text = named(config[option], each.of, step, option)
                spots = key_spot_of(config, option), spot_of(config, option)
                config.put(option, text, *spots)
            merge(config, changes.get(each.name, SpotMap()))
            was = None if step.was is None else f"{step.was}.{each.name}"
            made[name] = replace(step, name=name, inputs=(each.ref,), config=config, was=was)
        self.streams[step.name] = {each.name: each.of for each in streams if each.of is not None}
        return list(made.values())


def named(text: str, of: TableName, step: DestinationStep, option: str) -> str:
    """A place with the name of a table in it. Raises PlanError (E0341) where the name cannot be part of it."""
    if SCHEMA in text and not of.schema:
        raise _unnamed(
            step, option, f"the table '{of.table}' is in no schema", f"leave {SCHEMA} out"
        )
    values = {TABLE: of.table, SCHEMA: of.schema}
    if option == "path" and any(v in (".", "..") or "/" in v or "\\" in v for v in values.values()):
        shown = of.full
        raise _unnamed(
            step,
            option,
            f"'{shown}' cannot be part of a path",
            f"take it out: tables: ['!{shown}']",
        )
    source = text if isinstance(text, SourceText) else SourceText(text)
    new, template = str(text), source.template
    for mark, value in values.items():
        new, template = new.replace(mark, value), template.replace(mark, value)
    return SourceText(new, template=template, variables=source.variables)


def _unnamed(step: DestinationStep, option: str, why: str, help_: str) -> PlanError:
    return PlanError(
        f"the '{option}' of step '{step.name}' cannot be made: {why}",
        code="E0341",
        step=step.name,
        spot=step.spot_of("config", option),
        help=help_,
    )


def without_unread(whole: Workflow, written: Workflow) -> Workflow:
    """Without the steps of tables that reach no destination, where the step as it is written reaches one."""
    ahead = {str(n) for n in whole.destinations}
    used: set[str] = set()
    steps = {step.name: step for step in whole.steps()}
    while ahead:
        name = ahead.pop()
        used.add(name)
        step = steps[name]
        table = step.config.get("source") if step.type == "lookup" else None
        names = {ref.step for ref in step.inputs}
        ahead |= ({*names, str(table)} if isinstance(table, str) else names) & steps.keys() - used
    kept = used | {step.name for step in written.steps()}
    return replace(
        whole,
        sources={n: s for n, s in whole.sources.items() if n in kept},
        transformations={n: s for n, s in whole.transformations.items() if n in kept},
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join([*names[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])
