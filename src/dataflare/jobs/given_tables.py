"""The tables of a test: those that it gives rows of, expects, or whose steps read them. Pure.

Always true: no system is asked; a table that nothing names is not there.
"""

from __future__ import annotations

from collections.abc import Iterator

from dataflare.planner.families import reads_many
from dataflare.planner.families.expand import expand
from dataflare.planner.families.tables import family_of
from dataflare.planner.history_mode import with_histories
from dataflare.sdk import registry
from dataflare.sdk.catalog import Entry, SupportsCatalog
from dataflare.sdk.context import Policy
from dataflare.workflow.model import Workflow, WorkflowTest

_SCHEMA = "schema"
"""Of a table that is named without one; no destination of a test has a place that it could be in."""


def with_given_tables(workflow: Workflow, test: WorkflowTest, policy: Policy) -> Workflow:
    """The workflow with a step for each table of the test."""
    families = {}
    for name, step in workflow.sources.items():
        if not reads_many(step):
            continue
        class_ = registry.source(step.type)
        options = list(class_.chosen_by()) if issubclass(class_, SupportsCatalog) else []
        entries = [_entry(table, options) for table in dict.fromkeys(_tables(workflow, test, name))]
        names = {entry.of: entry.name for entry in entries}
        families[name] = family_of(step, entries, options, names)
    return with_histories(expand(workflow, families, policy) if families else workflow)


def _tables(workflow: Workflow, test: WorkflowTest, source: str) -> Iterator[str]:
    refs = [str(ref) for step in workflow.steps() for ref in step.inputs]
    before = f"{source}."
    for name in (*test.given, *test.expect, *refs):
        if name.startswith(before):
            yield name.removeprefix(before)


def _entry(name: str, options: list[str]) -> Entry:
    schema, _, table = name.rpartition(".")
    return Entry(name, "table", dict.fromkeys(options, name), None, table, schema or _SCHEMA)
