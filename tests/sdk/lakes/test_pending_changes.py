"""Changes that wait in files fold to the same events as those that wait in memory."""

from __future__ import annotations

import random

import polars as pl
import pytest

from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.sdk.lakes import pending
from dataflare.sdk.lakes.pending import EVENT, Pending


def changes(keys: int, rng: random.Random) -> list[pl.DataFrame]:
    """Frames of which some have row kinds and some have none; the last is the smallest."""
    frames = []
    for number, height in enumerate([300, 500, 200, 400, 7]):
        rows = [(rng.randrange(keys), f"value {number} {n}") for n in range(height)]
        frame = pl.DataFrame(rows, schema=["id", "v"], orient="row")
        if number in (1, 4):
            kinds = rng.choices([RowKind.INSERT.value, RowKind.DELETE.value], k=height)
            frame = frame.with_columns(pl.Series(KIND_COLUMN, kinds, dtype=pl.UInt8))
        frames.append(frame)
    return frames


def events(frames: list[pl.DataFrame], touched: list[int]) -> tuple[int, list[tuple[object, ...]]]:
    """In how many parts they are, and all of them in the order of their keys."""
    waiting = Pending(["id"], None, mirror=True)
    for frame in frames:
        waiting.add(frame)
    for key in touched:
        waiting.touch(pl.DataFrame({"id": [key]}))
    parts = list(waiting.parts())
    again = list(waiting.parts())
    waiting.close()
    assert [each.height for each in again] == [each.height for each in parts]
    every = pl.concat(parts, how="diagonal").sort("id")
    return len(parts), every.select("id", "v", EVENT).rows()


@pytest.mark.parametrize("keys", [2, 4_000])
@pytest.mark.parametrize("touches", [False, True])
@pytest.mark.parametrize("held_bytes", [0, 10_000])
def test_a_spill_to_files_changes_no_event(
    monkeypatch: pytest.MonkeyPatch, keys: int, touches: bool, held_bytes: int
) -> None:
    frames = changes(keys, random.Random(keys))
    touched = [0, keys + 5] if touches else []
    in_memory, expected = events(frames, touched)
    monkeypatch.setattr(pending, "_HELD_BYTES", held_bytes)
    in_files, spilled = events(frames, touched)
    assert spilled == expected
    assert in_memory == 1
    assert in_files > 1 or keys == 2
    assert len({row[0] for row in spilled}) == len(spilled)
