"""The rows of an epoch are in its committable while they are few, and in a file from there on: the same rows in both."""

from __future__ import annotations

import json
import random
from pathlib import Path

import polars as pl
import pytest
from msgspec.structs import replace

from dataflare.errors import CheckpointError
from dataflare.sdk.destination import Committable
from dataflare.sdk.sql.redo import RedoFile, RedoWriter, frames


def rows(first: int, count: int, width: int) -> pl.DataFrame:
    """Values that cannot be compressed."""
    texts = [random.Random(n).randbytes(width).hex() for n in range(first, first + count)]
    return pl.DataFrame({"n": range(first, first + count), "v": texts})


@pytest.mark.parametrize(
    ("count", "width", "is_file"), [(3, 10, False), (3, 20_000, True), (400, 100, True)]
)
def test_rows_are_read_as_they_were_written(
    tmp_path: Path, count: int, width: int, is_file: bool
) -> None:
    writer, wanted = RedoWriter(tmp_path, 1, 0, rows_max=100), []
    for epoch in (1, 2):
        for at in range(0, count, max(1, count // 4)):
            part = rows(at, max(1, count // 4), width)
            writer.append(part, part.estimated_size())
            wanted.append(part)
            assert pl.concat(list(writer.frames())).equals(pl.concat(wanted))
        writer.refuse([1])
        made = writer.seal(epoch).committable(0, rows_total=7)
        assert bool(made.content) is not is_file
        assert (made.data["file"] is not None) is is_file
        read = Committable.from_json(json.loads(json.dumps(made.to_json())))
        assert read == made
        found = pl.concat(list(frames(tmp_path, RedoFile.of(read))))
        whole = pl.concat(wanted)
        assert found.equals(whole.filter(pl.int_range(pl.len()) != 1))
        assert (made.data["rows"], made.data["refused"]) == (whole.height - 1, 1)
        wanted.clear()
    writer.append(rows(0, count, width), count * width)
    list(writer.frames())
    writer.close()
    assert len(list(tmp_path.iterdir())) == (2 if is_file else 0)


def test_rows_that_are_missing_are_told(tmp_path: Path) -> None:
    """As from a checkpoint that a destination has kept, which is without rows."""
    writer = RedoWriter(tmp_path, 1, 0)
    writer.append(rows(0, 2, 10), 20)
    sealed = writer.seal(1)
    with pytest.raises(CheckpointError, match="is missing, and the rows of its epoch") as caught:
        list(frames(tmp_path, replace(sealed, content=b"")))
    assert caught.value.code == "E0703"
    assert list(frames(tmp_path, writer.seal(2))) == []
