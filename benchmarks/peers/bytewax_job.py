"""For bytewax: `files SOURCE OUT` or `latency RATE SECONDS OUT`.

Files: an item is an Arrow batch and the work is done by `pyarrow.compute`, two workers, each with half of
the row groups and a file of its own. Latency: an item is a row, looked for each millisecond.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import (
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main

WORKERS = 2


# --- Parquet to Parquet ---------------------------------------------------------------------------


class RowGroups(StatefulSourcePartition):
    """Some row groups of a file. Its state is how many batches were given out."""

    def __init__(self, source: str, groups: list[int], done: int) -> None:
        import pyarrow.parquet as pq

        self._batches: Iterator = pq.ParquetFile(source).iter_batches(250_000, row_groups=groups)
        self._done = done
        for _ in range(done):
            next(self._batches)

    def next_batch(self) -> list:
        batch = next(self._batches)
        self._done += 1
        return [batch]

    def snapshot(self) -> int:
        return self._done


class ParquetSource(FixedPartitionedSource):
    def __init__(self, source: str) -> None:
        self._source = source

    def list_parts(self) -> list[str]:
        return [str(i) for i in range(WORKERS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> RowGroups:
        import pyarrow.parquet as pq

        count = pq.ParquetFile(self._source).num_row_groups
        groups = list(range(int(for_part), count, WORKERS))
        return RowGroups(self._source, groups, resume_state or 0)


class ParquetPart(StatelessSinkPartition):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = None

    def write_batch(self, items: list) -> None:
        import pyarrow.parquet as pq

        for rows in items:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, rows.schema, compression="zstd")
            self._writer.write_table(rows)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class ParquetSink(DynamicSink):
    def __init__(self, out: Path) -> None:
        self._out = out

    def build(self, step_id: str, worker_index: int, worker_count: int) -> ParquetPart:
        return ParquetPart(self._out / f"part-{worker_index}.parquet")


def derived(batch: object) -> object:
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.Table.from_batches([batch])
    rows = rows.filter(pc.equal(rows["status"], "completed"))
    for name, column in {
        "country": pc.utf8_upper(rows["country"]),
        "email": pc.replace_substring_regex(rows["email"], r"^(.).*@", r"\1***@"),
    }.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows.append_column("gross", pc.multiply(rows["amount"], 1.2))


def files(source: str, out: str) -> None:
    flow = Dataflow("files")
    batches = op.input("orders", flow, ParquetSource(source))
    Path(out).mkdir(parents=True)
    op.output("out", op.map("derived", batches, derived), ParquetSink(Path(out)))
    cli_main(flow, workers_per_process=WORKERS)


# --- latency --------------------------------------------------------------------------------------


class Due(StatelessSourcePartition):
    """The rows that are due by now. The first one is due when the flow starts."""

    def __init__(self, rate: int, total: int) -> None:
        self._rate, self._total = rate, total
        self._done = 0
        self._began = time.time_ns()

    def next_batch(self) -> list[dict]:
        if self._done == self._total:
            raise StopIteration
        passed = time.time_ns() - self._began
        first, self._done = self._done, min(self._total, passed * self._rate // 1_000_000_000)
        return [
            {
                "id": i,
                "user": i % 1000,
                "amount": i % 100 + 0.5,
                "status": "gone" if i % 2 else "active",
                "at": self._began + i * 1_000_000_000 // self._rate,
            }
            for i in range(first, self._done)
        ]

    def next_awake(self) -> datetime:
        return datetime.now(UTC) + timedelta(milliseconds=1)


class Paced(DynamicSource):
    def __init__(self, rate: int, total: int) -> None:
        self._rate, self._total = rate, total

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Due:
        return Due(self._rate, self._total)


class Probe(DynamicSink, StatelessSinkPartition):
    """Notes for each row how long ago it was due."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Probe:
        return self

    def write_batch(self, items: list[dict]) -> None:
        now = time.time_ns()
        self.late_ms += [(now - row["at"]) / 1e6 for row in items]


def mapped(row: dict) -> dict:
    row["gross"] = row["amount"] * 1.2
    return row


def latency(rate: str, seconds: str, out: str) -> None:
    from benchmarks.latency import write_result

    probe = Probe()
    flow = Dataflow("latency")
    rows = op.input("events", flow, Paced(int(rate), int(rate) * int(seconds)))
    active = op.filter("active", rows, lambda row: row["status"] == "active")
    op.output("probe", op.map("mapped", active, mapped), probe)
    cli_main(flow)
    write_result(Path(out), probe.late_ms)


if __name__ == "__main__":
    {"files": files, "latency": latency}[sys.argv[1]](*sys.argv[2:])
