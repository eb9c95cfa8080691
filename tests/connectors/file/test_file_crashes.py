"""Dying anywhere in the protocol: afterwards each committed row is there once, and no other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from file_kit import names, read, start

from dataflare.connectors.file.parts import PartsFolder
from dataflare.errors import CheckpointError, RunError
from dataflare.model.types import Schema
from dataflare.sdk.destination import Committable
from dataflare.testing import RecordedDisk

pytestmark = pytest.mark.rotates(3)

FRAME = pl.DataFrame({"id": range(3_000), "tags": [[str(n)] for n in range(3_000)]})
SCHEMA = Schema.from_polars(FRAME.schema)
PARTS = (FRAME[:1_000], FRAME[1_000:2_000], FRAME[2_000:])

CONFIGS = {
    "parquet": {"path": "o.parquet", "row_group_rows": 300},
    "ndjson": {"path": "o.ndjson"},
    "gzip": {"path": "o.ndjson.gz"},
    "json": {"path": "o.json"},
    "json_zstd": {"path": "o.json.zst"},
    "arrow": {"path": "o.arrow", "row_group_rows": 300},
    "append": {"path": "o.ndjson", "mode": "append"},
    "parts": {"path": "parts", "rows_per_part": 300},
    "replace": {"path": "parts", "mode": "overwrite", "rows_per_part": 300},
}
BEFORE = pl.DataFrame({"id": [-1], "tags": [["old"]]})


@pytest.fixture(params=list(CONFIGS))
def config(request, tmp_path):
    """A destination, with what lay there before."""
    found = CONFIGS[request.param]
    if found["path"] == "parts":
        (tmp_path / "parts").mkdir()
        BEFORE.write_parquet(tmp_path / "parts" / "old.parquet")
    elif found["path"] == "o.ndjson":
        BEFORE.write_ndjson(tmp_path / "o.ndjson")
    return found


def expected(config, rows: pl.DataFrame) -> pl.DataFrame:
    keeps = config.get("mode") == "append" or (config["path"] == "parts" and "mode" not in config)
    return pl.concat([BEFORE, rows]) if keeps else rows


def check(config, base: Path, rows: pl.DataFrame = FRAME) -> None:
    """All rows are published once, and nothing is left over."""
    got = read(config["path"], base, contract=None).frame.sort("id")
    assert got.equals(expected(config, rows))
    assert not [n for n in names(base) if "inprogress" in n or "/." in f"/{n}"]


async def finish(
    config, base, done: int, made: list[Committable], attempt: int = 2, *, final: bool = False
) -> None:
    """A new attempt, from the state after epoch `done` (0: none)."""
    run = await start(config, base, SCHEMA, epoch=done, restored=made, attempt=attempt)
    if done:
        await run.commit(done, made, final=done == len(PARTS) or final)
    for number in range(done + 1, len(PARTS) + 1):
        await run.epoch(number, PARTS[number - 1], final=number == len(PARTS))
    if done < len(PARTS):
        await run.aclose()


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("steps", ["", "w", "wp", "wpm", "wpmc", "wpmcc"])
def test_an_attempt_dies_between_any_two_steps(tmp_path, config, epoch, steps):
    """w: rows written, p: prepared, m: the manifest is there, c: committed, cc: twice."""

    async def work() -> None:
        run = await start(config, tmp_path, SCHEMA)
        made: list[Committable] = []
        for number in range(1, epoch):
            made = await run.epoch(number, PARTS[number - 1])
        final = epoch == len(PARTS)
        done = epoch - 1
        if "w" in steps:
            await run.write(PARTS[epoch - 1])
        if "p" in steps:
            prepared = await run.prepare(epoch, final=final)
        if "m" in steps:
            done, made = epoch, prepared
        for _ in range(steps.count("c")):
            await run.commit(epoch, prepared, final=final)
        # Nothing is closed: the attempt is dead.
        await finish(config, tmp_path, done, made)

    asyncio.run(work())
    check(config, tmp_path)


def test_dying_again_and_again(tmp_path, config):
    async def work() -> None:
        made: list[Committable] = []
        for attempt in range(1, 4):
            run = await start(
                config, tmp_path, SCHEMA, epoch=attempt - 1, restored=made, attempt=2 * attempt
            )
            if made:
                await run.commit(attempt - 1, made)
            await run.write(PARTS[attempt - 1].with_columns(pl.col("id") + 9))
            await run.prepare(attempt)
            again = await start(
                config, tmp_path, SCHEMA, epoch=attempt - 1, restored=made, attempt=2 * attempt + 1
            )
            await again.write(PARTS[attempt - 1])
            made = await again.prepare(attempt, final=attempt == 3)
        await finish(config, tmp_path, 3, made, attempt=9)

    asyncio.run(work())
    check(config, tmp_path)


def test_going_back_to_an_earlier_epoch(tmp_path):
    """A savepoint: later epochs' parts were published already."""
    config = CONFIGS["parts"]

    async def work() -> None:
        run = await start(config, tmp_path, SCHEMA)
        first = await run.epoch(1, PARTS[0])
        await run.epoch(2, PARTS[1].with_columns(pl.col("id") + 9))
        await finish(config, tmp_path, 1, first)

    asyncio.run(work())
    got = read("parts", tmp_path).frame.sort("id")
    assert got.equals(FRAME)


