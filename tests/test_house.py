"""The house: which room may import which, and what no file may do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dataflare"

LADDER = (
    *("errors", "model", "expr", "formats", "sdk", "resilience", "observability", "security"),
    *("state", "checkpoint", "plugins", "connectors", "operators", "workflow", "planner"),
    *("engine", "cluster", "edge", "jobs", "server", "console", "cli"),
)
"""A room imports only from rooms before it. `testing` stands beside the ladder."""

BESIDE = ("testing",)
TOP = ("__init__", "__main__")
THROUGH_THE_REGISTRY = ("operators", "planner")
"""These reach connectors only through `sdk.registry`."""

LINES_MAX = 500
LAZY_ROOMS = ("cli", "workflow")
HEAVY = {
    "polars",
    "polars_hash",
    "sqlglot",
    "duckdb",
    "pyarrow",
    "adbc_driver_manager",
    "python_calamine",
}
"""Libraries that cost more than 20 ms to import, or that fix something when they are imported."""

OUR_ERRORS = {
    *("WorkflowError", "ExpressionError", "PlanError", "ConfigError", "DataError"),
    *("SystemError_", "CheckpointError", "RunError"),
}
"""These are shown to users."""

ROWS_AS_DICTS = {
    "formats/text_write.py": "the only way of rows through Python",
    "formats/far_times.py": "one row of bools",
    "operators/python.py": "refuses before what Python cuts",
    "connectors/kafka/sending.py": "messages: bytes, text and integers",
    "connectors/delta/files.py": "a table's log, whose times are microseconds",
    "jobs/workflow_test.py": "dead letters, which are text",
    "testing/lab.py": "for tests of plugins",
}
"""Where Polars makes dicts of rows, and why nothing is lost: it cuts nanoseconds and has no year above 9999."""

FILES = sorted(SOURCE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


ROOMS = {room_of(file) for file in FILES}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """All imported modules with their line, relative ones made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def arrows(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) for each room that a file imports."""
    package = ["dataflare", *path.relative_to(SOURCE).parent.parts]
    for line, module in imports(tree_of(path), package):
        parts = module.split(".")
        if parts[0] == "dataflare" and len(parts) > 1 and parts[1] in ROOMS:
            yield line, parts[1]


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported; not what is only for type checkers."""
    left: list[ast.stmt] = list(tree.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            left.extend(node.orelse)
        elif isinstance(node, ast.If | ast.Try):
            left.extend([*node.body, *node.orelse])
        else:
            yield node


def test_every_room_stands_on_the_ladder():
    rooms = {room_of(path) for path in FILES}
    assert rooms <= {*LADDER, *BESIDE, *TOP}


def test_a_room_imports_only_from_rooms_above_it():
    wrong = []
    for path in FILES:
        room = room_of(path)
        if room in (*TOP, *BESIDE):
            continue
        allowed = {*LADDER[: LADDER.index(room) + 1]}
        wrong += [
            f"{name_of(path)}:{line} ({room} imports {other})"
            for line, other in arrows(path)
            if other not in allowed
        ]
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_the_planner_and_the_operators_reach_connectors_through_the_registry():
    wrong = [
        f"{name_of(path)}:{line}"
        for path in FILES
        if room_of(path) in THROUGH_THE_REGISTRY
        for line, other in arrows(path)
        if other == "connectors"
    ]
    assert not wrong, wrong


def test_no_file_tells_two_stories():
    long = {name_of(p): len(p.read_text().splitlines()) for p in FILES}
    assert not {name: lines for name, lines in long.items() if lines > LINES_MAX}


def test_a_room_opens_with_what_it_does():
    silent = [
        name_of(path)
        for path in FILES
        if path.name == "__init__.py" and not ast.get_docstring(tree_of(path))
    ]
    assert not silent


def test_rooms_that_answer_first_import_nothing_heavy():
    wrong = []
    for path in FILES:
        if room_of(path) not in (*LAZY_ROOMS, *TOP, "errors"):
            continue
        package = ["dataflare", *path.relative_to(SOURCE).parent.parts]
        for node in top_level(tree_of(path)):
            wrong += [
                f"{name_of(path)}:{line} imports {module}"
                for line, module in imports(node, package)
                if isinstance(node, ast.Import | ast.ImportFrom) and module.split(".")[0] in HEAVY
            ]
    assert not wrong, wrong


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_answering_a_question_loads_nothing_heavy(arguments: list[str]):
    command = [sys.executable, "-X", "importtime", "-m", "dataflare", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & HEAVY


def test_no_pickle_anywhere_near_state():
    wrong = [
        f"{name_of(path)}:{line}"
        for path in FILES
        if room_of(path) in ("state", "checkpoint")
        for line, module in imports(tree_of(path), ["dataflare"])
        if module.split(".")[0] in ("pickle", "cloudpickle", "marshal", "shelve")
    ]
    assert not wrong


# --- outside src ----------------------------------------------------------------------------------

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".sh", ".json", ".csv", ".in", ""}


def tracked() -> list[Path]:
    """The files of the repository, as git knows them; all but the obvious without git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def test_no_text_names_a_package_registry_or_a_mirror():
    hosts = re.compile(
        r"pypi\.org|pythonhosted\.org|index-url|find-links|registry\.npmjs|proxy\.golang|artifactory",
        re.IGNORECASE,
    )
    wrong = []
    for path in tracked():
        if path.suffix in TEXT and path != Path(__file__):
            text = path.read_text(encoding="utf-8", errors="replace")
            wrong += [f"{name_of(path)}: {found}" for found in hosts.findall(text)]
    assert not wrong


def test_constraints_are_plain_pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pin = re.compile(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+]*( ; .+)?")
    assert [
        line for line in lines if line and not line.startswith("#") and not pin.fullmatch(line)
    ] == []


KINDS = ("added", "changed", "fixed", "removed")


def test_changelog_fragments_are_well_formed():
    fragments = [p for p in (ROOT / "changelog.d").iterdir() if p.name != "README.md"]
    assert fragments, "a project with users has something to tell"
    for path in fragments:
        name, kind, suffix = path.name.split(".")
        text = path.read_text().strip()
        assert suffix == "md", path.name
        assert kind in KINDS, path.name
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", name), path.name
        assert text.endswith("."), path.name
        sentences = re.findall(r"[.!?](?=\s+[A-Z`]|\s*$)", text)
        assert 1 <= len(sentences) <= 2, f"{path.name}: {len(sentences)} sentences"
        assert "additionally" not in text.casefold(), path.name


NAMES_ITS_ENGINE = (
    *("model", "expr", "formats", "sdk", "state", "connectors", "operators", "engine"),
)
IN_MEMORY = ("model", "expr", "sdk", "state", "operators")


def queries(path: Path) -> Iterator[tuple[int, str | None]]:
    """(line, engine) of each `collect` of a query; None where no engine is named."""
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr == "collect" and not node.args:
            engines = [ast.unparse(k.value) for k in node.keywords if k.arg == "engine"]
            yield node.lineno, engines[0].strip("'") if engines else None


def test_rows_go_through_python_in_one_way() -> None:
    made = re.compile(r"\.to_dicts\(|\.(?:row|rows|iter_rows)\([^()]*named=True")
    found = {str(path.relative_to(SOURCE)) for path in FILES if made.search(path.read_text())}
    assert found == ROWS_AS_DICTS.keys(), "use python_row or python_rows of formats.text_write"


def test_work_by_key_takes_the_in_memory_engine_of_polars() -> None:
    """Without a name it is the streaming engine, which had wrong counts by group and wrong windows in 2026.
    The scan of a chunk takes it: see tests/engine/test_polars_engines.py."""
    wrong = [
        f"{name_of(path)}:{line} {engine}"
        for path in FILES
        if room_of(path) in NAMES_ITS_ENGINE
        for line, engine in queries(path)
        if engine is None or (room_of(path) in IN_MEMORY and engine != "in-memory")
    ]
    assert not wrong, wrong


ASKS_NOBODY = ("planner", "engine", "jobs")
"""These know connectors, operators and their configs by their contracts only."""
CONNECTOR_WORDS = re.compile(r"connector|config|source|destination|reader|writer|committer")


def questions(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each `getattr` and `hasattr`, and of each look into `__dict__`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "hasattr", "setattr", "vars"):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Attribute) and node.attr == "__dict__":
            yield node.lineno, ast.unparse(node)


def test_what_is_asked_of_a_connector_is_in_its_contract() -> None:
    """A question by an attribute's name is not in `dataflare.sdk`, so no plugin could answer it, and a type
    checker does not see that the attribute was renamed."""
    wrong = [
        f"{name_of(path)}:{line} {text}"
        for path in FILES
        if room_of(path) in (*ASKS_NOBODY, "workflow")
        for line, text in questions(path)
        if room_of(path) != "workflow" or CONNECTOR_WORDS.search(text.lower())
    ]
    assert not wrong, "\n".join(wrong)


def test_the_tools_of_tests_patch_nothing_of_dataflare() -> None:
    """What they change is an option of a contract, so that a plugin's tests can change it as well. They do
    patch `os`, because the disk has no contract."""
    patched = re.compile(r"mock\.patch(\.\w+)?\((\w*)|monkeypatch")
    wrong = [
        f"{name_of(path)}: {found.group()}"
        for path in FILES
        if room_of(path) == "testing"
        for found in patched.finditer(path.read_text())
        if found[2] != "os"
    ]
    assert not wrong


def test_modules_that_tests_share_have_names_of_their_own() -> None:
    """The folders of tests are not packages, so one process knows one module of a name."""
    shared: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        name = path.name
        is_test = name.startswith("test_") or name in ("conftest.py", "__init__.py", "soak.py")
        if not is_test and not (path.parent / "__init__.py").exists():
            shared.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert not {name: paths for name, paths in shared.items() if len(paths) > 1}


def test_no_connector_is_known_by_its_name() -> None:
    """What holds for the type `file` only is a method of the contract, which a plugin may have as well."""
    asked = re.compile(r"(node|connector|source|destination)\.type (==|!=|in|not in) ")
    wrong = [
        f"{name_of(path)}:{number}"
        for path in FILES
        if room_of(path) in ASKS_NOBODY
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if asked.search(line)
    ]
    assert wrong == [name for name in wrong if name.startswith("src/dataflare/jobs/unread.py")], (
        wrong
    )


def test_every_error_says_what_to_do() -> None:
    """Where one of DataFlare's errors is made by its class's name, `help` is given."""
    silent = [
        f"{name_of(path)}:{call.lineno}"
        for path in FILES
        for call in ast.walk(tree_of(path))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in OUR_ERRORS
        and not {"help", None} & {given.arg for given in call.keywords}
    ]
    assert not silent


def test_no_file_has_marks_of_a_merge():
    marks = re.compile(r"^(<{7} |>{7} )", re.MULTILINE)
    wrong = []
    for path in tracked():
        if path.suffix in TEXT and marks.search(path.read_text("utf-8", errors="replace")):
            wrong.append(name_of(path))
    assert not wrong
