"""A validated workflow with its variables replaced. Every part has its place in the file.

Always true: names are unique, every input names an existing step, the graph is acyclic and all steps
are used; secret values are in the config and in `secrets_seen`, and in no repr or JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from dataflare.errors import DataFlareError, Spot, WorkflowError, did_you_mean
from dataflare.model.record import Discreet
from dataflare.model.types import Schema
from dataflare.observability.alerts import Rule
from dataflare.observability.notifiers import Notifier
from dataflare.sdk.streams import TableName
from dataflare.security.redact import MASK
from dataflare.workflow.fingerprint import fingerprint
from dataflare.workflow.nodes import SpotMap, key_spot_of, spot_of
from dataflare.workflow.params import Parameter
from dataflare.workflow.places import place_of
from dataflare.workflow.settings import ErrorHandling, EventTime, RateLimit, Settings
from dataflare.workflow.shown import shown


class InputRef(Struct, frozen=True):
    """An input of a step: another step, or one of its named outputs."""

    step: str
    output: str | None = None
    spot: Spot | None = None

    def __str__(self) -> str:
        return self.step if self.output is None else f"{self.step}.{self.output}"


class Step(Discreet, frozen=True, kw_only=True):
    """One step. config: plain values; its strings are SourceText. spot: of the step's key.

    error_handling: the step's own merged over that of the settings, with a `retry_policy` of its config.
    was: its name in a savepoint. rate: of a source or a destination, the highest that it may have. node: the step as it was written, for places.
    """

    hidden = ("config", "node")

    name: str
    type: str
    config: SpotMap = field(default_factory=SpotMap)
    description: str | None = None
    was: str | None = None
    rate: RateLimit | None = None
    error_handling: ErrorHandling = field(default_factory=ErrorHandling)
    spot: Spot | None = None
    node: SpotMap = field(default_factory=SpotMap)

    @property
    def kind(self) -> str:
        return "step"

    @property
    def type_spot(self) -> Spot | None:
        """The place of the step's type."""
        return self.spot_of("type")

    def spot_of(self, *path: str | int) -> Spot | None:
        """The place of the value at a path such as ("config", "table"); else of the deepest part that
        exists, else of the step."""
        return self._find(path, spot_of)

    def key_spot_of(self, *path: str | int) -> Spot | None:
        """The place of the key at the end of a path; else of the deepest part that exists."""
        return self._find(path, key_spot_of)

    def place_of(self, error: DataFlareError) -> Spot | None:
        """The place in this step for an error without a place."""
        return place_of(self, error)

    def _find(self, path: tuple[str | int, ...], last: Any) -> Spot | None:
        node: Any = self.node
        best = self.spot
        for i, part in enumerate(path):
            spot = (last if i == len(path) - 1 else spot_of)(node, part)
            if spot is None:
                return best
            best, node = spot, node[part]
        return best


