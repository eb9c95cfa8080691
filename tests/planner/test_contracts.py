"""What the planner and the jobs ask of a connector is a method, and a plugin may answer in its own way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from dataflare.connectors.blackhole import BlackholeDestination
from dataflare.connectors.inline import InlineSource
from dataflare.errors import DataFlareError
from dataflare.jobs.inspect import inspect
from dataflare.jobs.replaced_rows import nothing_to_replace_with
from dataflare.planner import plan
from dataflare.planner.facts import of_destination
from dataflare.planner.graph import DestinationNode
from dataflare.sdk import registry
from dataflare.sdk.places import Table, Target
from dataflare.workflow import load_text


class BucketDestination(BlackholeDestination):
    """A destination whose config has none of the usual names."""

    type = "bucket"
    answers: Mapping[str, str] = {"server": "bucket 7"}

    def writes_to(self) -> Target | None:
        return Target("bucket orders")

    def table(self) -> Table | None:
        return Table("bucket", "orders")

    @property
    def mode(self) -> str:
        return "overwrite"

    @property
    def key(self) -> Sequence[str]:
        return ["id"]

    async def inspect(self) -> Mapping[str, str]:
        return self.answers


class BucketSource(InlineSource):
    type = "bucket"
    lists_only_new = True
    new_only = True

    def table(self) -> Table | None:
        return Table("bucket", "orders") if not self.new_only else None

    def reads_all(self) -> bool:
        return not self.new_only

    def is_incremental(self) -> bool:
        return self.new_only

    async def splits(self, carried=None):
        return [] if carried else await super().splits(carried)


@pytest.fixture(autouse=True)
def bucket(monkeypatch):
    monkeypatch.setitem(registry._registered, ("destination", "bucket"), BucketDestination)
    monkeypatch.setitem(registry._registered, ("source", "bucket"), BucketSource)


def a_workflow(source: str = "inline", destinations: str = "y: {inputs: [a], type: bucket}"):
    return load_text(
        f"name: w\nsources:\n  a: {{type: {source}, config: {{rows: [{{id: 1}}]}}}}\n"
        f"destinations:\n  {destinations}\n"
    )


def refused(workflow) -> str | None:
    with pytest.raises(DataFlareError) as caught:
        plan(workflow)
    return caught.value.code


def test_a_plan_shows_the_place_the_mode_and_the_key_that_a_destination_names():
    [node] = [node for node in plan(a_workflow()).graph if isinstance(node, DestinationNode)]
    facts = of_destination(node.connector, complete=True)
    assert facts["place"] == "bucket orders"
    assert (facts["mode"], facts["key"]) == ("overwrite", ["id"])
    assert "everything" in facts["deletes"]


def test_two_destinations_of_one_place_are_refused():
    two = "y: {inputs: [a], type: bucket}\n  z: {inputs: [a], type: bucket}"
    assert refused(a_workflow(destinations=two)) == "E0321"


def test_a_table_that_is_read_and_replaced_is_refused(monkeypatch):
    monkeypatch.setattr(BucketSource, "new_only", False)
    assert refused(a_workflow("bucket")) == "E0322"


def test_a_table_that_each_run_replaces_by_new_rows_is_refused():
    assert refused(a_workflow("bucket")) == "E0324"


def test_check_asks_a_destination_for_its_facts():
    found = {each.step: each.facts for each in inspect(a_workflow())}
    assert found["y"]["server"] == "bucket 7"


@pytest.mark.parametrize(("lists_only_new", "expected"), [(True, True), (False, False)])
def test_a_source_that_lists_only_new_rows_keeps_what_is_there(
    monkeypatch, lists_only_new: bool, expected: bool
):
    monkeypatch.setattr(BucketSource, "lists_only_new", lists_only_new)
    monkeypatch.setattr(BucketDestination, "table", lambda self: None)
    planned = plan(a_workflow("bucket"))
    if expected:
        assert asyncio.run(nothing_to_replace_with(planned, {"a": {"at": 1}}))
        return
    assert not asyncio.run(nothing_to_replace_with(planned, {}))
    with pytest.raises(DataFlareError) as caught:
        asyncio.run(nothing_to_replace_with(planned, {"a": {"at": 1}}))
    assert caught.value.code == "E0324"
