"""Write the pages that come from the code: connectors, steps, functions, settings, commands, errors, and
the picture of the demo's plan.

`python docs/generate.py` writes them; `--check` only says which are out of date, and exits with 1 if any
is. Nothing here decides what a page says: change the code, and run this.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SOURCE = ROOT / "src" / "dataflare"
MARK = "<!-- written by docs/generate.py from the code; change the code, then run `make generate` -->\n"


def pages() -> dict[Path, str]:
    """Every generated file, relative to docs/, with its content."""
    sys.path.insert(0, str(DOCS))
    import dashboards

    connectors = connector_pages()
    return {
        **connectors,
        SITE: site_with(connectors),
        **{page: with_examples(page) for page in (COOKBOOK, JOINS)},
        Path("reference/steps.md"): steps_page(),
        Path("reference/functions.md"): functions_page(),
        Path("reference/settings.md"): settings_page(),
        Path("reference/commands.md"): commands_page(),
        Path("reference/metrics.md"): metrics_page(),
        Path("llms.txt"): pages_for_assistants(),
        Path("reference/errors.md"): errors_page(),
        Path("assets/plan.svg"): plan_picture(),
        Path("../deploy/prometheus-rules.yml"): dashboards.rules(),
        Path("../deploy/grafana-dashboard.json"): dashboards.dashboard(),
    }


# --- options of a pydantic model ------------------------------------------------------------------


def options_table(model: type[Any], prefix: str = "") -> str:
    """A table of a config class's fields: name, type, default, meaning; nested classes inline."""
    rows = ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
    rows += [f"| {' | '.join(cells)} |" for cells in option_rows(model.model_json_schema(), prefix)]
    return "\n".join(rows) if len(rows) > 2 else "No options."


def option_rows(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
    definitions = schema.get("$defs", {})
    yield from _rows(schema, definitions, prefix)


def _rows(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, ...]]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        full = f"{prefix}{name}"
        default = (
            "required" if name in required else shown_default(field.get("default"), unit_of(field))
        )
        if name not in required and "default" not in field:
            default = "empty" if field.get("type") in ("array", "object") else ""
        inner = nested(field, definitions)
        text = meaning(field) or (meaning(inner) if inner else "")
        yield f"`{full}`", cell(type_name(field, definitions)), default, cell(text)
        if inner is not None:
            yield from _rows(inner, definitions, full + ("[]." if is_list(field) else "."))


def nested(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The class that a field holds one of, or a list of."""
    for each in (field, *field.get("anyOf", ()), *field.get("allOf", ()), field.get("items", {})):
        if "$ref" in each:
            found = definitions[each["$ref"].rpartition("/")[2]]
            return found if found.get("properties") else None
    return None


def is_list(field: Mapping[str, Any]) -> bool:
    return field.get("type") == "array"


def type_name(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON Schema type as a user would say it."""
    if "$ref" in field:
        found = definitions[field["$ref"].rpartition("/")[2]]
        return "map" if found.get("properties") else type_name(found, definitions)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(dict.fromkeys(f"`{value}`" for value in field["enum"]))
    if unit := unit_of(field):
        return unit
    if "anyOf" in field:
        kinds = [type_name(each, definitions) for each in field["anyOf"]]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    match field.get("type"):
        case "array":
            inner = type_name(field.get("items", {}), definitions)
            return f"list of {inner}" if inner != "any" else "list"
        case "object":
            more = field.get("additionalProperties")
            return (
                f"map to {type_name(more, definitions)}"
                if isinstance(more, dict) and more
                else "map"
            )
        case None:
            return "any"
        case [*several]:
            return " or ".join(several)
        case kind:
            return {"string": "text", "boolean": "bool"}.get(kind, kind)


def meaning(field: Mapping[str, Any]) -> str:
    text = str(field.get("description", "")).strip()
    return text if ":" in text.split(" ")[0] else text[:1].upper() + text[1:]


def unit_of(field: Mapping[str, Any]) -> str:
    """ "duration" or "size" for a number that is written with its unit."""
    if "pattern" in field:
        said = str(field.get("description", ""))
        return next((unit for unit in ("duration", "size") if f"a {unit} such as" in said), "")
    return next(filter(None, map(unit_of, field.get("anyOf", ()))), "")


def shown_default(value: Any, unit: str = "") -> str:
    """A default as a user would write it."""
    if value is None:
        return "none"
    if unit:
        units = DURATIONS if unit == "duration" else SIZES
        value = next(
            f"{value / per:g}{name}" for name, per in units if value >= per or name == units[-1][0]
        )
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return f"`{text}`" if text else "empty"


DURATIONS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 0.001))
SIZES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


