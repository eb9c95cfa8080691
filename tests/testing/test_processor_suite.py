"""Every built-in step that keeps state keeps what `check_processor` asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from dataflare.model.types import Schema
from dataflare.testing import PROCESSOR_LAWS, check_processor, processor_of
from dataflare.testing.build import ProcessorUnderTest
from dataflare.testing.processors import Run

FRAME = pl.DataFrame(
    {
        "k": [None if n % 11 == 0 else f"key {n % 7}" for n in range(90)],
        "d": [n % 4 for n in range(90)],
        "v": [None if n % 5 == 0 else n for n in range(90)],
        "f": [n / 4 for n in range(90)],
    }
)
MEASURES = {
    "rows": "count(*)",
    "total": "sum(v)",
    "least": "min(v)",
    "most": "max(f)",
    "mean": "avg(v)",
    "kinds": "count(DISTINCT d)",
}
STEPS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "aggregate": ("aggregate", {"group_by": ["k"], "measures": MEASURES}),
    "aggregate_two": ("aggregate", {"group_by": {"a": "k", "b": "d + 1"}, "measures": MEASURES}),
    "aggregate_all": ("aggregate", {"measures": MEASURES}),
    "deduplicate": ("deduplicate", {"key": "v"}),
    "deduplicate_two": ("deduplicate", {"key": ["k", "d"]}),
    "limit": ("limit", {"rows": 40}),
}


def step(name: str) -> ProcessorUnderTest:
    type_, config = STEPS[name]
    return processor_of(type_, config, Schema.from_polars(FRAME.schema))


@pytest.mark.parametrize("law", PROCESSOR_LAWS)
@pytest.mark.parametrize("name", STEPS)
def test_a_built_in_step_keeps_the_contract(name: str, law: str):
    made = step(name)
    run = Run(made.operator, made.prepared(FRAME.select("k", "d", "v", "f")))
    if name.startswith("deduplicate"):
        # Which of several equal rows is the first depends on who comes first: only keys matter.
        run = Run(made.operator, [run.inputs[0].select(made.operator.keys)])
    asyncio.run(PROCESSOR_LAWS[law](run))


def test_the_whole_suite_in_a_line():
    asyncio.run(check_processor(step("aggregate"), FRAME))
