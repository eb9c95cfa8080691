"""`dataflare test`: run the tests that stand in a workflow file, writing nothing and reaching nothing."""

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
        bool, typer.Option("--update", help="Write what came over what was expected, in the file.")
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write the outcome as JUnit XML."),
    ] = None,
    json: common.Json = False,
) -> int:
    """Run a workflow's tests: given rows in, expected rows out. No system is reached.

    A file that `validate` refuses is refused here too. A test whose rows are wrong fails, and the
    others run.
    """
    done = _Tests(file, param, sets, overlay, env)
    try:
        done.run(quiet=json or update)
        if update:
            try:
                done.results = _update(file, done.workflow.tests, done.results)
            finally:
                for result in done.results if not json else ():
                    _print_result(result)
    except DataFlareError as error:
        if junit is not None:
            from dataflare.jobs.workflow_test import CaseResult

            whole = CaseResult(f"{file} as a whole", 0.0, error=error)
            write_junit(junit, done.name, [*done.results, whole])
        raise
    if junit is not None:
        write_junit(junit, done.name, done.results)
    if json:
        _print_json(done.name, done.results)
    else:
        _print_end(file, done.results)
    return done.exit_status


class _Tests:
    """The tests of a file, run one after the other, and how they went."""

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
        """2 where the file is wrong, 1 where a test failed."""
        errors = [each.error for each in self.results if each.error is not None]
        worst = max((error.exit_status for error in errors), default=0)
        return max(worst, int(any(each.status == "failed" for each in self.results)))

    def run(self, *, quiet: bool) -> None:
        """Run them all. Raises what is wrong with the file itself."""
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
        own = [f"{name}={value}" for name, value in case.params.items()]
        return self._read([*(self.params or ()), *own])

    def _read(self, params: list[str] | None) -> Workflow:
        """The workflow. Environment variables that only sources and destinations need may be missing:
        those steps are replaced."""
        try:
            workflow = self._loaded(params)
        except DataFlareError as error:
            missing = _missing(error)
            if not missing:
                raise
            before = dict(os.environ)
            os.environ.update(dict.fromkeys(missing, _STAND_IN))
            try:
                workflow = self._loaded(params)
            finally:
                os.environ.clear()
                os.environ.update(before)
            steps = [*(step.config for step in workflow.transformations.values())]
            steps += [test.node for test in workflow.tests]
            if any(_STAND_IN in text for step in steps for text in _texts(step)):
                raise
        _check(workflow)
        return workflow

    def _loaded(self, params: list[str] | None) -> Workflow:
        return common.read_workflow(self.file, params, self.sets, self.overlays, self.environment)


def _check(workflow: Workflow) -> None:
    """Raise what is wrong with the file, except in steps that lack an environment variable: their
    systems are not reached."""
    from dataflare.planner import check

    try:
        check(workflow, inputs=False)
    except DataFlareError as error:
        standing_in = {
            step.name
            for step in workflow.steps()
            if any(_STAND_IN in text for text in _texts(step.config))
        }
        raise_all([each for each in error.each if each.step not in standing_in])


def _missing(error: DataFlareError) -> list[str]:
    """The environment variables that are missing, if nothing else is wrong."""
    found = [_NOT_SET.fullmatch(each.message) for each in error.each]
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
            print(f"  {name}: {counted(found)}")
            for line in table(found):
                print(f"    {line}")
    for line in result.failed_rows if result.status != "passed" else ():
        print(f"  {redact(line)}")
    if result.status != "passed":
        print()


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