# --- connectors -----------------------------------------------------------------------------------


def connector_pages() -> dict[Path, str]:
    """A page per type and the list of all."""
    from dataflare.sdk import registry

    sources = {name: registry.source(name) for name in registry.source_types()}
    destinations = {name: registry.destination(name) for name in registry.destination_types()}
    lookups = {name: registry.lookup(name) for name in registry.lookup_types()}
    made = {}
    listed = [
        "| type | as a source | as a destination | asked by a lookup |",
        "| --- | --- | --- | --- |",
    ]
    for name in sorted(sources | destinations | lookups):
        roles = [found.get(name) for found in (sources, destinations, lookups)]
        made[Path(f"connectors/{name}.md")] = connector_page(name, *roles)
        said = " | ".join(cell(getattr(role, "summary", "") or "") for role in roles)
        listed.append(f"| [`{name}`]({name}.md) | {said} |")
    made[Path("connectors/index.md")] = (
        MARK + "\n# Connectors\n\n" + "\n".join(listed) + "\n\n"
        "`dataflare connectors TYPE` prints the same. A missing one takes about an hour: see\n"
        "[write a connector](../extend.md).\n"
    )
    return made


def connector_page(name: str, source: Any, destination: Any, lookup: Any) -> str:
    parts = [MARK, f"# `{name}`\n"]
    titled = (
        ("As a source", source),
        ("As a destination", destination),
        ("Asked by a lookup, key by key", lookup),
    )
    for title, found in titled:
        if found is None:
            continue
        parts.append(f"## {title}\n")
        if found.summary:
            parts.append(f"{sentence(found.summary)}\n")
        if found.example:
            parts.append(f"```yaml\n{textwrap.dedent(found.example).strip()}\n```\n")
        parts.append(options_table(found.Config) + "\n")
    return "\n".join([*parts, *conformance(name)])


def conformance(name: str) -> list[str]:
    """What a connector was tested with: a table of the laws of its suites, with the gaps. From `conformance.yaml`."""
    import yaml

    marks = yaml.safe_load((DOCS / "conformance.yaml").read_text()).get(name)
    if marks is None:
        return []
    parts = ["## How it is tested\n", f"Tested with {marks['tested_with']}.\n"]
    for role in ("source", "destination"):
        if role in marks:
            parts += [f"As a {role}: {marks[role]['guarantee']}\n", *laws_table(role, marks[role])]
    if marks.get("missing"):
        parts.append(f"Not there yet: {'; '.join(marks['missing'])}.\n")
    parts.append("The laws are those of [`dataflare.testing`](../extend.md#tests).\n")
    return parts


