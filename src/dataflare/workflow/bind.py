"""Convert mappings of the file to Pydantic models, and Pydantic's errors to error blocks with places.

Always true: every wrong key or value of one mapping is reported once, at its exact place; an unknown
key is refused unless the model allows extra keys.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from pydantic import AliasChoices, BaseModel, ValidationError

from dataflare.errors import (
    ConfigError,
    DataFlareError,
    ManyErrors,
    PlanError,
    Spot,
    WorkflowError,
    did_you_mean,
    nearest,
    raise_all,
)
from dataflare.model.text import SourceText
from dataflare.security.redact import is_secret_name, redact
from dataflare.workflow.belongs import help_in_config
from dataflare.workflow.nodes import SpotList, SpotMap, Unresolved, key_spot_of, kind_of, spot_of
from dataflare.workflow.places import quoted, quoted_key
from dataflare.workflow.words import expected_words, statement

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[str | int, ...]


class Dialect(Struct, frozen=True):
    """The class and the codes of the errors."""

    error: type[DataFlareError]
    unknown: str
    missing: str
    wrong: str


CONFIG = Dialect(ConfigError, "E0403", "E0404", "E0405")
WORKFLOW = Dialect(WorkflowError, "E0103", "E0104", "E0105")


def bind(Config: type[Model], step_config: Mapping[str, Any], *, step: str) -> Model:  # noqa: N803
    """A step's config as the model of its connector or operator.

    step_config: `Step.config`, or plain values. Raises ConfigError (E0403 unknown key, E0404
    missing key, E0405 wrong value), or ManyErrors if there are several.
    """
    errors: list[DataFlareError] = []
    bound = validated(Config, step_config, f"step '{step}'", CONFIG, errors, step=step)
    raise_all(errors)
    assert bound is not None
    return bound


def validated(
    model: type[Model],
    node: Mapping[str, Any],
    owner: str,
    dialect: Dialect,
    errors: list[DataFlareError],
    *,
    step: str | None = None,
) -> Model | None:
    """The mapping as a model. None if it is wrong: then errors were added to `errors`, or the only
    problem is a missing variable, which was reported before."""
    complaints = _Errors(model, node, owner, dialect, step)
    bound: Model | None = None
    try:
        bound = model.model_validate(dict(node))
    except ValidationError as error:
        for each in error.errors(include_url=False):
            complaints.add(each)
    except ManyErrors as error:
        complaints.errors.extend(each.at(step=step) for each in error.errors)
    except DataFlareError as error:
        complaints.errors.append(error.at(step=step, spot=getattr(node, "spot", None)))
    complaints.extra(model, bound, node, ())
    errors.extend(complaints.result())
    return None if complaints.failed else bound


class _Errors:
    def __init__(
        self,
        model: type[BaseModel],
        node: Mapping[str, Any],
        owner: str,
        dialect: Dialect,
        step: str | None,
    ) -> None:
        self.model, self.node, self.owner = model, node, owner
        self.dialect, self.step = dialect, step
        self.errors: list[DataFlareError] = []
        self.wrong_values: dict[Place, list[str]] = {}
        self.failed = False
        self.unknown: set[Place] = set()
        self.misspelled: set[Place] = set()
        self.missing: dict[Place, DataFlareError] = {}

    def add(self, complaint: Any) -> None:
        """Add one of Pydantic's errors."""
        self.failed = True
        place, value = self._walk(complaint["loc"])
        if isinstance(value, Unresolved):
            return
        match complaint["type"]:
            case "missing":
                models = list(_models_at(self.model, place))
                self._missing(place, str(complaint["loc"][-1]), models)
            case "extra_forbidden":
                self._unknown(place[:-1], str(place[-1]), list(_models_at(self.model, place[:-1])))
            case _ if (message := statement(complaint)) is not None:
                self._add_statement(place, message)
            case _:
                words = expected_words(complaint)
                reported = self.wrong_values.setdefault(place, [])
                if words not in reported:
                    reported.append(words)

    def result(self) -> Iterator[DataFlareError]:
        """All errors, in the order of the file. A missing key is not reported if an unknown key is
        similar to it."""
        self.errors += [each for key, each in self.missing.items() if key not in self.misspelled]
        for place, words in self.wrong_values.items():
            self.errors.append(self._wrong_value(place, words))
        if self.errors:
            self.failed = True
        yield from sorted(self.errors, key=_order)

    def extra(self, model: type[BaseModel], bound: Any, node: Any, place: Place) -> None:
        """Find keys that the model ignores. bound: the validated value, or None."""
        if isinstance(bound, BaseModel):
            model = type(bound)
        if isinstance(node, Mapping) and model.model_config.get("extra") != "allow":
            keys = _keys(model)
            for key in node:
                if key not in keys:
                    self._unknown(place, str(key), [model])
        if not isinstance(bound, BaseModel) or not isinstance(node, Mapping):
            return
        for name, info in model.model_fields.items():
            for key in (spelling for spelling in _spellings(name, info) if spelling in node):
                if isinstance(node[key], bool) and type(getattr(bound, name)) in (int, float):
                    self.wrong_values[*place, key] = ["a number"]  # Pydantic takes true for 1.
                self._extra_below(getattr(bound, name), node[key], (*place, key))

    def _extra_below(self, bound: Any, node: Any, place: Place) -> None:
        if isinstance(bound, BaseModel):
            self.extra(type(bound), bound, node, place)
        elif isinstance(bound, Mapping) and isinstance(node, Mapping):
            for key, value in bound.items():
                self._extra_below(value, node.get(key), (*place, key))
        elif isinstance(bound, Sequence) and isinstance(node, list):
            for i, (value, item) in enumerate(zip(bound, node, strict=False)):
                self._extra_below(value, item, (*place, i))

    # -- errors

    def _missing(self, place: Place, key: str, models: list[type[BaseModel]]) -> None:
        description = next((d for m in models if (d := _description(m, key))), None)
        spot = getattr(self._value(place), "spot", None) or self._spot(place)
        self.missing[*place, key] = self.dialect.error(
            f"missing key '{_dotted((*place, key))}' in {self.owner}",
            code=self.dialect.missing,
            step=self.step,
            spot=spot,
            notes=[f"{key}: {description}"] if description else [],
            help=f"add '{key}'",
        )

    def _unknown(self, place: Place, key: str, models: list[type[BaseModel]]) -> None:
        self.failed = True
        if (*place, key) in self.unknown:
            return
        self.unknown.add((*place, key))
        keys = sorted({name for model in models for name in _keys(model)})
        later_keys = {k: v for model in models for k, v in getattr(model, "later", {}).items()}
        if key in later_keys:
            self.errors.append(
                PlanError(
                    f"'{key}' in {self.owner} is not available in this version",
                    code="E0314",
                    step=self.step,
                    spot=key_spot_of(self._value(place), key),
                    help=later_keys[key],
                )
            )
            return
        if near := nearest(key, keys):
            self.misspelled.add((*place, near))
        self.errors.append(
            self.dialect.error(
                f"unknown key '{_dotted((*place, key))}' in {self.owner}",
                code=self.dialect.unknown,
                step=self.step,
                spot=key_spot_of(self._value(place), key),
                notes=[f"known keys: {', '.join(keys)}"] if keys else [],
                help=(help_in_config(key, keys) or "take it out")
                if not place and self.dialect is CONFIG
                else did_you_mean(key, keys) or "take it out",
            )
        )

    def _add_statement(self, place: Place, message: str) -> None:
        spot = None if place else quoted(self.node, message) or quoted_key(self.node, message)
        separator = " " if message.startswith(("is ", "must ", "needs ")) else ": "
        self.errors.append(
            self.dialect.error(
                f"{self._subject(place)}{separator}{message}",
                code=self.dialect.wrong,
                step=self.step,
                spot=spot or self._spot(place),
            )
        )

    def _subject(self, place: Place) -> str:
        return f"'{_dotted(place)}' in {self.owner}" if place else self.owner

    def _wrong_value(self, place: Place, words: list[str]) -> DataFlareError:
        value = self._value(place)
        literals = [word for each in words for word in each.split("'")[1::2]]
        near = did_you_mean(str(value), literals) if isinstance(value, str) and literals else None
        notes = [f"expected: {', or '.join(words)}"]
        if place:
            notes.append(f"found: {found_words(value, str(place[-1]))}")
        return self.dialect.error(
            f"wrong value for {self._subject(place)}",
            code=self.dialect.wrong,
            step=self.step,
            spot=self._spot(place),
            notes=notes,
            help=near or _quote_help(value, words),
        )

    # -- places

    def _walk(self, loc: tuple[str | int, ...]) -> tuple[Place, Any]:
        """Pydantic's location without the names of union members, and the value there."""
        place: list[str | int] = []
        value: Any = self.node
        for part in loc:
            if isinstance(value, Mapping):
                exists = part in value
            else:
                exists = isinstance(value, list) and isinstance(part, int) and part < len(value)
            if exists:
                value = value[part]
                place.append(part)
        return tuple(place), value

    def _value(self, place: Place) -> Any:
        value: Any = self.node
        for part in place:
            value = value[part]
        return value

    def _spot(self, place: Place) -> Spot | None:
        if not place:
            return getattr(self.node, "spot", None)
        return spot_of(self._value(place[:-1]), place[-1]) or self._spot(place[:-1])


