"""Tuples of the log taken apart by columns, beside a loop over each of their values. No server."""

from __future__ import annotations

import random
import struct

import pytest

from dataflare.connectors.postgres.cdc.tuples import rows_of
from dataflare.model.batch import RowKind

LEFT_OUT = object()
HEAD = b"w" + bytes(24)
Row = list[object]


def written(values: Row) -> bytes:
    parts = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value is LEFT_OUT:
            parts.append(b"u")
        else:
            assert isinstance(value, bytes)
            parts.append(b"t" + struct.pack(">I", len(value)) + value)
    return b"".join(parts)


def text(lot: random.Random) -> bytes:
    return lot.randbytes(lot.choice([0, 1, 4, 11, 12, 13, 40, 300]))


def change(
    lot: random.Random, columns: int, key: list[int]
) -> tuple[bytes, list[tuple[RowKind, Row]]]:
    """A message, and the rows that it has."""

    def row() -> Row:
        drawn: Row = [lot.choice([None, text(lot)]) for _ in range(columns)]
        for at in key:
            drawn[at] = text(lot)
        return drawn

    new, old = row(), row()
    head = HEAD + b"%c" + struct.pack(">I", 77)
    by_key: Row = [value if at in key else None for at, value in enumerate(old)]
    match lot.choice(
        ["insert", "update", "update with key", "update with row", "delete", "delete with row"]
    ):
        case "insert":
            return head % b"I" + b"N" + written(new), [(RowKind.INSERT, new)]
        case "update":
            for at in range(columns):
                if at not in key and lot.random() < 0.2:
                    new[at] = LEFT_OUT
            return head % b"U" + b"N" + written(new), [(RowKind.UPDATE_AFTER, new)]
        case "update with key":
            message = head % b"U" + b"K" + written(by_key) + b"N" + written(new)
            return message, [(RowKind.DELETE, by_key), (RowKind.INSERT, new)]
        case "update with row":
            given = list(new)
            if lot.random() < 0.7:
                for at in key:
                    new[at] = given[at] = old[at]
            for at in range(columns):
                if lot.random() < 0.2:
                    new[at], given[at] = old[at], LEFT_OUT
            same = all(new[at] == old[at] for at in key)
            kinds = (
                (RowKind.UPDATE_BEFORE, RowKind.UPDATE_AFTER)
                if same
                else (RowKind.DELETE, RowKind.INSERT)
            )
            message = head % b"U" + b"O" + written(old) + b"N" + written(given)
            return message, [(kinds[0], old), (kinds[1], new)]
        case "delete":
            return head % b"D" + b"K" + written(by_key), [(RowKind.DELETE, by_key)]
        case _:
            return head % b"D" + b"O" + written(old), [(RowKind.DELETE, old)]


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_those_of_a_loop_over_their_values(seed: int) -> None:
    lot = random.Random(seed)
    columns = lot.randint(1, 6)
    key = sorted(lot.sample(range(columns), lot.randint(1, min(2, columns))))
    drawn = [change(lot, columns, key) for _ in range(lot.choice([1, 2, 7, 40, 300]))]
    expected = [
        (number, kind.value, values)
        for number, (_, rows) in enumerate(drawn)
        for kind, values in rows
    ]

    rows = rows_of([message for message, _ in drawn], columns, key)

    values = [rows.values(n).to_list() for n in range(columns)]
    for n, cells in enumerate(rows.cells):
        lacking = [row[n] is LEFT_OUT for _, _, row in expected]
        assert (n in rows.left_out) == any(lacking)
        assert cells.left_out is None or cells.left_out.tolist() == lacking
    found = list(
        zip(
            rows.messages.tolist(),
            rows.kinds.tolist(),
            map(list, zip(*values, strict=True)),
            strict=True,
        )
    )
    assert found == [
        (number, kind, [None if value is LEFT_OUT else value for value in row])
        for number, kind, row in expected
    ]


def test_rows_that_are_kept() -> None:
    lot = random.Random(5)
    messages = [change(lot, 3, [0])[0] for _ in range(200)]
    rows = rows_of(messages, 3, [0])
    kept = rows.messages % 3 == 0

    some = rows.filter(kept)

    for n in range(3):
        expected = rows.values(n).filter(kept.tolist()).to_list()
        assert some.values(n).to_list() == expected
    assert some.messages.tolist() == rows.messages[kept].tolist()