def laws_table(role: str, mark: dict[str, Any]) -> list[str]:
    """The laws of a role, and which hold; in their place the reason, where they are not checked."""
    from dataflare.sdk.destination import Delivery
    from dataflare.sdk.source import Replay
    from dataflare.testing import DESTINATION_LAWS, SOURCE_LAWS, TABLE_LAWS
    from dataflare.testing.destinations import NOT_PROMISED
    from dataflare.testing.sources import NOT_REPLAYED

    if "unchecked" in mark:
        return [f"The laws are not checked: {mark['unchecked']}\n"]
    if role == "source":
        replay = Replay(mark.get("replay", "exact"))
        names, missing, promised = (
            [*SOURCE_LAWS],
            NOT_REPLAYED[replay],
            f"`replay` is {replay.value}",
        )
    else:
        delivery = Delivery(mark.get("delivery", "exactly once"))
        names = [*DESTINATION_LAWS, *(TABLE_LAWS if "tables" in mark else ())]
        missing, promised = NOT_PROMISED[delivery], f"it delivers {delivery.value}"
    gaps = mark.get("gaps") or {}

    def holds(law: str) -> str:
        if law in missing:
            return f"not promised: {promised}"
        return cell("no: " + gaps[law]) if law in gaps else "yes"

    rows = [f"| {law.replace('_', ' ')} | {holds(law)} |" for law in names]
    return ["| law | holds |\n| --- | --- |", *rows, ""]


def sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith(".") else text + "."


# --- the cookbook -----------------------------------------------------------------------------------

COOKBOOK, JOINS = Path("cookbook.md"), Path("joins.md")
_EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n(?:\n```yaml\n.*?\n```\n)?", re.DOTALL)


def with_examples(page: Path) -> str:
    """The page as it is, each example's file behind its mark."""

    def shown(mark: re.Match[str]) -> str:
        text = (DOCS.parent / "examples" / mark[1]).read_text().strip()
        return f"<!-- example: {mark[1]} -->\n\n```yaml\n{text}\n```\n"

    return _EXAMPLE.sub(shown, (DOCS / page).read_text())


SITE = Path("../mkdocs.yml")


def site_with(connectors: Iterable[Path]) -> str:
    """mkdocs.yml, with a line in its menu for each connector."""
    lines = (DOCS / SITE).read_text().splitlines(keepends=True)
    first = lines.index("      - connectors/index.md\n") + 1
    after = next(i for i in range(first, len(lines)) if "connectors/" not in lines[i])
    named = sorted(str(page) for page in connectors if page.name != "index.md")
    return "".join([*lines[:first], *(f"      - {name}\n" for name in named), *lines[after:]])


# --- steps ----------------------------------------------------------------------------------------


def steps_page() -> str:
    from dataflare.operators import registry

    parts = [
        MARK,
        "# Steps\n",
        "What may stand under `transformations`. Every expression is [SQL over the incoming columns]"
        "(functions.md).\n",
    ]
    for type_ in registry.step_types():
        step = registry.step(type_)
        parts += [f"## `{type_}`\n", f"{sentence(step.summary)}\n"]
        parts.append(f"```yaml\n{textwrap.dedent(step.example).strip()}\n```\n")
        parts.append(options_table(step.Config) + "\n")
    if registry.LATER:
        named = ", ".join(f"`{name}`" for name in registry.LATER)
        parts.append(
            f"## Not in this version\n\nThe format names {named} too; a workflow that uses one is refused"
            " with `E0314`.\n"
        )
    return "\n".join(parts)


# --- functions ------------------------------------------------------------------------------------


def functions_page() -> str:
    from dataflare.expr import registry
    from dataflare.expr.differences import DIFFERENCES

    parts = [
        MARK,
        "# Functions\n",
        "What an expression may say. The meaning is DuckDB's. What DuckDB answers with an error is an\n"
        "error of that row, and of no other. The last column says what is done inside a database when the\n"
        "rows come from one: all of it, some of it (for some types or arguments), or nothing.\n",
    ]
    group = None
    for row in registry.functions():
        if row.group != group:
            group = row.group
            parts.append(f"\n## {group.capitalize()}\n")
            parts.append("| function | signature | meaning | example | in a database |")
            parts.append("| --- | --- | --- | --- | --- |")
        parts.append(f"| {' | '.join(function_cells(row))} |")
    parts += [
        "\n## Where it is not as in DuckDB\n",
        "Each of these is tested, and random expressions find no other (`make fuzz`).\n",
        "| difference | example | here | in DuckDB |",
        "| --- | --- | --- | --- |",
    ]
    for each in DIFFERENCES:
        cells = [cell(each.what), code(each.example), code(each.here), code(each.duckdb)]
        parts.append(f"| {' | '.join(cells)} |")
    return "\n".join(parts) + "\n"


