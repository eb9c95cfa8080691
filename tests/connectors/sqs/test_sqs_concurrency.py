"""Several requests to a queue at once: the messages of a group keep their order, and a run shows the limit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.aws import AwsServer
from sqs_kit import Place

from dataflare.jobs.watching import Watch

FLOW = """\
name: groups
settings: {parallelism: 1}
sources:
  rows: {type: generate, config: {columns: {n: {sequence: 0}}, rows: 120}}
transformations:
  grouped: {type: map, inputs: [rows], config: {derive: {g: "n % 9"}}}
destinations:
  out:
    type: sqs
    inputs: [grouped]
    config: {SERVER, queue: QUEUE, concurrency: CONCURRENCY, id: n, group: "g{g}"}
"""


@pytest.mark.parametrize("concurrency", [1, 6])
def test_groups_keep_their_order(aws: AwsServer, tmp_path: Path, concurrency: int) -> None:
    watches: list[Watch] = []

    @contextmanager
    def observed(watch: Watch) -> Iterator[None]:
        watches.append(watch)
        yield

    place = Place(aws, tmp_path, fifo=True)
    result = place.run(FLOW.replace("CONCURRENCY", str(concurrency)), observers=[observed])
    assert result.error is None
    by_group: dict[str, list[int]] = {}
    for each in place.taken():
        group = each["Attributes"]["MessageGroupId"]
        by_group.setdefault(group, []).append(json.loads(each["Body"])["n"])
    assert {group: len(found) for group, found in by_group.items()} == {
        f"g{n}": len(range(n, 120, 9)) for n in range(9)
    }
    assert all(found == sorted(found) for found in by_group.values())
    view = watches[0].step_views()["out"]
    assert (view.requests_under_way, 1 <= (view.requests_max or 0) <= concurrency) == (0, True)
