"""Guarantees: what is promised, why, and what is refused."""

from __future__ import annotations

from unittest import mock

import pytest
from flows import plan_of, refused
from msgspec.structs import replace

from dataflare.connectors.inline import InlineSource
from dataflare.connectors.memory import MemoryDestination
from dataflare.planner.guarantees import commits_wait, guarantees
from dataflare.sdk.destination import Delivery
from dataflare.sdk.source import Replay
from dataflare.testing import destination_of

STEP = "step: {type: map, inputs: [s]}"
ROWS = [{"a": 1}]


def capable(**changes: object) -> mock._patch[object]:
    """The inline source, as if it could do other things."""
    original = InlineSource.capabilities
    return mock.patch.object(
        InlineSource, "capabilities", lambda self: replace(original(self), **changes)
    )


def test_rows_that_can_be_read_again_come_once():
    found = plan_of(STEP, s=ROWS).guarantees["out"]
    assert found.level is Delivery.TRANSACTIONAL
    assert found.reason.startswith("s replays exactly: ")
    assert found.reason.endswith("as long as the process lives")


def test_the_replay_by_key_is_said():
    with capable(replay=Replay.BY_KEY, replay_reason="by id"):
        assert (
            plan_of(STEP, s=ROWS)
            .guarantees["out"]
            .reason.startswith("s replays an unfinished range by its key: by id; ")
        )


def test_what_is_delivered_again_comes_once_where_it_is_known_again():
    with capable(replay=Replay.REDELIVERED, replay_reason="by their ids"):
        found = plan_of(STEP, s=ROWS).guarantees["out"]
    assert found.level is Delivery.TRANSACTIONAL
    assert found.reason.startswith("s is given again what no checkpoint has: by their ids; ")
    with capable(replay=Replay.REDELIVERED, repeats=True):
        assert plan_of(STEP, s=ROWS).guarantees["out"].level is Delivery.REPEATING


def test_what_cannot_be_read_again_is_committed_at_the_end():
    with capable(replay=Replay.NONE, replay_reason="a plain query"):
        plan = plan_of(STEP, s=ROWS)
        assert commits_wait(plan.graph)
    assert plan.stages.commits_wait
    assert plan.guarantees["out"].level is Delivery.TRANSACTIONAL
    assert plan.guarantees["out"].reason.startswith(
        "s cannot be read again from a position: a plain query; "
        "so all rows are committed at the end of the run; "
    )


def test_what_has_no_end_and_cannot_be_read_again_may_be_lost():
    with capable(replay=Replay.NONE, bounded=False, replay_reason=""):
        plan = plan_of(STEP, s=ROWS)
        found = guarantees(plan.graph)["out"]
        assert not commits_wait(plan.graph)
    assert found.level is Delivery.FLEETING
    assert "so a crash loses rows that were read and not yet committed" in found.reason


def test_every_source_above_a_destination_is_named_once():
    found = plan_of(
        "one: {type: map, inputs: [s]}\ntwo: {type: map, inputs: [t]}\n"
        "step: {type: union, inputs: [one, two, s]}",
        s=ROWS,
        t=ROWS,
    ).guarantees["out"]
    assert [part.split()[0] for part in found.reason.split("; ")][:2] == ["s", "t"]
    assert found.reason.count("replays") == 2


@pytest.mark.parametrize(
    ("demand", "holds"),
    [
        ("exactly_once", False),
        ("effectively_once", False),
        ("at_least_once", False),
        ("at_most_once", True),
    ],
)
def test_a_demand_that_cannot_hold_is_refused(demand: str, holds: bool):
    settings = f"{{guarantee: {demand}}}"
    assert plan_of(STEP, s=ROWS, settings=settings).guarantees
    with capable(replay=Replay.NONE, bounded=False, replay_reason=""):
        if holds:
            assert plan_of(STEP, s=ROWS, settings=settings).guarantees
            return
        block = refused(STEP, s=ROWS, settings=settings)
    assert block.startswith(
        f"error[E0320]: destination 'out' cannot promise '{demand}': it is at most once\n"
        " --> flow.yaml:8:15\n"
        "  |\n"
        "8 |   out: {type: memory, inputs: [step]}\n"
        "  |               ^^^^^^\n"
    )
    assert "help: choose another destination or mode, or lower settings.guarantee" in block


def test_a_batch_has_an_end():
    block = refused(
        STEP, s="{type: generate, config: {columns: {n: {sequence: 0}}}}", settings="{mode: batch}"
    )
    assert block.startswith("error[E0317]: mode is batch, but source 's' has no end")
    assert "^^^^^^^^" in block


@pytest.mark.parametrize(
    ("type_", "config", "holds"),
    [
        ("elasticsearch", {"connection": "http://h", "index": "i", "id_field": "a"}, True),
        ("elasticsearch", {"connection": "http://h", "index": "i"}, False),
        ("nats", {"connection": "nats://h", "subject": "x", "id": "a"}, False),
        ("sqs", {"queue": "q.fifo", "region": "r", "id": "a", "group": "g"}, False),
    ],
)
def test_exactly_once_is_held_by_rows_that_are_known_by_an_id(
    type_: str, config: dict[str, str], holds: bool
):
    told = destination_of(type_, config).capabilities()
    with mock.patch.object(MemoryDestination, "capabilities", return_value=told):
        if holds:
            found = plan_of(STEP, s=ROWS, settings="{guarantee: exactly_once}").guarantees["out"]
            assert found.level is Delivery.IDEMPOTENT
        else:
            block = refused(STEP, s=ROWS, settings="{guarantee: exactly_once}")
            assert "cannot promise 'exactly_once'" in block