def metrics_page() -> str:
    from dataflare.observability.measures import MEASURES
    from dataflare.observability.table import METRICS

    parts = [
        MARK,
        "# Metrics\n",
        "What a run says of itself. Each metric has the label `workflow`, and those of the third column. A\n"
        "`step` of a time, a queue or a state is a stage: steps that run as one, named after the first. Counters\n"
        "begin at 0 with the process, and grow also by what an attempt did that failed and was done again.\n"
        "[Watch a run](../observe.md) says how to get them.\n",
        "| metric | kind | labels | meaning | in OpenTelemetry |",
        "| --- | --- | --- | --- | --- |",
    ]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        parts.append(
            f"| `{metric.name}` | {metric.kind} | {labels} | {cell(metric.help)} | `{metric.otel}` ({metric.unit}) |"
        )
    parts += [
        "\n## Measures of alerts\n",
        "What `when` of an [alert](../observe.md#alerts) may compare, and with what. A share and a rate are of the\n"
        "last minute, or of the time that `in` says; a count is since the run began, or of that time.\n",
        "| measure | compared with | means |",
        "| --- | --- | --- |",
    ]
    units = {
        "duration": "a duration: `5m`",
        "size": "a size: `20GiB`",
        "share": "a share: `90%`",
        "number": "a number: `100`",
        "rate": "rows a second: `100`",
        "flag": "nothing: its name alone says that it is so",
    }
    for measure in MEASURES.values():
        takes_in = measure.grows or measure.over is not None
        unit = units[measure.unit] + (", and `in 5m`" if takes_in else "")
        parts.append(f"| `{measure.name}` | {unit} | {cell(measure.help)} |")
    return "\n".join(parts) + "\n"


def pages_for_assistants() -> str:
    """`llms.txt`: each page with its title and its first sentence."""
    parts = [
        "# DataFlare\n",
        "> Data integration from one YAML file: batch and streaming on one engine, exactly once.\n",
        "`dataflare mcp` serves the pages below, and commands that validate, plan and preview workflows.\n",
        "## Pages\n",
    ]
    for path in sorted(DOCS.glob("*.md")):
        text = re.sub(r"(?s)<!--.*?-->|```.*?```", "", path.read_text(encoding="utf-8"))
        title, _, rest = text.strip().partition("\n")
        plain = [p for p in re.split(r"\n\s*\n", rest) if re.match(r"\w", p.strip())]
        first = re.split(r"(?<=[.:])\s", " ".join(plain[0].split()))[0] if plain else ""
        parts.append(f"- [{title.lstrip('# ')}]({path.name}): {first}")
    return "\n".join(parts) + "\n"


def function_cells(row: Any) -> list[str]:
    names = ", ".join(code(each) for each in (row.name, *row.aliases))
    signature = "<br>".join(code(line) for line in row.signature.splitlines())
    example = "<br>".join(f"{code(text)} → {code(value_shown(v))}" for text, v in row.examples)
    pushed = ", ".join(
        database + (" (some)" if how == "guarded" else "")
        for database, how in row.pushdown.items()
        if how != "never"
    )
    return [names, signature, cell(sentence(row.summary)), example, pushed]


def code(text: str) -> str:
    """Inline code in a table cell, whatever it holds."""
    text = " ".join(str(text).split()).replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def value_shown(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value).lower() if isinstance(value, bool) else repr(value)


# --- settings -------------------------------------------------------------------------------------