def test_starting_over_forgets_what_was_staged(tmp_path, config):
    async def work() -> None:
        run = await start(config, tmp_path, SCHEMA)
        await run.epoch(1, PARTS[1].with_columns(pl.col("id") + 9))
        await run.write(PARTS[0])
        await finish(config, tmp_path, 0, [], attempt=1)

    asyncio.run(work())
    check(config, tmp_path)


def test_another_number_of_writers_goes_on(tmp_path):
    config = CONFIGS["parts"]

    async def work() -> None:
        run = await start(config, tmp_path, SCHEMA, subtasks=2)
        await run.write(PARTS[0], 0)
        await run.write(PARTS[1], 1)
        made = await run.prepare(1)
        again = await start(config, tmp_path, SCHEMA, epoch=1, restored=made, subtasks=1)
        await again.commit(1, made)
        await again.epoch(2, PARTS[2], final=True)

    asyncio.run(work())
    assert read("parts", tmp_path).frame.sort("id").equals(FRAME)


def test_staged_rows_that_are_gone_are_an_error(tmp_path, config):
    async def work() -> None:
        run = await start(config, tmp_path, SCHEMA)
        await run.epoch(1, PARTS[0])
        await run.write(PARTS[1])
        made = await run.prepare(2, final=True)
        for path in tmp_path.rglob("*.inprogress"):
            path.unlink()
        with pytest.raises(CheckpointError) as caught:
            await finish(config, tmp_path, 2, made, final=True)
        assert caught.value.code == "E0704"

    asyncio.run(work())


def test_a_staged_file_that_is_another_one_is_an_error(tmp_path):
    async def work() -> None:
        run = await start("o.ndjson", tmp_path, SCHEMA)
        made = await run.epoch(1, PARTS[0])
        [staged] = tmp_path.glob(".*.inprogress")
        staged.write_bytes(b"x" * made[0].data["length"])
        with pytest.raises(CheckpointError) as caught:
            await start("o.ndjson", tmp_path, SCHEMA, epoch=1, restored=made)
        assert caught.value.code == "E0704"

    asyncio.run(work())


WORKER = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from file_kit import start
from test_file_crashes import CONFIGS, PARTS, SCHEMA

async def main(base, name):
    state = base / "manifest.json"
    run = await start(CONFIGS[name], base, SCHEMA)
    for number, rows in enumerate(PARTS, 1):
        await run.write(rows)
        made = await run.prepare(number, final=number == 3)
        half = state.with_suffix(".tmp")
        half.write_text(json.dumps([number, [c.to_json() for c in made]]))
        half.rename(state)
        await run.commit(number, made, final=number == 3)
    print("done")

