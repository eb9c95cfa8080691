"""`dataflare test`: run the tests in a workflow file, without connecting to systems."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec.structs import replace

from dataflare.cli import answers, common, human, terminal
from dataflare.cli.differences import counted, table, write_junit
from dataflare.errors import DataFlareError, WorkflowError, raise_all
from dataflare.formats.visible import visible
from dataflare.security.redact import redact

if TYPE_CHECKING:
    from dataflare.jobs.workflow_test import CaseResult
    from dataflare.workflow.model import Workflow, WorkflowTest

_NOT_SET = re.compile(r"the environment variable '(\w+)' is not set")
_STAND_IN = "not-set-in-this-test"


def run_tests(
    file: common.File,
    param: common.Params = None,
    sets: common.Sets = None,
    overlay: common.Overlays = None,
    env: common.Env = None,
    update: Annotated[
        bool, typer.Option("--update", help="Replace expected rows in the file by the actual rows.")
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write the results as JUnit XML."),
    ] = None,
    json: common.Json = False,
) -> int:
    """Run a workflow's tests: given rows in, expected rows out. It connects to no system.

    A file that `validate` refuses is refused here too. A test whose rows are wrong fails, and the
    other tests run.
    """
    tests = _Tests(file, param, sets, overlay, env)
    try:
        tests.run(quiet=json or update)
        if update:
            try:
                tests.results = _update(file, tests.workflow.tests, tests.results)
            finally:
                for result in tests.results if not json else ():
                    _print_result(result)
    except DataFlareError as error:
        if junit is not None:
            from dataflare.jobs.workflow_test import CaseResult

            whole = CaseResult(f"{file} as a whole", 0.0, error=error)
            write_junit(junit, tests.name, [*tests.results, whole])
        raise
    if junit is not None:
        write_junit(junit, tests.name, tests.results)
    if json:
        _print_json(tests.name, tests.results)
    else:
        _print_end(file, tests.results)
    return tests.exit_status


class _Tests:
    """Runs the tests of a file one after the other, and collects the results."""

    def __init__(
        self,
        file: Path,
        params: list[str] | None,
        sets: list[str] | None,
        overlays: list[Path] | None,
        environment: str | None,
    ) -> None:
        self.file, self.params, self.sets = file, params, sets
        self.overlays, self.environment = overlays, environment
        self.name = file.stem
        self.workflow: Workflow
        self.results: list[CaseResult] = []

    @property
    def exit_status(self) -> int:
        """2 if the file is wrong, 1 if a test failed, else 0."""
        errors = [each.error for each in self.results if each.error is not None]
        worst = max((error.exit_status for error in errors), default=0)
        return max(worst, int(any(each.status == "failed" for each in self.results)))

    def run(self, *, quiet: bool) -> None:
        """Run all tests. Raises the errors of the file."""
        from dataflare.jobs.workflow_test import CaseResult, run_test

        self.workflow = self._read(self.params)
        self.name = self.workflow.name
        for case in self.workflow.tests:
            try:
                result = run_test(self._read_for(case), case)
            except DataFlareError as error:
                result = CaseResult(case.name, 0.0, error=error.at(spot=case.spot))
            self.results.append(result)
            if not quiet:
                _print_result(result)

    def _read_for(self, case: WorkflowTest) -> Workflow:
        if not case.params:
            return self.workflow
        case_params = [f"{name}={value}" for name, value in case.params.items()]
        return self._read([*(self.params or ()), *case_params])

    def _read(self, params: list[str] | None) -> Workflow:
        """Read the workflow. Environment variables that only sources and destinations use may be missing,
        because tests replace these steps."""
        try:
            workflow = self._loaded(params)
        except DataFlareError as error:
            missing = _missing(error)
            if not missing:
                raise
            old_environment = dict(os.environ)
            os.environ.update(dict.fromkeys(missing, _STAND_IN))
            try:
                workflow = self._loaded(params)
            finally:
                os.environ.clear()
                os.environ.update(old_environment)
            steps = [*(step.config for step in workflow.transformations.values())]
            steps += [test.node for test in workflow.tests]
            if any(_STAND_IN in text for step in steps for text in _texts(step)):
                raise
        _check(workflow)
        return workflow

    def _loaded(self, params: list[str] | None) -> Workflow:
        return common.read_workflow(self.file, params, self.sets, self.overlays, self.environment)


def _check(workflow: Workflow) -> None:
    """Raise the errors of the file, except those of steps whose environment variable is missing, because
    tests do not connect to their systems."""
    from dataflare.planner import check

    try:
        check(workflow, inputs=False)
    except DataFlareError as error:
        incomplete_steps = {
            step.name
            for step in workflow.steps()
            if any(_STAND_IN in text for text in _texts(step.config))
        }
        raise_all([each for each in error.each if each.step not in incomplete_steps])


def _missing(error: DataFlareError) -> list[str]:
    """The missing environment variables, if there are no other errors."""
    matches = [_NOT_SET.fullmatch(each.message) for each in error.each]
    return [match.group(1) for match in matches if match] if all(matches) else []


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for name, each in node.items():
            # The test also gives the table of a lookup.
            if name != "source":
                yield from _texts(each)
    elif isinstance(node, list):
        for each in node:
            yield from _texts(each)


def _update(
    file: Path, tests: Sequence[WorkflowTest], results: Sequence[CaseResult]
) -> list[CaseResult]:
    """Rewrite the expectations that did not hold. Returns the results after this."""
    from dataflare.jobs.compare import revised
    from dataflare.jobs.rewrite_tests import rewritten

    changes = {}
    updated_results = []
    for case, result in zip(tests, results, strict=True):
        failed_names = [name for name, differences in result.differences.items() if differences]
        for name in failed_names:
            if case.spot is None or Path(case.spot.file) != file:
                raise WorkflowError(
                    f"test '{case.name}' is not in '{file}'",
                    code="E0116",
                    spot=case.spot,
                    help="run dataflare test --update on the file that has it",
                )
            changes[case.spot.line, name] = revised(
                case.expect[name], result.actual[name], name, ordered=case.ordered
            )
        updated_results.append(replace(result, updated=bool(failed_names)))
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
    return updated_results


_WORDS = {"passed": "ok     ", "updated": "updated", "failed": "FAIL   ", "error": "FAIL   "}


def _print_result(result: CaseResult) -> None:
    print(f"{_WORDS[result.status]} {result.name}  ({human.span(result.duration_s)})")
    if result.error is not None:
        terminal.print_error(result.error)
    for name, differences in result.differences.items():
        if differences:
            print()
            print(f"  {name}: {counted(differences)}")
            for line in table(differences):
                print(f"    {line}")
    for line in result.failed_rows if result.status != "passed" else ():
        print(f"  {visible(redact(line))}")
    if result.status != "passed":
        print()


def _print_end(file: Path, results: Sequence[CaseResult]) -> None:
    if not results:
        terminal.print_warning(f"{file} has no tests")
        return
    counts = {status: sum(each.status == status for each in results) for status in _WORDS}
    updated = counts["updated"]
    failed = counts["failed"] + counts["error"]
    texts = [f"{counts['passed']} passed", *([f"{updated} updated"] if updated else ())]
    print(f"{human.counted(len(results), 'test')}: {', '.join(texts)}, {failed} failed")
    if updated:
        print(f"{file} now expects the actual rows; check the changes before you keep them")


def _print_json(name: str, results: Sequence[CaseResult]) -> None:
    counts = {status: sum(each.status == status for each in results) for status in _WORDS}
    answers.print_json(
        {
            "workflow": name,
            "passed": counts["passed"],
            "failed": counts["failed"] + counts["error"],
            "updated": [each.name for each in results if each.status == "updated"],
            "tests": [each.to_json() for each in results],
            "error": next((each.error.to_json() for each in results if each.error), None),
        },
        indent=False,
    )
