"""A workflow's tree as Python code that builds it.

Always true: the code builds the same tree, with variables as they were written; a step comes after the
steps that it reads.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataflare.errors import WorkflowError
from dataflare.workflow.belongs import options_of
from dataflare.workflow.dsl.streams import Stream
from dataflare.workflow.dsl.workflow import Workflow

_LINE_MAX = 100
_STEP_KEYS = ("description", "was", "error_handling")
_PARAMETERS = {
    *("config", "description", "was", "on_error", "error_handling", "schema", "event_time"),
}


def to_python(workflow: Workflow) -> str:
    """The text of a script that builds the workflow and, when it is started, runs it.

    Raises WorkflowError (E0125) for parts that the methods of `Workflow` cannot express.
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
        for name, options in (tree.get("notifiers") or {}).items():
            yield _call("wf.notifier", [name, options.get("type")], _named(options, "type"))
        for alert in tree.get("alerts") or ():
            yield _call("wf.alert", [alert.get("when")], _named(alert, "when"))
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
        """The steps in the order of the file, but each one after the steps that it reads."""
        written, remaining = set(self._tree.get("sources") or {}), dict(steps)
        while remaining:
            ready = (n for n, step in remaining.items() if {r[0] for r in _inputs(step)} <= written)
            name = next(ready, None)
            if name is None:
                raise _not_expressible(
                    f"step '{next(iter(remaining))}'", "it reads steps that do not exist"
                )
            written.add(name)
            yield name, remaining.pop(name)

    def _stream(self, ref: tuple[str, str | None]) -> _Code:
        step, output = ref
        return _Code(self._name(step) + (f"[{_text(output)}]" if output else ""))

    def _source(self, name: str, step: Mapping[str, Any]) -> str:
        more = {key: step[key] for key in ("schema", "event_time") if key in step}
        more |= _rate(name, "source", step)
        return _call("wf.source", [name, step.get("type")], _connected(step) | more)

    def _destination(self, name: str, step: Mapping[str, Any]) -> str:
        of_others = self._tree.get("destinations") or {}
        first, *others = [
            _Code(f"wf.unsent({_text(ref[0])})") if ref[0] in of_others else self._stream(ref)
            for ref in _inputs(step)
        ]
        more: dict[str, Any] = {"also": others} if others else {}
        more |= _rate(name, "destination", step)
        return _call(f"{first}.to", [name, step.get("type")], more | _connected(step))

    def _transformation(self, name: str, step: Mapping[str, Any]) -> str:
        first, *others = [self._stream(ref) for ref in _inputs(step)]
        if str(step.get("type")) not in _step_methods():
            return _call(f"{first}.process", [name, step.get("type"), *others], _connected(step))
        method = getattr(Stream, step["type"])
        config = dict(step.get("config") or {})
        step_options = _step_options(step)
        if "retry_policy" in config:
            handling = dict(step_options.get("error_handling") or {})
            step_options["error_handling"] = {
                **handling,
                "retry_policy": config.pop("retry_policy"),
            }
        if step["type"] == "lookup":
            config |= config.pop("mapping", None) or {}
        # In Python, None means that an option is not set. So a null of the file goes into `config`.
        nulls = {key: config.pop(key) for key in list(config) if config[key] is None}
        method_options = set(inspect.signature(method).parameters) - {
            "self",
            "name",
            "others",
            "step",
        }
        unknown = [key for key in (*config, *nulls) if key not in method_options]
        if unknown:
            raise _not_expressible(f"step '{name}'", f"its method has no option '{unknown[0]}'")
        if nulls.keys() & {"remote_key", "fields"} and step["type"] == "lookup":
            nulls["mapping"] = dict(step["config"]["mapping"])
            nulls = {key: nulls[key] for key in nulls if key not in nulls["mapping"]}
        if nulls:
            step_options["config"] = nulls
        return _call(f"{first}.{step['type']}", [name, *others], config | step_options)


def _named(options: Mapping[str, Any], first: str) -> dict[str, Any]:
    """The others as arguments by name; a word of Python with a line behind it."""
    return {
        f"{key}_" if keyword.iskeyword(key) else key: value
        for key, value in options.items()
        if key != first
    }


def _step_methods() -> set[str]:
    """The methods that add a step."""
    methods = inspect.getmembers(Stream, inspect.isfunction)
    return {
        n for n, f in methods if not n.startswith("_") and "step" in inspect.signature(f).parameters
    }


def _inputs(step: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    listed = step.get("inputs") or []
    refs = [listed] if isinstance(listed, str) else listed
    return [(s, o or None) for s, _, o in (str(ref).partition(".") for ref in refs)]


def _connected(step: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a source or destination. Options with the name of a parameter go into `config`."""
    config = dict(step.get("config") or {})
    config_options = {
        k: config.pop(k) for k in list(config) if not k.isidentifier() or keyword.iskeyword(k)
    }
    config_options |= {k: config.pop(k) for k in list(config) if k in _PARAMETERS or k == "also"}
    return {
        **config,
        **({"config": config_options} if config_options else {}),
        **_step_options(step),
    }


def _rate(name: str, kind: str, step: Mapping[str, Any]) -> dict[str, Any]:
    """The rate of a source or a destination. For a type with such an option, `rate` is the option."""
    if "rate" not in step:
        return {}
    if "rate" in options_of(kind, str(step.get("type"))):
        raise _not_expressible(f"step '{name}'", "its type has an option 'rate' of its own")
    return {"rate": step["rate"]}


def _step_options(step: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: step[key] for key in _STEP_KEYS if key in step}
    handling = options.get("error_handling")
    if isinstance(handling, Mapping) and list(handling) == ["on_error"]:
        options["on_error"] = options.pop("error_handling")["on_error"]
    return options


def _not_expressible(subject: str, reason: str) -> WorkflowError:
    return WorkflowError(
        f"{subject} cannot be written in Python: {reason}",
        code="E0125",
        help="check that `dataflare validate` accepts the file",
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
    """A literal, on several lines if one line would be too long."""
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
    """Text in double quotes, or in single quotes if double quotes would need escapes."""
    literal = repr(value)
    if literal.startswith("'") and '"' not in value and "\\" not in literal:
        return f'"{value}"'
    return literal


def _bracketed(opening: str, parts: Sequence[str], closing: str, depth: int) -> str:
    line = f"{opening}{', '.join(parts)}{closing}"
    if len(line) + 4 * depth <= _LINE_MAX and "\n" not in line:
        return line
    inner = "    " * (depth + 1)
    return (
        f"{opening}\n" + "".join(f"{inner}{part},\n" for part in parts) + "    " * depth + closing
    )
