"""The file's mapping, variables filled in, made a Workflow. All errors of the form are collected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dataflare.errors import DataFlareError, Spot, WorkflowError, did_you_mean
from dataflare.model.types import Schema, parse_type
from dataflare.workflow.bind import WORKFLOW, found_words, validated
from dataflare.workflow.graph import check_graph
from dataflare.workflow.model import (
    DestinationStep,
    InputRef,
    SourceStep,
    TransformationStep,
    Workflow,
    WorkflowTest,
)
from dataflare.workflow.nodes import SpotList, SpotMap, key_spot_of, kind_of, spot_of
from dataflare.workflow.params import Parameter
from dataflare.workflow.settings import ErrorHandling, EventTime, RetryPolicy, Settings
from dataflare.workflow.variables import Unresolved

TOP_KEYS = (
    "name",
    "version",
    "description",
    "include",
    "params",
    "settings",
    "sources",
    "transformations",
    "destinations",
    "tests",
)
STEP_KEYS = {
    "source": ("type", "config", "schema", "event_time", "error_handling", "description"),
    "transformation": ("type", "inputs", "config", "error_handling", "description"),
    "destination": ("type", "inputs", "config", "error_handling", "description"),
}
TEST_KEYS = ("name", "description", "params", "given", "expect")
VERSION = "1.0"
NAME_MAX = 63
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_STEP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_Made = TypeVar("_Made", SourceStep, TransformationStep, DestinationStep)


def build(
    root: SpotMap,
    *,
    params: Mapping[str, Parameter],
    file: Path | None,
    base: Path,
    secrets: frozenset[str],
    errors: list[DataFlareError],
) -> Workflow | None:
    """The workflow; None when `errors` is not empty at the end."""
    builder = _Builder(errors)
    builder.keys(root, TOP_KEYS, "the workflow", extensions=True)
    name = builder.name(root)
    builder.version(root)
    description = builder.text(root, "description", "the workflow")
    settings = builder.settings(root)
    handling = settings.error_handling
    sources = builder.steps(root, "sources", SourceStep, handling)
    transformations = builder.steps(root, "transformations", TransformationStep, handling)
    destinations = builder.steps(root, "destinations", DestinationStep, handling)
    tests = builder.tests(root)
    workflow = Workflow(
        name=name,
        version=VERSION,
        description=description,
        params=params,
        settings=settings,
        sources=sources,
        transformations=transformations,
        destinations=destinations,
        tests=tests,
        file=file,
        base=base,
        secrets_seen=secrets,
        spot=root.spot,
        node=root,
    )
    check_graph(workflow, errors, whole=not builder.broken)
    return None if errors else workflow


class _Builder:
    """Reads one part of the file per method. broken: a step was left out, so that the graph is not
    whole and what is missing in it is not the user's second error."""

    def __init__(self, errors: list[DataFlareError]) -> None:
        self.errors = errors
        self.broken = False
        self.places: dict[str, tuple[str, Spot | None]] = {}

    # -- the head

    def name(self, root: SpotMap) -> str:
        if "name" not in root:
            self._missing("name", "the workflow", root.spot, "name it: name: my_workflow")
            return ""
        value = self._version_text(root["name"])
        if isinstance(value, Unresolved):
            return ""
        if not isinstance(value, str):
            self._wrong("'name' is text", spot_of(root, "name"), value)
            return ""
        if _NAME.fullmatch(value) is None or len(value) > NAME_MAX:
            self.errors.append(
                WorkflowError(
                    f"'{_short(value)}' cannot be a workflow's name",
                    code="E0106",
                    spot=spot_of(root, "name"),
                    notes=[
                        "expected: a small letter, then small letters, digits, '_' and '-', "
                        f"at most {NAME_MAX}"
                    ],
                    help=_better_name(value),
                )
            )
        return str(value)

    def version(self, root: SpotMap) -> None:
        if "version" not in root:
            return
        value = root["version"]
        if isinstance(value, Unresolved) or self._version_text(value) == VERSION:
            return
        self.errors.append(
            WorkflowError(
                f"this is version {found_words(value)} of the file format, which is not known here"
                if not isinstance(value, str)
                else f"version '{_short(value)}' of the file format is not known here",
                code="E0107",
                spot=spot_of(root, "version"),
                notes=[f'known versions: "{VERSION}"'],
                help=f'write version: "{VERSION}"',
            )
        )

    @staticmethod
    def _version_text(value: Any) -> Any:
        return str(value) if type(value) is float else value

    def text(self, node: SpotMap, key: str, owner: str) -> str | None:
        """Optional text."""
        value = node.get(key)
        if value is None:
            return None
        if isinstance(value, dict | list):
            self._wrong(f"'{key}' of {owner} is text", spot_of(node, key), value)
            return None
        return str(value)

    def settings(self, root: SpotMap) -> Settings:
        node = self.mapping(root, "settings")
        if not node:
            return Settings()
        return validated(Settings, node, "'settings'", WORKFLOW, self.errors) or Settings()

    # -- steps

    def steps(
        self, root: SpotMap, section: str, kind: type[_Made], default: ErrorHandling
    ) -> dict[str, _Made]:
        """A section's steps by name; wrong ones are left out."""
        node = self.mapping(root, section)
        made = {}
        for name in node:
            self._step_name(name, section, key_spot_of(node, name))
            step = self._step(node, name, kind, default)
            if step is None:
                self.broken = True
            else:
                made[name] = step
        return made

    def _step_name(self, name: str, section: str, spot: Spot | None) -> None:
        if _STEP_NAME.fullmatch(name) is None or len(name) > NAME_MAX:
            self.errors.append(
                WorkflowError(
                    f"'{_short(name)}' cannot be a step's name",
                    code="E0106",
                    spot=spot,
                    notes=[
                        "expected: a letter or '_', then letters, digits, '_' and '-', "
                        f"at most {NAME_MAX}"
                    ],
                    help=_better_name(name),
                )
            )
        first = self.places.setdefault(name, (section, spot))
        if first[1] is not spot:
            where = f", line {first[1].line}" if first[1] else ""
            self.errors.append(
                WorkflowError(
                    f"two steps have the name '{name}'",
                    code="E0109",
                    spot=spot,
                    notes=[f"the first is in '{first[0]}'{where}"],
                    help="a name is unique over the whole file: rename one of them",
                )
            )
            self.broken = True

    def _step(
        self, section: SpotMap, name: str, kind: type[_Made], default: ErrorHandling
    ) -> _Made | None:
        node, spot = section[name], key_spot_of(section, name)
        owner = f"step '{name}'"
        if not isinstance(node, SpotMap):
            self._wrong(f"{owner} is a mapping", spot_of(section, name) or spot, node)
            return None
        word = kind.__name__.removesuffix("Step").lower()
        self.keys(node, STEP_KEYS[word], owner)
        type_ = node.get("type")
        if "type" not in node:
            self._missing("type", owner, spot)
        elif not isinstance(type_, str) or not type_:
            self._wrong(f"the type of {owner} is text", spot_of(node, "type"), type_)
        config = self.mapping(node, "config", owner=owner, spot=spot)
        handling = self._handling(node, config, owner, name).over(default)
        more: dict[str, Any] = {}
        if kind is SourceStep:
            more["schema"] = self._schema(node, owner)
            more["event_time"] = self._event_time(node, owner, name)
        elif (inputs := self._inputs(node, owner, spot)) is not None:
            more["inputs"] = inputs
        else:
            return None
        if not isinstance(type_, str):
            return None
        return kind(
            name=name,
            type=str(type_),
            config=config.without("retry_policy"),
            description=self.text(node, "description", owner),
            error_handling=handling,
            spot=spot,
            node=node,
            **more,
        )

    def _handling(self, node: SpotMap, config: SpotMap, owner: str, step: str) -> ErrorHandling:
        own = self.mapping(node, "error_handling", owner=owner)
        made = ErrorHandling()
        if own:
            where = f"'error_handling' of {owner}"
            made = validated(ErrorHandling, own, where, WORKFLOW, self.errors, step=step) or made
        if "retry_policy" not in config:
            return made
        if own.keys() & {"retry_count", "retry_policy"}:
            self.errors.append(
                WorkflowError(
                    f"{owner} says twice how to retry: in 'config' and in 'error_handling'",
                    code="E0105",
                    step=step,
                    spot=key_spot_of(config, "retry_policy"),
                    help="give one of them",
                )
            )
            return made
        policy = self.mapping(config, "retry_policy", owner=owner)
        where = f"'retry_policy' of {owner}"
        retry = validated(RetryPolicy, policy, where, WORKFLOW, self.errors, step=step)
        return made.model_copy(update={"retry_policy": retry})

    def _schema(self, node: SpotMap, owner: str) -> Schema | None:
        if node.get("schema") is None:
            return None
        columns = self.mapping(node, "schema", owner=owner)
        found = {}
        for column, written in columns.items():
            if not isinstance(written, str):
                self._wrong(
                    f"the type of the column '{column}' is text", spot_of(columns, column), written
                )
                continue
            try:
                found[column] = parse_type(str(written))
            except WorkflowError as error:
                self.errors.append(error.at(spot=spot_of(columns, column)))
        return Schema.of(found)

    def _event_time(self, node: SpotMap, owner: str, step: str) -> EventTime | None:
        if node.get("event_time") is None:
            return None
        own = self.mapping(node, "event_time", owner=owner)
        where = f"'event_time' of {owner}"
        return validated(EventTime, own, where, WORKFLOW, self.errors, step=step)

    def _inputs(self, node: SpotMap, owner: str, spot: Spot | None) -> tuple[InputRef, ...] | None:
        value, place = node.get("inputs"), spot_of(node, "inputs")
        if value is None or value == []:
            self.errors.append(
                WorkflowError(
                    f"{owner} has no inputs",
                    code="E0104",
                    spot=key_spot_of(node, "inputs") or spot,
                    help="name the steps it reads: inputs: [step]",
                )
            )
            return None
        listed = value if isinstance(value, SpotList) else SpotList([value])
        if not listed.spots and place is not None:
            listed.spots = [place] * len(listed)
        refs = []
        for i, item in enumerate(listed):
            if not isinstance(item, str) or not item:
                self._wrong(
                    f"'inputs' of {owner} is a list of step names", spot_of(listed, i), item
                )
                return None
            if isinstance(item, Unresolved):
                return None
            step, _, output = item.partition(".")
            refs.append(
                InputRef(step, output or None, getattr(item, "spot", None) or spot_of(listed, i))
            )
        return tuple(refs)

    # -- tests

    def tests(self, root: SpotMap) -> tuple[WorkflowTest, ...]:
        value = root.get("tests")
        if value is None:
            return ()
        if not isinstance(value, SpotList):
            self._wrong("'tests' is a list", spot_of(root, "tests"), value)
            return ()
        made = (self._test(item, i, spot_of(value, i)) for i, item in enumerate(value))
        return tuple(test for test in made if test is not None)

    def _test(self, node: Any, index: int, spot: Spot | None) -> WorkflowTest | None:
        if not isinstance(node, SpotMap):
            self._wrong("a test is a mapping: name, given, expect", spot, node)
            return None
        name = self.text(node, "name", "a test") or f"test {index + 1}"
        owner = f"test '{name}'"
        self.keys(node, TEST_KEYS, owner)
        for key in ("given", "expect"):
            if key not in node:
                self._missing(key, owner, spot)
        return WorkflowTest(
            name=name,
            given=self._rows(node, "given", owner),
            expect=self._rows(node, "expect", owner),
            params=self.mapping(node, "params", owner=owner),
            description=self.text(node, "description", owner),
            spot=spot,
            node=node,
        )

    def _rows(self, node: SpotMap, key: str, owner: str) -> SpotMap:
        steps = self.mapping(node, key, owner=owner)
        for name, rows in steps.items():
            if not isinstance(rows, SpotList):
                self._wrong(
                    f"'{key}.{name}' of {owner} is a list of rows", spot_of(steps, name), rows
                )
                continue
            for i, row in enumerate(rows):
                if not isinstance(row, SpotMap):
                    self._wrong(
                        f"a row in '{key}.{name}' of {owner} is a mapping", spot_of(rows, i), row
                    )
        return steps

    # -- small things

    def mapping(
        self, node: SpotMap, key: str, *, owner: str = "the workflow", spot: Spot | None = None
    ) -> SpotMap:
        """The mapping under a key; an empty one, placed at `spot`, when there is none."""
        value = node.get(key)
        if isinstance(value, SpotMap):
            return value
        if value is not None and not isinstance(value, Unresolved):
            self._wrong(f"'{key}' of {owner} is a mapping", spot_of(node, key), value)
        return SpotMap(spot=key_spot_of(node, key) or spot)

    def keys(
        self, node: SpotMap, known: Iterable[str], owner: str, *, extensions: bool = False
    ) -> None:
        """Refuse keys that are not known. extensions: `x-...` may hold what anchors are made of."""
        for key in node:
            if key in known or (extensions and key.startswith("x-")):
                continue
            self.errors.append(
                WorkflowError(
                    f"unknown key '{_short(key)}' in {owner}",
                    code="E0103",
                    spot=key_spot_of(node, key),
                    notes=[f"known keys: {', '.join(known)}"],
                    help=did_you_mean(key, known),
                )
            )

    def _missing(self, key: str, owner: str, spot: Spot | None, help: str | None = None) -> None:
        message = f"missing key '{key}' in {owner}"
        self.errors.append(WorkflowError(message, code="E0104", spot=spot, help=help))

    def _wrong(self, message: str, spot: Spot | None, value: Any) -> None:
        if isinstance(value, Unresolved):
            return
        found = kind_of(value) if value != "" else "empty text"
        self.errors.append(
            WorkflowError(message, code="E0105", spot=spot, notes=[f"found: {found}"])
        )


def _short(text: str) -> str:
    shown = text if len(text) <= 70 else text[:67] + "..."
    return shown.encode("unicode_escape").decode() if not shown.isprintable() else str(shown)


def _better_name(text: str) -> str | None:
    better = (
        re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_-").lstrip("0123456789_-")[:NAME_MAX]
    )
    return f"write '{better}'" if better else None
