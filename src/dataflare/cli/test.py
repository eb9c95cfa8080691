"""`dataflare test`: run the tests that stand in a workflow file, writing nothing and reaching nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from xml.etree import ElementTree

import typer
from msgspec.structs import replace

from dataflare.cli import common, human, tables, terminal
from dataflare.errors import DataFlareError, ManyErrors, WorkflowError
from dataflare.security.redact import redact

if TYPE_CHECKING:
    from dataflare.jobs.compare import Difference
    from dataflare.jobs.workflow_test import CaseResult
    from dataflare.workflow.model import Workflow, WorkflowTest

_NOT_SET = re.compile(r"the environment variable '(\w+)' is not set")
_STAND_IN = "not-set-in-this-test"
_SHOWN_MAX = 50


def run_tests(
    file: common.File,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write what came over what was expected, in the file.")
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write the outcome as JUnit XML."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Run a workflow's tests: given rows in, expected rows out. No system is reached."""
    workflow = _read(file, param, sets, overlay)
    from dataflare.jobs.workflow_test import run_test

    results = []
    for case in workflow.tests:
        own = workflow
        if case.params:
            values = [*(param or ()), *(f"{name}={value}" for name, value in case.params.items())]
            own = _read(file, values, sets, overlay)
        result = run_test(own, case)
        results.append(result)
        if not json and not update:
            _print_result(result)
    if update:
        try:
            results = _update(file, workflow.tests, results)
        finally:
            for result in results if not json else ():
                _print_result(result)
    if junit is not None:
        _write_junit(junit, workflow.name, results)
    if json:
        _print_json(workflow.name, results)
    else:
        _print_end(file, results)
    return int(any(each.status in ("failed", "error") for each in results))


def _read(
    file: Path, param: list[str] | None, sets: list[str] | None, overlay: list[Path] | None
) -> Workflow:
    """The workflow. Environment variables that only sources and destinations need may be missing:
    those steps are replaced."""
    try:
        return common.read_workflow(file, param, sets, overlay)
    except DataFlareError as error:
        missing = _missing(error)
        if not missing:
            raise
        before = dict(os.environ)
        os.environ.update(dict.fromkeys(missing, _STAND_IN))
        try:
            workflow = common.read_workflow(file, param, sets, overlay)
        finally:
            os.environ.clear()
            os.environ.update(before)
        steps = [*(step.config for step in workflow.transformations.values())]
        steps += [test.node for test in workflow.tests]
        if any(_STAND_IN in text for step in steps for text in _texts(step)):
            raise
        return workflow


def _missing(error: DataFlareError) -> list[str]:
    """The environment variables that are missing, if nothing else is wrong."""
    errors = error.errors if isinstance(error, ManyErrors) else [error]
    found = [_NOT_SET.fullmatch(each.message) for each in errors]
    return [match.group(1) for match in found if match] if all(found) else []


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for name, each in node.items():
            # The table of a lookup is given, too.
            if name != "source":
                yield from _texts(each)
    elif isinstance(node, list):
        for each in node:
            yield from _texts(each)


def _update(
    file: Path, tests: Sequence[WorkflowTest], results: Sequence[CaseResult]
) -> list[CaseResult]:
    """Rewrite the expectations that did not hold. Returns the results as they are then."""
    from dataflare.jobs.compare import revised
    from dataflare.jobs.rewrite_tests import rewritten

    changes = {}
    made = []
    for case, result in zip(tests, results, strict=True):
        wrong = [name for name, found in result.differences.items() if found]
        for name in wrong:
            if case.spot is None or Path(case.spot.file) != file:
                raise WorkflowError(
                    f"test '{case.name}' does not stand in '{file}' itself",
                    code="E0116",
                    spot=case.spot,
                    help="run dataflare test --update on the file in which it stands",
                )
            changes[case.spot.line, name] = revised(
                case.expect[name], result.actual[name], name, ordered=case.ordered
            )
        made.append(replace(result, updated=bool(wrong)))
    if changes:
        from dataflare.checkpoint.files import write_whole, writing

        data = file.read_bytes()
        text = rewritten(data.decode("utf-8-sig").replace("\r\n", "\n"), changes)
        if b"\r\n" in data:
            text = text.replace("\n", "\r\n")
        mark = b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b""
        mode = file.stat().st_mode
        with writing("the workflow file"):
            write_whole(file.resolve(), mark + text.encode())
            file.chmod(mode)
    return made