asyncio.run(main(Path(sys.argv[2]), sys.argv[3]))
"""
POINTS = [
    "file.write.mid_row_group",
    "file.prepare.before_fsync",
    "file.prepare.after_fsync",
    "file.commit.before_publish",
    "file.commit.between_parts",
    "file.commit.after_publish",
]


@pytest.mark.parametrize("name", ["parquet", "ndjson", "json", "arrow", "parts", "replace"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_for_real(tmp_path, name, point):
    single = name in ("parquet", "ndjson", "json", "arrow")
    if point == "file.commit.between_parts" and single:
        pytest.skip("one file has no parts")
    at_the_end = point.startswith("file.commit") and name != "parts"
    times = 1 if at_the_end else 2
    here = str(Path(__file__).parent)
    base = tmp_path / "work"
    base.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", WORKER, here, str(base), name],
        env={**os.environ, "DATAFLARE_CRASH_AT": f"{point}:{times}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    state = base / "manifest.json"
    done, made = json.loads(state.read_text()) if state.exists() else (0, [])
    state.unlink(missing_ok=True)
    config = CONFIGS[name]
    asyncio.run(finish(config, base, done, [Committable.from_json(c) for c in made]))
    got = read(config["path"], base).frame.sort("id")
    assert got.equals(FRAME)
    assert not [n for n in names(base) if "inprogress" in n]


def test_an_older_attempt_publishes_nothing_once_a_newer_one_has_begun(config, tmp_path):
    async def go():
        first = await start(config, tmp_path, SCHEMA, attempt=1)
        await first.write(FRAME)
        made = await first.prepare(1, final=True)
        second = await start(config, tmp_path, SCHEMA, attempt=2)
        with pytest.raises(RunError) as caught:
            await first.commit(1, made, final=True)
        assert caught.value.code == "E0804"
        await second.epoch(1, FRAME, final=True)
        await first.aclose()
        await second.aclose()

    asyncio.run(go())
    check(config, tmp_path)


def test_the_next_run_replaces_the_rows_of_the_last_epoch_too(tmp_path):
    """Its parts have the number that the next run begins behind."""
    config = {"path": "parts", "mode": "overwrite"}

    async def go():
        for first, rows in ((0, PARTS[:2]), (2, PARTS[2:])):
            run = await start(config, tmp_path, SCHEMA, epoch=first, attempt=first + 1)
            for number, part in enumerate(rows, first + 1):
                await run.epoch(number, part, final=number == first + len(rows))
            await run.aclose()

    asyncio.run(go())
    check(config, tmp_path, PARTS[2])


def test_what_an_overwrite_replaces_is_known_after_a_power_cut(tmp_path):
    """A run without rows syncs nothing else before its end."""
    root = tmp_path / "root"
    root.mkdir()

    def parts(base):
        return PartsFolder(base / "parts", "0123abcd", ".parquet", overwrite=True)

    with RecordedDisk(root) as disk:
        parts(root).note_base(7)
    for state in list(disk.states(distinct=False))[-3:]:
        state.restore(tmp_path / "after")
        assert parts(tmp_path / "after").base() == 7, str(state)


def test_parts_that_are_prepared_outlive_a_power_cut(tmp_path):
    """Those that were full before the epoch's end too."""
    config = {"path": "parts", "rows_per_part": 300}
    root = tmp_path / "root"
    base = root / "base"
    base.mkdir(parents=True)

    async def prepared():
        run = await start(config, base, SCHEMA)
        await run.write(FRAME)
        made = await run.prepare(1, final=True)
        await run.aclose()
        return made

    async def committed(made):
        run = await start(config, base, SCHEMA, epoch=1, restored=made, attempt=2)
        await run.commit(1, made, final=True)
        await run.aclose()

    with RecordedDisk(root) as disk:
        made = asyncio.run(prepared())
    for state in list(disk.states(distinct=False))[-3:]:
        state.restore(root)
        asyncio.run(committed(made))
        assert read("parts", base).frame.sort("id").equals(FRAME), str(state)
