"""Rows behind their watermark join the sessions that are open for them, whatever the batches."""

from __future__ import annotations

import datetime
import random
from collections import defaultdict
from typing import Any

import pytest

from dataflare import Workflow
from dataflare.testing import Checkpoint, Crash, Lab, ScriptedSource

pytestmark = pytest.mark.rotates(3)

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
GAP, SEEDS, PER_TEST = 5, 200, 20


def rows(pick: random.Random) -> list[dict[str, Any]]:
    time, made = 100, []
    for number in range(pick.randrange(5, 60)):
        time += pick.choice([0, 0, 1, 1, 3, 7])
        behind = pick.choice([0, 0, 0, 1, 3, 6, 9, 14])
        made.append({"id": number, "k": pick.choice("ab"), "at": time - behind})
    return made


def evaluated(made: list[dict[str, Any]], slack: int, lateness: int) -> tuple[set[Any], set[int]]:
    """Row by row in the order of watermarks: rows in time at once, rows behind when time passes their limit."""
    seen, steps = -(10**9), []
    for row in made:
        seen = max(seen, row["at"])
        limit = seen - slack - lateness
        in_time = row["at"] >= limit
        steps.append((row, limit, in_time))
    # A row in time belongs to the sessions before every decision at its limit or a later one.
    in_order = sorted(steps, key=lambda s: (s[1], not s[2], s[0]["at"] if not s[2] else 0))
    live: dict[str, list[set[int]]] = defaultdict(list)
    times = {row["id"]: row["at"] for row in made}
    done: set[Any] = set()
    late: set[int] = set()
    for row, limit, in_time in in_order:
        key, at = row["k"], row["at"]
        last = lambda session: max(times[i] for i in session)  # noqa: E731
        first = lambda session: min(times[i] for i in session)  # noqa: E731
        closed = [s for s in live[key] if last(s) + GAP < limit]
        done |= {(key, frozenset(s)) for s in closed}
        live[key] = [s for s in live[key] if s not in closed]
        beside = [s for s in live[key] if first(s) - GAP <= at <= last(s) + GAP]
        if not beside and not in_time and at + GAP < limit:
            late.add(row["id"])
            continue
        live[key] = [s for s in live[key] if s not in beside]
        live[key].append({row["id"]}.union(*beside))
    done |= {(key, frozenset(s)) for key, sessions in live.items() for s in sessions}
    return done, late


@pytest.mark.parametrize("start", range(0, SEEDS, PER_TEST))
def test_sessions_do_not_depend_on_batches(start: int, tmp_path: Any) -> None:
    for seed in range(start, start + PER_TEST):
        pick = random.Random(seed)
        made, slack = rows(pick), pick.choice([0, 2, 5])
        expected, late = evaluated(made, slack, 0)
        script: list[Any] = [{**row, "at": START + row["at"] * SECOND} for row in made]
        if pick.random() < 0.5:
            script.insert(pick.randrange(len(script)), Checkpoint())
            script.insert(pick.randrange(len(script)), Crash())
        size = pick.choice([1, 3, 100])
        settings = {"mode": "streaming", "parallelism": 1}
        settings["batch"] = {"initial": size, "min": 1, "max": size}  # type: ignore[assignment]
        wf = Workflow("behind", settings=settings)
        schema = {"id": "int64", "k": "string", "at": "timestamp[us, UTC]"}
        event_time = {"column": "at", "out_of_orderness": f"{slack}s"}
        source = ScriptedSource(script, schema=schema).add_to(wf, "rows", event_time=event_time)
        measures = {"ids": "list(id ORDER BY id)"}
        window = source.process(
            "s", "window", kind="session", gap=f"{GAP}s", group_by=["k"], measures=measures
        )
        window.to("out", "memory")
        window.output("late").to("late", "memory")
        lab = Lab(tmp_path / str(seed))
        result = lab.run(wf, restarts=2)
        assert result.status == "finished", (seed, result.error)
        got = [(row["k"], tuple(row["ids"])) for row in lab.rows("out")]
        assert {row["id"] for row in lab.rows("late")} == late, seed
        assert sorted(got) == sorted((k, tuple(sorted(ids))) for k, ids in expected), seed
