"""A workflow's tree as the Python that builds it.

Always true: what is written builds the same tree, variables as they were written; a step is written
after those that it reads.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataflare.errors import WorkflowError
from dataflare.workflow.dsl.streams import Stream
from dataflare.workflow.dsl.workflow import Workflow

_LINE_MAX = 100
_STEP_KEYS = ("description", "error_handling")
_OWN = {"config", "description", "on_error", "error_handling", "schema", "event_time"}


def to_python(workflow: Workflow) -> str:
    """The text of a script that builds the workflow and runs it when it is started.

    Raises WorkflowError (E0125) for what the methods of `Workflow` cannot say.
    """
    return "\n".join(_Writer(workflow.to_tree()).lines()) + "\n"


class _Code(str):
    """Text that is code already."""


class _Writer:
    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree
        self._names: dict[str, str] = {}

    def lines(self) -> Iterable[str]:
        tree = self._tree
        yield "from dataflare import Workflow"
        yield ""
        options = {name: tree[name] for name in ("description", "settings") if name in tree}
        yield f"wf = {_call('Workflow', [tree.get('name', '')], options)}"
        for name, body in (tree.get("params") or {}).items():
            declared = dict(body) if isinstance(body, Mapping) else {"default": body}
            kind = [declared.pop("type")] if "type" in declared else []
            yield _call("wf.param", [name, *kind], declared)
        yield ""
        for name, step in (tree.get("sources") or {}).items():
            yield f"{self._name(name)} = {self._source(name, step)}"
        for name, step in self._in_order(tree.get("transformations") or {}):
            yield f"{self._name(name)} = {self._transformation(name, step)}"
        for name, step in (tree.get("destinations") or {}).items():
            yield self._destination(name, step)
        for test in tree.get("tests") or ():
            body = {key: value for key, value in test.items() if key != "name"}
            yield _call("wf.test", [test.get("name")], body)
        yield ""
        yield 'if __name__ == "__main__":'
        yield "    wf.run()"

    def _name(self, step: str) -> str:
        """The variable of a step."""
        if step not in self._names:
            name = re.sub(r"\W", "_", step)
            while keyword.iskeyword(name) or name in ("wf", "Workflow", *self._names.values()):
                name += "_"
            self._names[step] = name
        return self._names[step]

    def _in_order(self, steps: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        """In the order of the file, but each step after those it reads."""
        known, left = set(self._tree.get("sources") or {}), dict(steps)
        while left:
            ready = (n for n, step in left.items() if {r[0] for r in _inputs(step)} <= known)
            name = next(ready, None)
            if name is None:
                raise _unsayable(f"step '{next(iter(left))}'", "it reads steps that are not there")
            known.add(name)
            yield name, left.pop(name)

    def _stream(self, ref: tuple[str, str | None]) -> _Code:
        step, output = ref
        return _Code(self._name(step) + (f"[{_text(output)}]" if output else ""))

    def _source(self, name: str, step: Mapping[str, Any]) -> str:
        more = {key: step[key] for key in ("schema", "event_time") if key in step}
        return _call("wf.source", [name, step.get("type")], _connected(step) | more)

    def _destination(self, name: str, step: Mapping[str, Any]) -> str:
        first, *others = [self._stream(ref) for ref in _inputs(step)]
        more: dict[str, Any] = {"also": others} if others else {}
        return _call(f"{first}.to", [name, step.get("type")], more | _connected(step))

    def _transformation(self, name: str, step: Mapping[str, Any]) -> str:
        first, *others = [self._stream(ref) for ref in _inputs(step)]
        if str(step.get("type")) not in _step_methods():
            return _call(f"{first}.process", [name, step.get("type"), *others], _connected(step))
        method = getattr(Stream, step["type"])
        config = dict(step.get("config") or {})
        more = _said_by_step(step)
        if "retry_policy" in config:
            handling = dict(more.get("error_handling") or {})
            more["error_handling"] = {**handling, "retry_policy": config.pop("retry_policy")}
        if step["type"] == "lookup":
            config |= config.pop("mapping", None) or {}
        # An option that is None was not given; a null of the file stays one.
        nulls = {key: config.pop(key) for key in list(config) if config[key] is None}
        known = set(inspect.signature(method).parameters) - {"self", "name", "others", "step"}
        strange = [key for key in (*config, *nulls) if key not in known]
        if strange:
            raise _unsayable(f"step '{name}'", f"its method has no option '{strange[0]}'")
        if nulls.keys() & {"remote_key", "fields"} and step["type"] == "lookup":
            nulls["mapping"] = dict(step["config"]["mapping"])
            nulls = {key: nulls[key] for key in nulls if key not in nulls["mapping"]}
        if nulls:
            more["config"] = nulls
        return _call(f"{first}.{step['type']}", [name, *others], config | more)


def _step_methods() -> set[str]:
    """The methods that add a step."""
    made = inspect.getmembers(Stream, inspect.isfunction)
    return {
        n for n, f in made if not n.startswith("_") and "step" in inspect.signature(f).parameters
    }


def _inputs(step: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    listed = step.get("inputs") or []
    refs = [listed] if isinstance(listed, str) else listed
    return [(s, o or None) for s, _, o in (str(ref).partition(".") for ref in refs)]


def _connected(step: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a source or destination; those whose names are taken go into `config`."""
    config = dict(step.get("config") or {})
    own = {k: config.pop(k) for k in list(config) if not k.isidentifier() or keyword.iskeyword(k)}
    own |= {k: config.pop(k) for k in list(config) if k in _OWN or k == "also"}
    return {**config, **({"config": own} if own else {}), **_said_by_step(step)}


def _said_by_step(step: Mapping[str, Any]) -> dict[str, Any]:
    said = {key: step[key] for key in _STEP_KEYS if key in step}
    handling = said.get("error_handling")
    if isinstance(handling, Mapping) and list(handling) == ["on_error"]:
        said["on_error"] = said.pop("error_handling")["on_error"]
    return said


def _unsayable(what: str, why: str) -> WorkflowError:
    return WorkflowError(
        f"{what} cannot be written in Python: {why}",
        code="E0125",
        help="see that `dataflare validate` accepts the file",
    )


def _call(function: str, args: Sequence[Any], options: Mapping[str, Any]) -> str:
    """A call, on one line if it fits."""
    parts = [_value(each, 1) for each in args]
    parts += [f"{name}={_value(each, 1)}" for name, each in options.items()]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= _LINE_MAX - 20 and "\n" not in line:
        return line
    return f"{function}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def _value(value: Any, depth: int) -> str:
    """A literal; on several lines where one would be too long."""
    match value:
        case _Code():
            return str(value)
        case Mapping():
            parts = [f"{_value(str(k), depth)}: {_value(v, depth + 1)}" for k, v in value.items()]
            return _bracketed("{", parts, "}", depth)
        case list() | tuple():
            return _bracketed("[", [_value(each, depth + 1) for each in value], "]", depth)
        case str():
            return _text("".join(value))
    return repr(value)


def _text(value: str) -> str:
    """In double quotes, unless that needs escapes which single ones do not."""
    shown = repr(value)
    if shown.startswith("'") and '"' not in value and "\\" not in shown:
        return f'"{value}"'
    return shown


def _bracketed(opening: str, parts: Sequence[str], closing: str, depth: int) -> str:
    line = f"{opening}{', '.join(parts)}{closing}"
    if len(line) + 4 * depth <= _LINE_MAX and "\n" not in line:
        return line
    inner = "    " * (depth + 1)
    return (
        f"{opening}\n" + "".join(f"{inner}{part},\n" for part in parts) + "    " * depth + closing
    )
