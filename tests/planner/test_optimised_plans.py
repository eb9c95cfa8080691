"""The law of every rule: the optimised plan gives the rows that the plain plan gives."""

from __future__ import annotations

import pickle
from typing import Any

from flows import ordered, rows_of
from hypothesis import HealthCheck, given, settings
from random_flows import Drawn, workflows

from dataflare.planner import plan

BOUNDED = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def all_rows(drawn: Drawn, optimise: bool) -> list[Any]:
    found = rows_of(drawn.workflow, *drawn.outputs, optimise=optimise)
    return [ordered(rows) for rows in (found if len(drawn.outputs) > 1 else [found])]


@given(workflows())
@BOUNDED
def test_the_optimised_plan_gives_what_the_plain_plan_gives(drawn: Drawn):
    assert all_rows(drawn, optimise=True) == all_rows(drawn, optimise=False)


@given(workflows())
@settings(BOUNDED, max_examples=20)
def test_a_plan_is_data_that_travels_and_shows_every_step(drawn: Drawn):
    made = plan(drawn.workflow)
    copy = pickle.loads(pickle.dumps(made.stages))
    assert [stage.steps for stage in copy.stages] == [stage.steps for stage in made.stages.stages]
    assert copy.edges == made.stages.edges
    shown = made.view()
    assert {node["id"] for node in shown["nodes"]} == {s.name for s in drawn.workflow.steps()}