def found_words(value: Any, key: str = "") -> str:
    """A value as an error shows it: as it was written, short, and without secrets."""
    if isinstance(value, str):
        if is_secret_name(key):
            return "text"
        text = redact(_as_written(value))
        text = text if len(text) <= 60 else text[:57] + "..."
        return f"text '{text}'" if "\n" not in text else "text of several lines"
    if value is None or isinstance(value, SpotMap | SpotList | dict | list):
        return kind_of(value)
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _as_written(value: str) -> str:
    """Text with its variables by name. Parameters are shown by value, because they are not secrets."""
    if not isinstance(value, SourceText):
        return value
    if all(variable.shown.startswith("${param:") for variable in value.variables):
        return str(value)
    return value.shown


def _quote_help(value: Any, words: list[str]) -> str | None:
    if words == ["text"] and isinstance(value, bool | int | float):
        return f'write it in quotes: "{found_words(value)}"'
    return None


def _order(error: DataFlareError) -> tuple[str, int, int]:
    spot = error.spot
    return (spot.file, spot.line, spot.column) if spot else ("", 0, 0)


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place)


# -- the fields of a model


def _key(name: str, info: Any) -> str:
    alias = info.validation_alias if isinstance(info.validation_alias, str) else info.alias
    return alias or name


def _spellings(name: str, info: Any) -> list[str]:
    """The names of a key in a file, the usual name first."""
    if isinstance(info.validation_alias, AliasChoices):
        return [each for each in info.validation_alias.choices if isinstance(each, str)]
    return [_key(name, info)]


def _keys(model: type[BaseModel]) -> set[str]:
    return {key for name, info in model.model_fields.items() for key in _spellings(name, info)}


def _description(model: type[BaseModel], key: str) -> str | None:
    for name, info in model.model_fields.items():
        if _key(name, info) == key:
            return info.description
    return None


def _models_at(model: type[BaseModel], place: Place) -> Iterator[type[BaseModel]]:
    """The possible models of a mapping at this place."""
    if not place:
        yield model
        return
    for name, info in model.model_fields.items():
        if _key(name, info) == place[0]:
            yield from _models_in(info.annotation, place[1:])


def _models_in(annotation: Any, place: Place) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _models_at(annotation, place)
        return
    origin = typing.get_origin(annotation)
    members = typing.get_args(annotation)
    container = isinstance(origin, type) and issubclass(
        origin, list | dict | tuple | Sequence | Mapping
    )
    for member in members:
        if not container:
            yield from _models_in(member, place)
        elif place:
            yield from _models_in(member, place[1:])
