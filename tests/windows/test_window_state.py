"""The state of windows: what is closed is gone, what is stored is not stored again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from reference import MEASURES, Row
from window_feeds import BASE, SECOND
from window_runs import WindowRun, bound, frame_of

from dataflare.operators.base import Lowering
from dataflare.testing import check_processor

KINDS: dict[str, dict[str, Any]] = {
    "tumbling": {"kind": "tumbling", "size": "10s"},
    "sliding": {"kind": "sliding", "size": "10s", "slide": "4s"},
    "session": {"kind": "session", "gap": "2s"},
    "global": {"kind": "global"},
    "filled": {"kind": "tumbling", "size": "10s", "fill": "previous"},
    "updates": {"kind": "sliding", "size": "10s", "slide": "5s", "emit": "updates", "allowed_lateness": "5s"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_windows_keep_the_laws_of_steps_with_state(kind: str) -> None:
    step = bound({**KINDS[kind], "group_by": ["k"], "measures": MEASURES})
    assert step.stateful is not None
    times = sorted(BASE + n * n % 97 * SECOND + n for n in range(90))
    rows = [Row("abcdefg"[n * n % 7], time, n % 5, time, n) for n, time in enumerate(times)]
    query = frame_of(rows).lazy()
    for operator in step.operators:
        query = operator.lower(query, Lowering())
    asyncio.run(check_processor(step.stateful, query.collect()))


@pytest.mark.parametrize("kind", ["tumbling", "sliding", "session"])
def test_closed_windows_leave_the_state(kind: str) -> None:
    run = WindowRun({**KINDS[kind], "group_by": ["k"], "measures": MEASURES})
    sizes = []
    for second in range(0, 400, 5):
        run.rows(
            [
                Row(f"k{n}", BASE + second * SECOND + n, 1, BASE + second * SECOND, n)
                for n in range(50)
            ]
        )
        run.watermark(BASE + second * SECOND)
        sizes.append(
            sum(
                piece.rows
                for t in run.tables
                for runs in t.freeze().runs.values()
                for each in runs
                for piece in each
            )
        )
    assert max(sizes[10:]) <= 300


def test_a_checkpoint_writes_only_what_is_new() -> None:
    run = WindowRun(
        {**KINDS["tumbling"], "group_by": ["k"], "measures": MEASURES, "allowed_lateness": "1h"}
    )
    written = []
    for second in range(0, 200, 10):
        run.rows([Row(f"k{n}", BASE + second * SECOND + n, 1, BASE, n) for n in range(50)])
        run.watermark(BASE + second * SECOND)
        before = {
            id(chunk)
            for share in run.checkpoint[0]
            for chunks in share.chunks.values()
            for chunk in chunks
        }
        run.store()
        after = [
            chunk
            for share in run.checkpoint[0]
            for chunks in share.chunks.values()
            for chunk in chunks
        ]
        written.append(sum(chunk.rows for chunk in after if id(chunk) not in before))
    assert max(written) <= 100
