"""A run that is stopped says which split held event time back; an endless source has splits that are all read."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel

from dataflare import Workflow
from dataflare.model.batch import SharedDataBatch
from dataflare.model.progress import Position, Split
from dataflare.model.types import Schema
from dataflare.sdk.registry import register
from dataflare.sdk.source import Replay, SourceCapabilities, SourceConnector, SplitReader
from dataflare.testing import Lab

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Nothing(BaseModel):
    silent: int
    splits: int = 2
    second: int = 0


class Silent(SourceConnector):
    """Splits without an end; the last ones give one row and then wait, the `silent` first ones only wait."""

    type = "silent"
    Config = Nothing
    given = threading.Event()

    def capabilities(self) -> SourceCapabilities:
        return SourceCapabilities(replay=Replay.EXACT, bounded=False, local=True)

    async def schema(self) -> Schema:
        return Schema.of({"at": "timestamp[us, UTC]"})

    async def splits(self, carried: Mapping[str, Any] | None = None) -> Sequence[Split]:
        return [
            Split(str(n), {"silent": n < self.config.silent, "second": self.config.second})
            for n in range(self.config.splits)
        ]

    async def open(self, split: Split, position: Position | None) -> SplitReader:
        return Waiting(split.data["silent"], split.data["second"])


class Waiting(SplitReader):
    def __init__(self, silent: bool, second: int) -> None:
        self._gave, self._at = silent, START + datetime.timedelta(seconds=second)

    async def read_batch(self, rows_max: int) -> SharedDataBatch:
        import asyncio

        if self._gave:
            await asyncio.get_running_loop().create_future()
        self._gave = True
        return SharedDataBatch(pl.DataFrame({"at": [self._at]}))

    def position(self) -> Position:
        return Position({})


register(Silent)


def stopped(lab: Lab, *, event_time: Mapping[str, Any], parallelism: int = 2, **config: Any) -> Any:
    wf = Workflow("standing", settings={"parallelism": parallelism})
    source = wf.source("s", "silent", config=config, event_time={"column": "at", **event_time})
    source.to("out", "memory")
    return lab.run(wf, for_s=0.3)


def test_a_split_without_rows_is_named(tmp_path: Any) -> None:
    result = stopped(Lab(tmp_path), event_time={}, silent=1)
    assert result.status == "stopped"
    assert [w for w in result.warnings if "the split '0' gave no row" in w]
    assert "idle_timeout" in str(result.warnings)


def test_a_split_that_no_reader_opened_is_told(tmp_path: Any) -> None:
    result = stopped(Lab(tmp_path), event_time={}, silent=0, splits=3, parallelism=1)
    assert "more parallelism" in str(result.warnings)


def test_with_an_idle_timeout_time_goes_on_without_the_silent_split(tmp_path: Any) -> None:
    result = stopped(Lab(tmp_path), event_time={"idle_timeout": "50ms"}, silent=1)
    assert "did not move" not in str(result.warnings)
    assert result.steps["out"]["watermark"].startswith("2026-01-01T00:00:00")


@pytest.mark.parametrize("timeouts", [("20ms", "120ms"), ("120ms", "20ms")])
def test_when_all_sources_are_silent_time_is_as_far_as_the_furthest(
    tmp_path: Any, timeouts: tuple[str, str]
) -> None:
    wf = Workflow("silent", settings={"parallelism": 1})
    sources = [
        wf.source(
            name,
            "silent",
            config={"silent": 0, "splits": 1, "second": second},
            event_time={"column": "at", "idle_timeout": timeout},
        )
        for name, second, timeout in zip("sf", (1, 40), timeouts, strict=True)
    ]
    sources[0].union("both", sources[1]).to("out", "memory")
    result = Lab(tmp_path).run(wf, for_s=0.5)
    assert result.steps["out"]["watermark"].startswith("2026-01-01T00:00:40")


def test_a_watched_file_that_comes_later_is_late_by_more_than_out_of_orderness(
    tmp_path: Any,
) -> None:
    """A file that was read to its end does not hold time back, also where the watch goes on."""
    folder, lab = tmp_path / "in", Lab(tmp_path)
    folder.mkdir()

    def write(name: str, *seconds: int) -> None:
        lines = [f'{{"at": "2026-01-01T00:00:{second:02}Z"}}\n' for second in seconds]
        (folder / name).write_text("".join(lines))

    def run() -> None:
        wf = Workflow("later", settings={"parallelism": 1})
        for name, behind in (("strict", "0s"), ("patient", "30s")):
            source = wf.source(
                name,
                "file",
                config={"path": f"{folder}/*.ndjson", "watch": True, "watch_interval": 0.05},
                schema={"at": "timestamp[us, UTC]"},
                event_time={"column": "at", "out_of_orderness": behind},
            )
            config = {"kind": "tumbling", "size": "10s", "measures": {"n": "count(*)"}}
            window = source.process(f"{name}_windows", "window", config=config)
            for out, step in (("windows", window), ("late", window["late"])):
                path = f"{tmp_path}/{name}_{out}"
                step.to(f"{name}_{out}_out", "file", config={"path": path, "format": "ndjson"})
        assert lab.run(wf, for_s=1.2).status == "stopped"

    def written(name: str) -> list[dict[str, Any]]:
        files = sorted((tmp_path / name).glob("*.ndjson"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    write("ahead.ndjson", *range(30))
    run()
    assert [row["n"] for row in written("strict_windows")] == [10, 10]
    write("behind.ndjson", 1, 15, 25)
    run()
    assert [row["at"] for row in written("strict_late")] == [
        "2026-01-01T00:00:01Z",
        "2026-01-01T00:00:15Z",
    ]
    assert written("patient_late") == written("patient_windows") == []


@pytest.mark.parametrize("parallelism", [1, 2])
def test_windows_over_endless_generated_rows_close(tmp_path: Any, parallelism: int) -> None:
    wf = Workflow("endless", settings={"parallelism": parallelism})
    columns = {"at": {"time": {"start": "2026-01-01T00:00:00Z", "step": "1s"}}}
    clicks = wf.source(
        "clicks", "generate", columns=columns, event_time={"column": "at", "max_future": None}
    )
    clicks.process("w", "window", kind="tumbling", size="1m", measures={"n": "count(*)"}).limit(
        "few", 3
    ).to("out", "memory")
    result = wf.run()
    assert result.status == "finished"
    assert result.frame("out")["n"].to_list() == [60, 60, 60]
