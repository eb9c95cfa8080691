"""What stands on each side of a comparison: a step of a workflow file, or a place such as `shop.db#orders`.

Always true: nothing is connected to here, except a source of many tables, which is asked for them; a destination is read by the source of its type, which reads the table that
it writes; a system whose rows are gone when they are read is refused.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.errors import DataFlareError, WorkflowError, did_you_mean
from dataflare.jobs.diff.columns import LEFT, RIGHT
from dataflare.planner.families import expanded
from dataflare.sdk import registry
from dataflare.sdk.catalog import SupportsCatalog, listed
from dataflare.security.redact import redact
from dataflare.workflow.load import load_text
from dataflare.workflow.model import DestinationStep, InputRef, Workflow

REFUSED = "E0129"
COMMAND_LINE = "<command line>"
_STEP = re.compile(r"(?P<file>.*\.ya?ml)?:(?P<step>[A-Za-z0-9_\-]+(?:\..+)?)", re.DOTALL)
_TYPED = re.compile(r"(?P<type>[a-z][a-z0-9_]*):(?!//)(?P<rest>.+)", re.DOTALL)
_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+]*)://")
_SCHEMES = {
    "postgres": "postgres", "postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql",
    "clickhouse": "clickhouse",
}  # fmt: skip
_SUFFIXES = {".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite", ".duckdb": "duckdb"}
_CONNECTIONS = ("connection_string", "path", "url", "connection")
_THINGS = ("table", "topic", "index", "sheet")
_KEPT = ("clickhouse", "delta", "iceberg", "elasticsearch", "opensearch", "memory")
"""Types whose rows stay when they are read, beside those with a catalogue."""
_OF_WRITING = ("batch_size",)
_TEXT_FORMATS = ("csv", "ndjson", "json", "tsv", "jsonl", "txt")
_WHERE = "--where"
"""The step of a condition. No step of a file can have this name."""


class Side(Struct, frozen=True):
    """label: as the user wrote it. step: the output of `workflow` whose rows are compared. key: of the destination,
    if it is one. written: the destination whose rows they are, where the place itself keeps no types."""

    label: str
    workflow: Workflow
    step: str
    key: tuple[str, ...] = ()
    written: tuple[Workflow, str] | None = None


def sides(left: str, right: str, load: Callable[[Path], Workflow]) -> tuple[Side, Side]:
    """The two sides. A right one such as `:step` is in the file of the left one. Raises WorkflowError (E0129)."""
    loaded: dict[Path, Workflow] = {}

    def load_once(file: Path) -> Workflow:
        if file not in loaded:
            loaded[file] = asyncio.run(expanded(_without_logs(load(file))))
        return loaded[file]

    left_step = _STEP.fullmatch(left)
    if left_step is not None and not left_step["file"]:
        raise refused(f"'{left}' names a step, but no file", "write FILE.yaml:STEP")
    file = left_step["file"] if left_step is not None else None
    return side(left, LEFT, load_once), side(right, RIGHT, load_once, file)


def side(text: str, name: str, load: Callable[[Path], Workflow], file: str | None = None) -> Side:
    """What a text names. name: of the step that reads a place. file: of a text that names a step alone."""
    step = _STEP.fullmatch(text)
    if step is not None:
        path = step["file"] or file
        if path is None:
            raise refused(f"'{text}' names a step, but no file", "write FILE.yaml:STEP")
        return of_step(text, name, load(Path(path)), step["step"])
    if re.search(r"\.ya?ml$", text):
        steps = ", ".join(each.name for each in load(Path(text)).steps())
        raise refused(f"'{text}' names no step", f"write {text}:STEP, with one of {steps}")
    return _of_place(text, name)


def refused(message: str, help: str) -> WorkflowError:
    return WorkflowError(message, code=REFUSED, help=help)


def named(error: DataFlareError, sides: Sequence[Side]) -> DataFlareError:
    """The error with what the user wrote, in place of the workflow that reads a place."""
    labels = {each.step: each.label for each in sides if not each.workflow.file}
    for each in error.each:
        if each.spot is not None and each.spot.file == COMMAND_LINE:
            each.spot, each.more_spots = None, []
        if each.step in labels:
            each.notes.insert(0, f"{each.step}: {labels[each.step]}")
            each.step = None
    return error


def filtered(side: Side, condition: str) -> Side:
    """The side with the rows alone for which a condition is true."""
    stub = _loaded(
        {"rows": {"type": "inline", "config": {"rows": [{"a": 1}]}}},
        {"where": {"type": "filter", "inputs": ["rows"], "config": {"condition": condition}}},
        Path(),
    )
    name = _WHERE
    while name in side.workflow.transformations:
        name += "-again"
    where = replace(
        stub.transformations["where"], name=name, inputs=(_ref(side.workflow, side.step),)
    )
    steps = {**side.workflow.transformations, name: where}
    return replace(side, workflow=replace(side.workflow, transformations=steps), step=name)


# -- steps of a file -----------------------------------------------------------------------------


def _ref(workflow: Workflow, name: str) -> InputRef:
    """A step, or an output of one. The step of a table of many has a dot in its name."""
    if any(step.name == name for step in workflow.steps()):
        return InputRef(name)
    step, _, output = name.rpartition(".")
    return InputRef(step or output, output if step else None)


def of_step(label: str, side: str, workflow: Workflow, name: str) -> Side:
    """label: for messages. side: the name of the step that reads it. Raises WorkflowError (E0129)."""
    if (workflow.families or {}).get(name) and not any(s.name == name for s in workflow.steps()):
        raise _of_many(label, workflow, name)
    step = workflow.step(_ref(workflow, name).step)
    if not isinstance(step, DestinationStep):
        return Side(label, workflow, name)
    class_ = registry.destination(step.type)
    if step.type not in registry.source_types() or not _stays(step.type):
        raise refused(
            f"the destination '{name}' of type {step.type} cannot be read back",
            "compare a step before it, or name the place that it writes",
        )
    options = set(registry.source(step.type).Config.model_fields) & set(class_.Config.model_fields)
    other = [name for name in step.config if name not in options or name in _OF_WRITING]
    config = step.config.without(*other)
    for option, value in _as_read(step).items():
        config.put(option, value, None, None)
    read = _reading(side, step.type, {}, workflow.base)
    rows = replace(read.sources[side], config=config, node=step.node, spot=step.spot)
    # The table has the column of the run already, where the workflow adds one.
    settings = workflow.settings.model_copy(update={"run_column": None})
    read = replace(
        read, sources={side: rows}, settings=settings, masked=workflow.masked,
        secrets_seen=workflow.secrets_seen,
    )  # fmt: skip
    key = step.config.get("key") or ()
    key = (key,) if isinstance(key, str) else tuple(map(str, key))
    written = (workflow, name) if _is_text(step) else None
    return Side(label, read, side, key, written)


def _of_many(label: str, workflow: Workflow, name: str) -> WorkflowError:
    """The error of a step that stands for many tables."""
    steps = [f"{name}.{table}" for table in (workflow.families or {})[name]]
    before = label[: len(label) - len(name)]
    error = refused(
        f"'{label}' stands for {len(steps)} tables, and tables are compared one by one",
        f"name one of them on each side: '{before}{steps[0]}'",
    )
    error.notes.append(f"they are: {listed(steps)}")
    return error


def _without_logs(workflow: Workflow) -> Workflow:
    """The workflow whose sources that follow a database's log read the table itself, and leave the log alone."""
    sources = {
        name: replace(step, config=step.config.without("cdc")) if step.config.get("cdc") else step
        for name, step in workflow.sources.items()
    }
    return replace(workflow, sources=sources)