def settings_page() -> str:
    from dataflare.observability.notifiers import KINDS
    from dataflare.workflow.alerts import AlertRule
    from dataflare.workflow.settings import ErrorHandling, EventTime, Settings

    defaults = {"`parallelism`": "CPU count", "`resources.threads`": "CPU count"}

    def table(model: type[Any]) -> str:
        rows = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
        for name, kind, default, text in option_rows(model.model_json_schema(mode="validation")):
            rows.append(f"| {name} | {kind} | {defaults.get(name, default)} | {text} |")
        return "\n".join(rows)

    return "\n".join(
        [
            MARK,
            "# Settings\n",
            "What stands under `settings`. Durations are written `250ms`, `10s`, `5m`, `1h` or `7d`, sizes"
            "\n`512KiB`, `64MiB` or `2GiB`.\n",
            table(Settings),
            "\n## `error_handling` of a step\n",
            "What a step does not say comes from `settings.error_handling`.\n",
            table(ErrorHandling),
            "\n## `event_time` of a source\n",
            table(EventTime),
            "\n## One of `alerts`\n",
            table(AlertRule),
            "\n## One of `notifiers`\n",
            "[Alerts](../observe.md#alerts) says what each of them sends.",
            *(f"\n### `type: {kind}`\n\n{table(notifier)}" for kind, notifier in KINDS.items()),
            "",
        ]
    )


# --- commands -------------------------------------------------------------------------------------


def commands_page() -> str:
    import typer.main

    from dataflare.cli.app import app

    group = typer.main.get_command(app())
    parts = [MARK, "# Commands\n", "`dataflare COMMAND --help` prints the same.\n"]
    for name, command in getattr(group, "commands").items():  # noqa: B009 - typer hides the class
        if command.hidden:
            continue
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(
            ["dataflare", name, *(p.make_metavar_shown() for p in map(Shown, arguments))]
        )
        parts.append(f"## `{usage}`\n")
        parts.append(inspect.cleandoc(command.help or "") + "\n")
        options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        if options:
            parts.append("| option | meaning |\n| --- | --- |")
            parts += [f"| {Shown(p).option()} | {cell(p.help or '')} |" for p in options]
            parts.append("")
    return "\n".join(parts)


class Shown:
    """A command's parameter as it is written."""

    def __init__(self, param: Any) -> None:
        self.param = param

    def make_metavar_shown(self) -> str:
        word = str(self.param.metavar or self.param.name.upper())
        return word if self.param.required else f"[{word}]"

    def option(self) -> str:
        names = ", ".join(f"`{each}`" for each in self.param.opts)
        metavar = self.param.metavar
        return f"{names} `{metavar}`" if metavar else names


# --- errors ---------------------------------------------------------------------------------------

FAMILIES = {
    "E01": (
        "The workflow file",
        "YAML, keys, variables, parameters, the command line. Exit status 2.",
    ),
    "E02": ("Expressions", "Syntax, names and types. Exit status 2."),
    "E03": (
        "The graph",
        "Steps that do not fit together, guarantees that cannot hold. Exit status 2.",
    ),
    "E04": ("Configuration", "Of connectors and steps; libraries not installed. Exit status 2."),
    "E05": ("Data", "Rows that were read and cannot be used. Exit status 1."),
    "E06": ("Systems", "Files, databases, networks, disks. Exit status 1."),
    "E07": ("Checkpoints", "State that cannot be read or resumed. Exit status 1."),
    "E08": (
        "Runs",
        "Locked, changed or interrupted. Exit status 1; 2 when the command is to blame.",
    ),
    "E09": ("Our own mistakes", "An invariant that broke. Please report it. Exit status 1."),
}
CODE = re.compile(r"E0[0-9]{3}")


