"""`join` of changelogs: after each change the result is the join of what is there, as DuckDB makes it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from changelogs import (
    applied,
    asked,
    changelog_of,
    cut,
    frame_of,
    history,
    left_of,
    listed,
)

from dataflare.model.batch import CHANGES, INSERTS, KIND_COLUMN
from dataflare.model.types import Schema
from dataflare.state.tables import Tables
from dataflare.testing import check_processor
from dataflare.testing.build import processor_of

pytestmark = pytest.mark.rotates(2)

KINDS = ("inner", "left", "right", "full", "semi", "anti")
LEFT = {"k": "int32", "s": "string", "a": "int64"}
RIGHT = {"s": "string", "id": "int64", "b": "float64"}


def left_row(rng: random.Random) -> tuple[Any, ...]:
    return (rng.choice((None, 1, 2, 3, 4)), rng.choice((None, "x", "y")), rng.randrange(4))


def right_row(rng: random.Random) -> tuple[Any, ...]:
    return (rng.choice((None, "x", "y")), rng.choice((None, 1, 2, 3, 4)), rng.randrange(3) / 2)


def operator_of(kind: str, kinds: Any = (CHANGES, CHANGES), **more: Any) -> Any:
    config = {"kind": kind, "on": {"k": "id", "s": "s"}, **more}
    schemas = (Schema.of(LEFT), Schema.of(RIGHT))
    return processor_of("join", config, *schemas, kinds=kinds).operator


def query_of(kind: str) -> str:
    on = "l.k = r.id AND l.s = r.s"
    if kind in ("semi", "anti"):
        return f"SELECT l.* FROM l WHERE {'NOT ' * (kind == 'anti')}EXISTS (SELECT 1 FROM r WHERE {on})"
    return (
        "SELECT coalesce(l.k, r.id)::BIGINT AS k, coalesce(l.s, r.s) AS s, l.a, r.b "
        f"FROM l {kind} JOIN r ON {on}"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_after_every_batch_the_result_is_the_join_of_what_is_there(kind: str) -> None:
    for seed in range(8):
        rng = random.Random(seed)
        changes = [history(rng, rng.randrange(60), draw) for draw in (left_row, right_row)]
        batches = [
            [(port, frame) for frame in cut(rng, changelog_of(schema, changes[port]))]
            for port, schema in enumerate((LEFT, RIGHT))
        ]
        live = operator_of(kind).open(Tables())
        results: list[Any] = []
        given: tuple[list[Any], list[Any]] = ([], [])
        while any(batches):
            waiting = rng.choice([each for each in batches if each])
            port, frame = waiting.pop(0)
            given[port].append(frame)
            results += live.process(port, frame)
            if rng.random() < 0.1 or not any(batches):
                left, right = (
                    frame_of(schema, applied(given[port]))
                    for port, schema in enumerate((LEFT, RIGHT))
                )
                assert applied(results) == asked(query_of(kind), l=left, r=right), seed
        assert listed(left_of(changes[0])) == applied(given[0])


def mixed(seed: int, length: int = 50) -> tuple[Any, Any]:
    rng = random.Random(seed)
    left, right = (history(rng, length, draw) for draw in (left_row, right_row))
    return changelog_of(LEFT, left), changelog_of(RIGHT, right)


@pytest.mark.parametrize("kind", KINDS)
def test_an_updating_join_keeps_the_laws_of_steps_with_state(kind: str) -> None:
    """Also a changelog with a plain input."""
    number = KINDS.index(kind)
    left, right = mixed(number + 10)
    kinds = ((CHANGES, CHANGES), (CHANGES, INSERTS), (INSERTS, CHANGES))[number % 3]
    left = left if kinds[0] == CHANGES else left.drop(KIND_COLUMN)
    right = right if kinds[1] == CHANGES else right.drop(KIND_COLUMN)
    schemas = (Schema.of(LEFT), Schema.of(RIGHT))
    config = {"kind": kind, "on": {"k": "id", "s": "s"}}
    step = processor_of("join", config, *schemas, kinds=kinds)
    skip = ["results_go_on", "waiting_results_find_a_subtask"]  # nothing waits for the end
    asyncio.run(check_processor(step, left, right, skip=skip))