class SourceStep(Step, frozen=True, kw_only=True):
    """A source. schema: the columns that the user declared, or None. notes: what `plan` says of it."""

    schema: Schema | None = None
    event_time: EventTime | None = None
    inputs: tuple[InputRef, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "source"


class TransformationStep(Step, frozen=True, kw_only=True):
    """A transformation."""

    inputs: tuple[InputRef, ...] = ()

    @property
    def kind(self) -> str:
        return "transformation"


class DestinationStep(Step, frozen=True, kw_only=True):
    """A destination."""

    inputs: tuple[InputRef, ...] = ()

    @property
    def kind(self) -> str:
        return "destination"


AnyStep = SourceStep | TransformationStep | DestinationStep


class WorkflowTest(Discreet, frozen=True, kw_only=True):
    """Rows given at sources, and rows expected at steps (or at one of their outputs)."""

    hidden = ("given", "expect", "node")

    name: str
    given: Mapping[str, list[dict[str, Any]]]
    expect: Mapping[str, list[dict[str, Any]]]
    params: Mapping[str, Any] = field(default_factory=dict)
    description: str | None = None
    spot: Spot | None = None
    node: SpotMap = field(default_factory=SpotMap)

    @property
    def ordered(self) -> bool:
        """Whether the rows must come in the expected order."""
        return self.node.get("ordered") is True


class Workflow(Discreet, frozen=True, kw_only=True):
    """base: the folder of relative paths. file: None for text and Python.

    params: the declared parameters with their values. secrets_seen: the values of `${secret:...}`;
    masked: these and the passwords written in the file, which must never be shown.
    families: by step that stands for many tables, the table of each of its streams. None: the steps are as they
    are written, and no source was asked for its tables.
    """

    hidden = ("notifiers", "secrets_seen", "masked", "node")

    name: str
    version: str = "1.0"
    description: str | None = None
    params: Mapping[str, Parameter] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    sources: Mapping[str, SourceStep] = field(default_factory=dict)
    transformations: Mapping[str, TransformationStep] = field(default_factory=dict)
    destinations: Mapping[str, DestinationStep] = field(default_factory=dict)
    alerts: tuple[Rule, ...] = ()
    notifiers: Mapping[str, Notifier] = field(default_factory=dict)
    tests: tuple[WorkflowTest, ...] = ()
    file: Path | None = None
    base: Path = field(default_factory=Path)
    secrets_seen: frozenset[str] = frozenset()
    masked: frozenset[str] = frozenset()
    spot: Spot | None = None
    node: SpotMap = field(default_factory=SpotMap)
    families: Mapping[str, Mapping[str, TableName]] | None = None

    def steps(self) -> Iterator[AnyStep]:
        """All steps in the order of the file: sources, transformations, destinations."""
        yield from self.sources.values()
        yield from self.transformations.values()
        yield from self.destinations.values()

    def step(self, name: str) -> AnyStep:
        """The step of that name. Raises WorkflowError (E0108) naming the nearest one."""
        for step in self.steps():
            if step.name == name:
                return step
        names = [step.name for step in self.steps()]
        raise WorkflowError(
            f"there is no step '{name}' in the workflow '{self.name}'",
            code="E0108",
            notes=[f"its steps: {', '.join(names)}"],
            help=did_you_mean(name, names),
        )

    def fingerprint_of(self, name: str) -> str:
        """A hash of the parts that must not change between a stopped run and its resume: the step's
        type, inputs, config, schema, event time and handling of bad rows. Retries, `rate`,
        descriptions and values of secrets are not part of it; names of secrets are."""
        return fingerprint(self.step(name), self.settings.run_column)

    def fingerprints(self) -> dict[str, str]:
        """`fingerprint_of` each step."""
        column = self.settings.run_column
        return {step.name: fingerprint(step, column) for step in self.steps()}

    def to_json(self) -> dict[str, Any]:
        """The workflow as plain data, to show or to send: secrets by name, passwords hidden."""
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "params": {
                name: {
                    "type": str(param.type),
                    "value": MASK if param.secret else shown(param.text, key=name),
                }
                for name, param in self.params.items()
            },
            "settings": shown(self.settings.model_dump()),
            "sources": {name: _step_json(step) for name, step in self.sources.items()},
            "transformations": {n: _step_json(step) for n, step in self.transformations.items()},
            "destinations": {name: _step_json(step) for name, step in self.destinations.items()},
            "alerts": shown(self.node.get("alerts") or []),
            "notifiers": {name: {"type": each.kind} for name, each in self.notifiers.items()},
            "tests": [
                {"name": test.name, "given": shown(test.given), "expect": shown(test.expect)}
                for test in self.tests
            ],
        }


def _step_json(step: AnyStep) -> dict[str, Any]:
    value: dict[str, Any] = {"type": step.type}
    if step.description is not None:
        value["description"] = step.description
    if step.inputs:
        value["inputs"] = [str(ref) for ref in step.inputs]
    value["config"] = shown(step.config)
    if isinstance(step, SourceStep):
        if step.schema is not None:
            value["schema"] = step.schema.to_json()
        if step.event_time is not None:
            value["event_time"] = step.event_time.model_dump(mode="json")
    if step.rate is not None:
        value["rate"] = shown(step.node["rate"])
    if "error_handling" in step.node:
        value["error_handling"] = shown(step.node["error_handling"])
    return value