def _as_read(step: DestinationStep) -> dict[str, Any]:
    """Options of a file that have another name where it is read."""
    if step.type != "file":
        return {}
    options: dict[str, Any] = {}
    if step.config.get("null_value"):
        options["null_values"] = [step.config["null_value"]]
    if "header" in step.config:
        options["has_header"] = step.config["header"]
    return options


def _is_text(step: DestinationStep) -> bool:
    """Whether a file has no types of its own."""
    if step.type != "file":
        return False
    path, format_ = str(step.config.get("path", "")), step.config.get("format", "auto")
    parts = Path(path.lower()).name.split(".")
    return format_ in _TEXT_FORMATS or any(part in _TEXT_FORMATS for part in parts[1:])


def _stays(type_: str) -> bool:
    return type_ in _KEPT or issubclass(registry.source(type_), SupportsCatalog)


# -- places --------------------------------------------------------------------------------------


def _of_place(text: str, name: str) -> Side:
    type_, config = place_of(text)
    if not _stays(type_):
        raise refused(
            f"a source of type {type_} cannot be compared: its rows are not a table",
            "write them to a table or a file first",
        )
    read = _reading(name, type_, config, Path.cwd())
    return Side(redact(shown(text)), read, name)


def place_of(text: str) -> tuple[str, dict[str, str]]:
    """The type and the options of `TYPE:CONNECTION#TABLE`, of a server's URL with a table, or of a file's path."""
    place, mark, thing = text.rpartition("#")
    place, thing = (place, thing) if mark else (text, "")
    typed, scheme = _TYPED.fullmatch(place), _SCHEME.match(place)
    if typed is not None and _is_type(typed["type"]):
        type_, place = typed["type"], typed["rest"]
    elif scheme is not None and scheme["scheme"] in _SCHEMES:
        type_ = _SCHEMES[scheme["scheme"]]
    elif typed is not None and scheme is None and not Path(place).exists():
        raise refused(
            f"there is no source type '{typed['type']}'",
            did_you_mean(typed["type"], registry.source_types()) or "see dataflare connectors",
        )
    else:
        suffix = Path(place).suffix.lower() if scheme is None else ""
        type_ = _SUFFIXES.get(suffix, "file")
    class_ = registry.source(type_)
    config = {_option(class_, type_, _CONNECTIONS): place}
    if thing:
        config[_option(class_, type_, _THINGS)] = thing
    elif "table" in class_.Config.model_fields:
        raise refused(
            f"'{shown(text)}' names a database, but no table",
            f"write the table behind a #: {shown(text)}#orders",
        )
    return type_, config