_WORDS = {"passed": "ok     ", "updated": "updated", "failed": "FAIL   ", "error": "FAIL   "}


def _print_result(result: CaseResult) -> None:
    print(f"{_WORDS[result.status]} {result.name}  ({human.span(result.duration_s)})")
    if result.error is not None:
        terminal.print_error(result.error)
    for name, found in result.differences.items():
        if found:
            print()
            print(f"  {name}: {_counted(found)}")
            for line in _table(found):
                print(f"    {line}")
    for line in result.failed_rows if result.status != "passed" else ():
        print(f"  {redact(line)}")
    if result.status != "passed":
        print()


def _counted(found: Sequence[Difference]) -> str:
    counts = {kind: sum(each.kind == kind for each in found) for kind in _SIGNS}
    return ", ".join(f"{human.counted(n, 'row')} {kind}" for kind, n in counts.items() if n)


_SIGNS = {"missing": "-", "unexpected": "+", "different": "≠"}


def _table(found: Sequence[Difference]) -> Iterator[str]:
    """A line for each row, the columns that differ with both values."""
    rows = [each.actual or each.expected or {} for each in found]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [
        [f"{_SIGNS[each.kind]} {each.kind}", *(_cell(each, name) for name in columns)]
        for each in found[:_SHOWN_MAX]
    ]
    yield from tables.lines(("", *columns), cells)
    if len(found) > _SHOWN_MAX:
        yield f"and {human.count(len(found) - _SHOWN_MAX)} more"


def _cell(difference: Difference, column: str) -> str:
    expected, actual = difference.expected, difference.actual
    if column in difference.columns:
        assert expected is not None
        assert actual is not None
        return f"{_shown(actual[column])} (expected {_shown(expected[column])})"
    row: Mapping[str, Any] = actual or expected or {}
    return _shown(row[column]) if column in row else ""


def _shown(value: object) -> str:
    return "NULL" if value is None else str(value).replace("\n", "⏎")


def _print_end(file: Path, results: Sequence[CaseResult]) -> None:
    if not results:
        terminal.print_warning(f"{file} has no tests")
        return
    counts = {status: sum(each.status == status for each in results) for status in _WORDS}
    updated = counts["updated"]
    failed = counts["failed"] + counts["error"]
    said = [f"{counts['passed']} passed", *([f"{updated} updated"] if updated else ())]
    print(f"{human.counted(len(results), 'test')}: {', '.join(said)}, {failed} failed")
    if updated:
        print(f"{file} now expects what came; look at the difference before you keep it")


def _print_json(name: str, results: Sequence[CaseResult]) -> None:
    counts = {status: sum(each.status == status for each in results) for status in _WORDS}
    terminal.print_json(
        {
            "workflow": name,
            "passed": counts["passed"],
            "failed": counts["failed"] + counts["error"],
            "updated": [each.name for each in results if each.status == "updated"],
            "tests": [each.to_json() for each in results],
        },
        indent=False,
    )


def _write_junit(path: Path, workflow: str, results: Sequence[CaseResult]) -> None:
    """JUnit's XML, as continuous integration systems read it."""
    total = sum(each.duration_s for each in results)
    counts = {
        "tests": str(len(results)),
        "failures": str(sum(each.status == "failed" for each in results)),
        "errors": str(sum(each.status == "error" for each in results)),
        "time": f"{total:.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": workflow, **counts})
    for each in results:
        facts = {"classname": workflow, "name": each.name, "time": f"{each.duration_s:.3f}"}
        case = ElementTree.SubElement(suite, "testcase", facts)
        if each.error is not None:
            more = {"message": redact(each.error.message), "type": each.error.code}
            ElementTree.SubElement(case, "error", more)
        elif each.status == "failed":
            parts = {name: found for name, found in each.differences.items() if found}
            said = "; ".join(f"{name}: {_counted(found)}" for name, found in parts.items())
            failure = ElementTree.SubElement(case, "failure", {"message": said})
            lines = [line for found in parts.values() for line in _table(found)]
            failure.text = redact("\n".join([*lines, *each.failed_rows]))
    from dataflare.checkpoint.files import make_folder, write_whole, writing

    with writing("the JUnit file"):
        make_folder(path.absolute().parent)
        write_whole(path.absolute(), ElementTree.tostring(root, "utf-8", xml_declaration=True))
