"""Build a Workflow from the file's mapping with its variables replaced. Collects all errors of the form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataflare.errors import DataFlareError, Spot, WorkflowError
from dataflare.workflow.alerts import AlertReader, share_rules
from dataflare.workflow.belongs import help_in_workflow
from dataflare.workflow.bind import WORKFLOW, found_words, validated
from dataflare.workflow.form import NAME_MAX, Form, better_name, short
from dataflare.workflow.graph import check_graph
from dataflare.workflow.model import (
    DestinationStep,
    SourceStep,
    TransformationStep,
    Workflow,
    WorkflowTest,
)
from dataflare.workflow.nodes import SpotList, SpotMap, Unresolved, spot_of
from dataflare.workflow.params import Parameter
from dataflare.workflow.settings import Settings
from dataflare.workflow.steps import StepReader

TOP_KEYS = (
    "name",
    "version",
    "description",
    "include",
    "environments",
    "params",
    "settings",
    "sources",
    "transformations",
    "destinations",
    "alerts",
    "notifiers",
    "tests",
)
TEST_KEYS = ("name", "description", "params", "given", "expect", "ordered")
VERSION = "1.0"
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def build(
    root: SpotMap,
    *,
    params: Mapping[str, Parameter],
    file: Path | None,
    base: Path,
    secrets: frozenset[str],
    masked: frozenset[str],
    errors: list[DataFlareError],
) -> Workflow | None:
    """The workflow. None if `errors` is not empty at the end."""
    head, reader = _Head(errors), StepReader(errors)
    head.keys(root, TOP_KEYS, "the workflow", extensions=True, help=help_in_workflow)
    name = head.name(root)
    head.version(root)
    description = head.text(root, "description", "the workflow")
    settings = head.settings(root)
    handling = settings.error_handling
    sources = reader.steps(root, "sources", SourceStep, handling)
    transformations = reader.steps(root, "transformations", TransformationStep, handling)
    destinations = reader.steps(root, "destinations", DestinationStep, handling)
    told = AlertReader(errors)
    notifiers = told.notifiers(root)
    shares = share_rules((t.name, t.type, t.config) for t in transformations.values())
    alerts = told.alerts(root, [*sources, *transformations, *destinations], notifiers, shares)
    tests = head.tests(root)
    workflow = Workflow(
        name=name,
        version=VERSION,
        description=description,
        params=params,
        settings=settings,
        sources=sources,
        transformations=transformations,
        destinations=destinations,
        alerts=alerts,
        notifiers=notifiers,
        tests=tests,
        file=file,
        base=base,
        secrets_seen=secrets,
        masked=masked,
        spot=root.spot,
        node=root,
    )
    if not reader.unread:
        check_graph(workflow, errors, whole=not reader.broken)
    return None if errors else workflow


class _Head(Form):
    """Reads the parts that are not steps: the name, the settings, the tests."""

    def name(self, root: SpotMap) -> str:
        if "name" not in root:
            self.missing("name", "the workflow", root.spot, "name it: name: my_workflow")
            return ""
        value = root["name"]
        if isinstance(value, Unresolved):
            return ""
        if not isinstance(value, str):
            self.wrong("'name' must be text", spot_of(root, "name"), value)
            return ""
        if _NAME.fullmatch(value) is None or len(value) > NAME_MAX:
            self.errors.append(
                WorkflowError(
                    f"'{short(value)}' cannot be a workflow's name",
                    code="E0106",
                    spot=spot_of(root, "name"),
                    notes=[
                        "expected: a small letter, then small letters, digits, '_' and '-', "
                        f"at most {NAME_MAX}"
                    ],
                    help=better_name(value),
                )
            )
        return str(value)

    def version(self, root: SpotMap) -> None:
        if "version" not in root:
            return
        value = root["version"]
        version_text = value if isinstance(value, str) else found_words(value)
        if isinstance(value, Unresolved) or version_text == VERSION:
            return
        self.errors.append(
            WorkflowError(
                f"version '{short(version_text)}' of the file format is not known",
                code="E0107",
                spot=spot_of(root, "version"),
                notes=[f'known versions: "{VERSION}"'],
                help=f'write version: "{VERSION}"',
            )
        )

    def settings(self, root: SpotMap) -> Settings:
        node = self.mapping(root, "settings")
        if not node:
            return Settings()
        return validated(Settings, node, "'settings'", WORKFLOW, self.errors) or Settings()

    def tests(self, root: SpotMap) -> tuple[WorkflowTest, ...]:
        value = root.get("tests")
        if value is None:
            return ()
        if not isinstance(value, SpotList):
            self.wrong("'tests' must be a list", spot_of(root, "tests"), value)
            return ()
        tests = (self._test(item, i, spot_of(value, i)) for i, item in enumerate(value))
        return tuple(test for test in tests if test is not None)

    def _test(self, node: Any, index: int, spot: Spot | None) -> WorkflowTest | None:
        if not isinstance(node, SpotMap):
            self.wrong("a test must be a mapping: name, given, expect", spot, node)
            return None
        name = self.text(node, "name", "a test") or f"test {index + 1}"
        owner = f"test '{name}'"
        self.keys(node, TEST_KEYS, owner)
        for key in ("given", "expect"):
            if key not in node:
                self.missing(key, owner, spot)
        return WorkflowTest(
            name=name,
            given=self._rows(node, "given", owner),
            expect=self._rows(node, "expect", owner),
            params=self.mapping(node, "params", owner=owner),
            description=self.text(node, "description", owner),
            spot=spot,
            node=node,
        )

    def _rows(self, node: SpotMap, key: str, owner: str) -> SpotMap:
        steps = self.mapping(node, key, owner=owner)
        for name, rows in steps.items():
            if not isinstance(rows, SpotList):
                self.wrong(
                    f"'{key}.{name}' of {owner} must be a list of rows", spot_of(steps, name), rows
                )
                continue
            for i, row in enumerate(rows):
                if not isinstance(row, SpotMap):
                    self.wrong(
                        f"a row in '{key}.{name}' of {owner} must be a mapping",
                        spot_of(rows, i),
                        row,
                    )
        return steps