def shown(text: str) -> str:
    """A place without a password."""
    return re.sub(r"(://[^:/@#]*):[^@/#]*@", r"\1:***@", text)


def _is_type(name: str) -> bool:
    return name in registry.source_types() or registry.is_registered("source", name)


def _option(class_: Any, type_: str, names: Sequence[str]) -> str:
    for name in names:
        if name in class_.Config.model_fields:
            return name
    raise refused(
        f"a place of type {type_} cannot be written in one line",
        "write it as a source in a workflow file, and name FILE.yaml:STEP",
    )


def _reading(name: str, type_: str, config: Mapping[str, str], base: Path) -> Workflow:
    """A workflow that reads one source. The values of config may have variables."""
    if any("\0" in value for value in config.values()):
        raise refused("a place holds a NUL character", "write it without")
    return _loaded({name: {"type": type_, "config": config}}, {}, base)


def _loaded(sources: Mapping[str, Any], transformations: Mapping[str, Any], base: Path) -> Workflow:
    last = next(iter(transformations or sources))
    tree = {
        "name": "diff", "version": "1.0", "sources": sources, "transformations": transformations,
        "destinations": {"out": {"type": "blackhole", "inputs": [last]}},
    }  # fmt: skip
    return load_text(json.dumps(tree), file=COMMAND_LINE, base=base)
