"""What is staged is compared with the checkpoint before it is published: a staged file that another
program changed is never taken for the run's rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from file_kit import LINEAGE, names, start

from dataflare.connectors.file.staged import AppendedFile, StagedContent, content_of, looks
from dataflare.errors import CheckpointError
from dataflare.formats.checksum import BLOCK_BYTES
from dataflare.model.types import Schema

FRAME = pl.DataFrame({"id": range(20_000), "name": [f"row {n}" for n in range(20_000)]})
SCHEMA = Schema.from_polars(FRAME.schema)
PLACES = {
    "lines": {"path": "o.csv"},
    "batches": {"path": "o.arrow"},
    "row groups": {"path": "o.parquet"},
    "parts": {"path": "parts", "mode": "append"},
    "replaced parts": {"path": "parts", "mode": "overwrite"},
}


def flip(path: Path) -> None:
    """Change one bit near the beginning; the length stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def staged_files(folder: Path) -> list[Path]:
    return [folder / name for name in names(folder) if name.endswith(".inprogress")]


@pytest.mark.parametrize("damage", [flip, shorten])
@pytest.mark.parametrize("place", PLACES)
def test_a_staged_file_changed_before_its_commit_is_not_published(
    tmp_path: Path, place: str, damage: Callable[[Path], None]
) -> None:
    async def work() -> None:
        run = await start(PLACES[place], tmp_path, SCHEMA)
        await run.write(FRAME)
        made = await run.prepare(1, final=True)
        staged = [path for path in staged_files(tmp_path) if ".groups." not in path.name]
        damage(staged[0])
        with pytest.raises(CheckpointError, match="not what the last checkpoint left") as raised:
            await run.commit(1, made, final=True)
        assert raised.value.code == "E0704"
        await run.aclose()

    asyncio.run(work())
    assert [n for n in names(tmp_path) if not n.rpartition("/")[0].endswith(LINEAGE[:8])] == [
        name for name in names(tmp_path) if name.startswith(".")
    ]


@pytest.mark.parametrize("damage", [flip, shorten])
@pytest.mark.parametrize("file", [0, 1], ids=["the sidecar", "the file"])
def test_a_growing_parquet_file_and_its_sidecar_are_checked_on_resuming(
    tmp_path: Path, file: int, damage: Callable[[Path], None]
) -> None:
    async def work() -> None:
        run = await start("o.parquet", tmp_path, SCHEMA)
        made = await run.epoch(1, FRAME)
        await run.aclose()
        damage(staged_files(tmp_path)[file])
        with pytest.raises(CheckpointError) as raised:
            await start("o.parquet", tmp_path, SCHEMA, epoch=1, restored=made, attempt=2)
        assert raised.value.code == "E0704"

    asyncio.run(work())


def test_a_part_is_checked_by_the_process_that_resumes(tmp_path: Path) -> None:
    """A file copied back over a damaged one may have its old size and times."""

    async def work() -> None:
        run = await start({"path": "parts", "mode": "append"}, tmp_path, SCHEMA)
        await run.write(FRAME)
        made = await run.prepare(1)
        await run.aclose()
        (staged,) = staged_files(tmp_path)
        flip(staged)
        made[0].data["parts"][0][4] = looks(staged)
        again = await start(
            {"path": "parts", "mode": "append"}, tmp_path, SCHEMA, epoch=1, restored=made, attempt=2
        )
        with pytest.raises(CheckpointError, match="not what the last checkpoint left"):
            await again.commit(1, made)

    asyncio.run(work())


def test_a_file_goes_on_with_the_checksum_of_what_it_has(tmp_path: Path) -> None:
    data = bytes(range(256)) * (BLOCK_BYTES // 200)
    whole = AppendedFile(tmp_path / "whole", 0)
    whole.append(data)
    for cut in (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 7):
        first = AppendedFile(tmp_path / "parts", 0)
        first.append(data[:cut])
        digest = first.digest
        first.append(b"lost with the crash")
        first.close()
        for known in (digest, None):
            second = AppendedFile(tmp_path / "parts", cut, known)
            second.append(data[cut:])
            second.close()
            assert second.digest == whole.digest
            assert StagedContent(len(data), whole.digest).is_in(tmp_path / "parts")
    whole.close()


def test_nothing_may_follow_the_content_of_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = AppendedFile(path, 0)
    file.append(b"rows")
    content = StagedContent(4, file.digest)
    file.append(b" of another program")
    file.close()
    content.check(path, thorough=True, whole=False)
    with pytest.raises(CheckpointError) as caught:
        content.check(path, thorough=True)
    assert caught.value.code == "E0704"
    assert not content.is_in(path)


def test_checkpoints_of_earlier_versions_are_compared_as_far_as_they_tell(tmp_path: Path) -> None:
    """They hold a checksum of the last 64 KiB, or only a length."""
    path = tmp_path / "file"
    path.write_bytes(bytes(200_000))
    old = content_of({"length": 200_000, "rows": 1, "check": "8d6ae2a9b6c4f5c1"})
    with pytest.raises(CheckpointError):
        old.check(path, thorough=True)
    StagedContent(200_000).check(path, thorough=True)
    with pytest.raises(CheckpointError):
        StagedContent(200_001).check(path, thorough=True)


def test_long_partition_values_make_folders_up_to_the_limit_of_the_file_system(
    tmp_path: Path,
) -> None:
    values = {name: letter * 200 for name, letter in zip("abc", "xyz", strict=True)}
    frame = FRAME.head(10).with_columns(**{k: pl.lit(v) for k, v in values.items()})

    async def work() -> None:
        config = {"path": "parts", "mode": "append", "partition_by": ["a", "b", "c"]}
        run = await start(config, tmp_path, Schema.from_polars(frame.schema))
        await run.epoch(1, frame)
        await run.epoch(2, frame, final=True)
        await run.aclose()

    asyncio.run(work())
    folder = tmp_path.joinpath("parts", *(f"{k}={v}" for k, v in values.items()))
    assert len(list(folder.iterdir())) == 2
    assert staged_files(tmp_path) == []
