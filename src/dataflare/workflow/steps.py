"""The steps of the file's three sections."""

from __future__ import annotations

import contextlib
import re
from typing import Any, TypeVar

from dataflare.errors import DataFlareError, Spot, WorkflowError
from dataflare.model.types import Schema
from dataflare.resilience.policy import RetryPolicy
from dataflare.workflow.belongs import help_in_step
from dataflare.workflow.bind import WORKFLOW, validated
from dataflare.workflow.form import NAME_MAX, Form, better_name, short
from dataflare.workflow.model import DestinationStep, InputRef, SourceStep, TransformationStep
from dataflare.workflow.nodes import SpotList, SpotMap, Unresolved, key_spot_of, spot_of
from dataflare.workflow.params import read_type
from dataflare.workflow.settings import ErrorHandling, EventTime, RateLimit

STEP_KEYS = {
    "source": (
        *("type", "config", "schema", "event_time", "rate", "error_handling"),
        *("description", "was"),
    ),
    "transformation": ("type", "inputs", "config", "error_handling", "description", "was"),
    "destination": ("type", "inputs", "config", "rate", "error_handling", "description", "was"),
}
_STEP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_Step = TypeVar("_Step", SourceStep, TransformationStep, DestinationStep)


class StepReader(Form):
    """Reads the sections one after the other. unread: a section could not be read, or two steps have
    one name. broken: a step could not be read, so gaps in the graph are not reported as more errors."""

    def __init__(self, errors: list[DataFlareError]) -> None:
        super().__init__(errors)
        self.unread = self.broken = False
        self.places: dict[str, tuple[str, Spot | None]] = {}

    def steps(
        self, root: SpotMap, section: str, kind: type[_Step], default: ErrorHandling
    ) -> dict[str, _Step]:
        """A section's steps by name. A wrong step is included, with the parts that could be read."""
        node = self.mapping(root, section)
        self.unread |= not isinstance(root.get(section), SpotMap | None)
        for name in node:
            self._step_name(name, section, key_spot_of(node, name))
        return {name: self._step(node, name, kind, default) for name in node}

    def _step_name(self, name: str, section: str, spot: Spot | None) -> None:
        if _STEP_NAME.fullmatch(name) is None or len(name) > NAME_MAX:
            self.errors.append(
                WorkflowError(
                    f"'{short(name)}' cannot be a step's name",
                    code="E0106",
                    spot=spot,
                    notes=[
                        "expected: a letter or '_', then letters, digits, '_' and '-', "
                        f"at most {NAME_MAX}"
                    ],
                    help=better_name(name),
                )
            )
        first = self.places.setdefault(name, (section, spot))
        if first[1] is not spot:
            first_line = f", line {first[1].line}" if first[1] else ""
            self.errors.append(
                WorkflowError(
                    f"two steps have the name '{name}'",
                    code="E0109",
                    spot=spot,
                    notes=[f"the first is in '{first[0]}'{first_line}"],
                    help="a name is unique over the whole file: rename one of them",
                )
            )
            self.unread = True

    def _step(
        self, section: SpotMap, name: str, kind: type[_Step], default: ErrorHandling
    ) -> _Step:
        node, spot = section[name], key_spot_of(section, name)
        owner = f"step '{name}'"
        if not isinstance(node, SpotMap):
            self.wrong(f"{owner} must be a mapping", spot_of(section, name) or spot, node)
            self.broken = True
            return kind(name=name, type="", spot=spot)
        word = kind.__name__.removesuffix("Step").lower()
        type_ = node.get("type")
        self.keys(
            node,
            STEP_KEYS[word],
            owner,
            help=lambda key, known: help_in_step(key, known, word, type_),
        )
        if "type" not in node:
            self.missing("type", owner, spot)
        elif not isinstance(type_, str) or not type_:
            self.wrong(f"the type of {owner} must be text", spot_of(node, "type"), type_)
        config = self.mapping(node, "config", owner=owner, spot=spot)
        handling = self._handling(node, config, owner, name)
        if config.get("mode") == "mirror" and "on_error" not in handling.model_fields_set:
            # A mirror must not lack rows, so only the step can allow it, and the settings cannot.
            handling = handling.model_copy(update={"on_error": "fail"})
        handling = handling.over(default)
        more: dict[str, Any] = {}
        if kind is SourceStep:
            more["schema"] = self._schema(node, owner)
            more["event_time"] = self._event_time(node, owner, name)
        else:
            more["inputs"] = self._inputs(node, owner, spot)
        if "rate" in STEP_KEYS[word]:
            more["rate"] = self._rate(node, owner, name)
        return kind(
            name=name,
            type=str(type_),
            config=config.without("retry_policy"),
            description=self.text(node, "description", owner),
            was=self._was(node, owner, name),
            error_handling=handling,
            spot=spot,
            node=node,
            **more,
        )

    def _was(self, node: SpotMap, owner: str, name: str) -> str | None:
        """The name that the step had in a savepoint."""
        was = self.text(node, "was", owner)
        if was is not None and (_STEP_NAME.fullmatch(was) is None or was == name):
            self.wrong(
                f"'was' of {owner} must be the step's former name", spot_of(node, "was"), was
            )
            return None
        return was

    def _handling(self, node: SpotMap, config: SpotMap, owner: str, step: str) -> ErrorHandling:
        node_handling = self.mapping(node, "error_handling", owner=owner)
        handling = ErrorHandling()
        if node_handling:
            handling_owner = f"'error_handling' of {owner}"
            handling = (
                validated(
                    ErrorHandling, node_handling, handling_owner, WORKFLOW, self.errors, step=step
                )
                or handling
            )
        if "retry_policy" not in config:
            return handling
        if node_handling.keys() & {"retry_count", "retry_policy"}:
            self.errors.append(
                WorkflowError(
                    f"{owner} has two retry policies: in 'config' and in 'error_handling'",
                    code="E0105",
                    step=step,
                    spot=key_spot_of(config, "retry_policy"),
                    help="give one of them",
                )
            )
            return handling
        policy = self.mapping(config, "retry_policy", owner=owner)
        handling_owner = f"'retry_policy' of {owner}"
        retry = validated(RetryPolicy, policy, handling_owner, WORKFLOW, self.errors, step=step)
        return handling.model_copy(update={"retry_policy": retry})

    def _schema(self, node: SpotMap, owner: str) -> Schema | None:
        if node.get("schema") is None:
            return None
        columns = self.mapping(node, "schema", owner=owner)
        types = {}
        for column, type_text in columns.items():
            subject = f"the type of the column '{column}'"
            type_ = read_type(type_text, spot_of(columns, column), subject, self.errors)
            if type_ is not None:
                types[column] = type_
        return Schema.of(types)

    def _event_time(self, node: SpotMap, owner: str, step: str) -> EventTime | None:
        if node.get("event_time") is None:
            return None
        event_time = self.mapping(node, "event_time", owner=owner)
        event_time_owner = f"'event_time' of {owner}"
        return validated(EventTime, event_time, event_time_owner, WORKFLOW, self.errors, step=step)

    def _rate(self, node: SpotMap, owner: str, step: str) -> RateLimit | None:
        value = node.get("rate")
        if value is None or isinstance(value, Unresolved):
            return None
        if not isinstance(value, str):
            if isinstance(value, SpotMap):
                rate_owner = f"'rate' of {owner}"
                return validated(RateLimit, value, rate_owner, WORKFLOW, self.errors, step=step)
        else:
            with contextlib.suppress(ValueError):
                return RateLimit.of_text(value)
        expected = (
            f"'rate' of {owner} must be such as 1000/s, 10MiB/s or {{rows: 1000/s, bytes: 10MiB/s}}"
        )
        self.wrong(expected, spot_of(node, "rate"), value)
        return None

    def _inputs(self, node: SpotMap, owner: str, spot: Spot | None) -> tuple[InputRef, ...]:
        value, place = node.get("inputs"), spot_of(node, "inputs")
        if value is None or value == []:
            self.broken = True
            self.errors.append(
                WorkflowError(
                    f"{owner} has no inputs",
                    code="E0104",
                    spot=key_spot_of(node, "inputs") or spot,
                    help="name the steps it reads: inputs: [step]",
                )
            )
            return ()
        listed = value if isinstance(value, SpotList) else SpotList([value])
        if not listed.spots and place is not None:
            listed.spots = [place] * len(listed)
        refs = []
        for i, item in enumerate(listed):
            item_spot = spot_of(listed, i)
            if isinstance(item, str) and item and not isinstance(item, Unresolved):
                step, _, output = (item, "", "") if item in self.places else item.partition(".")
                refs.append(
                    InputRef(step, output or None, getattr(item, "spot", None) or item_spot)
                )
                continue
            self.broken = True
            self.wrong(f"'inputs' of {owner} must be a list of step names", item_spot, item)
        return tuple(refs)
