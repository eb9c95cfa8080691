"""Destinations in servers keep each row once over kills, lost connections and a network that hangs. Each day has seeds of its own;
a failure names its seed, and CHAOS_SEED repeats it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_chaos import PLACES, Place, disturbed
from servers.services import running

SEEDS = 2
_DAY_S = 86_400


def first_seed() -> int:
    given = os.environ.get("CHAOS_SEED")
    return int(given) if given is not None else int(time.time()) // _DAY_S * SEEDS


@pytest.fixture(scope="module", params=[*PLACES])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made = PLACES[request.param]
    for server in running(made.service):
        yield made(server)


@pytest.mark.parametrize("number", range(SEEDS))
def test_each_row_is_there_once_after_the_faults_of_a_seed(
    place: Place, number: int, tmp_path: Path
) -> None:
    seed = first_seed() + number
    outcome = disturbed(place, seed, tmp_path, f"seed_{seed}")
    assert not outcome.problem, f"CHAOS_SEED={seed} ({outcome.faults}): {outcome.problem}"