def errors_page() -> str:
    found = error_messages()
    parts = [
        MARK,
        "# Errors\n",
        "An error is one block on standard error: its code, what is wrong, where, and what may help.\n"
        "`…` stands for a name or a value. `--debug` adds the traceback.\n",
    ]
    for family, (title, text) in FAMILIES.items():
        codes = {each: texts for each, texts in found.items() if each.startswith(family)}
        if codes:
            parts += [f"## {family}xx: {title}\n", f"{text}\n", "| code | says |", "| --- | --- |"]
            parts += [
                f"| `{each}` | {'<br>'.join(cell(text) for text in texts)} |"
                for each, texts in sorted(codes.items())
            ]
            parts.append("")
    return "\n".join(parts)


def error_messages() -> dict[str, list[str]]:
    """Each code that the code raises, with its messages."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node, doc in walk(tree):
            if isinstance(node, ast.Call):
                for each, text in codes_of(node, constants):
                    said, meant = found.setdefault(each, (set(), set()))
                    said.update([text] if text else [])
                    meant.update([doc] if doc else [])
    return {each: sorted(said or meant) for each, (said, meant) in found.items()}


def walk(tree: ast.AST, doc: str = "") -> Iterator[tuple[ast.AST, str]]:
    """All nodes, each with the first sentence of its function's docstring."""
    if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        doc = cell((ast.get_docstring(tree) or "").partition(".")[0]).replace("`", "'")
    yield tree, doc
    for child in ast.iter_child_nodes(tree):
        yield from walk(child, doc)


def codes_of(call: ast.Call, constants: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    from dataflare.expr import problems

    given = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
    texts = [
        shown_text(each)
        for each in (*call.args, *(k.value for k in call.keywords if k.arg == "message"))
    ]
    text = next((each for each in texts if " " in each), "")
    for node in (*given, *call.args):
        value = (
            constants.get(node.id)
            if isinstance(node, ast.Name)
            else vars(problems).get(node.attr)
            if isinstance(node, ast.Attribute)
            else getattr(node, "value", None)
            if isinstance(node, ast.Constant)
            else None
        )
        if isinstance(value, str) and CODE.fullmatch(value):
            yield value, text


def shown_text(node: ast.expr) -> str:
    """A message with its values left out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("`", "'").replace("<", "&lt;")
    if isinstance(node, ast.JoinedStr):
        return "".join(
            shown_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return shown_text(node.left) + shown_text(node.right)
    if isinstance(node, ast.IfExp):
        return shown_text(node.body)
    return ""


# --- the picture ----------------------------------------------------------------------------------


def plan_picture() -> str:
    """The demo's plan, on a machine with two processors."""
    with tempfile.TemporaryDirectory() as home:
        command = [
            sys.executable,
            "-m",
            "dataflare",
            "plan",
            "demo/flights.yaml",
            "--format",
            "svg",
        ]
        command += ["--set", "settings.parallelism=2", "--set", "settings.resources.threads=2"]
        env = {**os.environ, "DATAFLARE_HOME": home}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


# --- writing --------------------------------------------------------------------------------------


def outdated(made: Mapping[Path, str]) -> Iterator[tuple[Path, str]]:
    """Pages that differ from what is there, with the difference; and pages nobody makes any more."""
    for name, text in made.items():
        path = DOCS / name
        there = path.read_text() if path.exists() else ""
        if there != text:
            lines = difflib.unified_diff(
                there.splitlines(), text.splitlines(), "there", "now", lineterm=""
            )
            yield name, "\n".join(list(lines)[:20])
    for path in sorted((DOCS / "connectors").glob("*.md")):
        if path.relative_to(DOCS) not in made:
            yield path.relative_to(DOCS), "no such connector any more"


def write(made: Mapping[Path, str]) -> Iterable[Path]:
    for name, text in made.items():
        path = DOCS / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            yield name
    for path in (DOCS / "connectors").glob("*.md"):
        if path.relative_to(DOCS) not in made:
            path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if outdated"
    )
    given = parser.parse_args()
    made = pages()
    if not given.check:
        for name in write(made):
            print(f"wrote docs/{name}")
        return 0
    old = list(outdated(made))
    for name, difference in old:
        print(f"docs/{name} is out of date; run `make generate`\n{difference}", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
