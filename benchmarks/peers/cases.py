"""The cases that DataFlare and its peers share: each the same work, on the same rows, with the same result.

A case names its peers; those that are given run in turns with us. No time counts before the result of
every candidate's last turn agrees with ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import data, workflows
from benchmarks.cases import DATAFLARE, OURS, ROOT, Result, rows_table, take_paced_turns
from benchmarks.measure import Candidate, Measured, Spread, take_turns, warm
from benchmarks.peers.database import TYPES, Database

HERE = Path(__file__).parent
BAR = "none; below 1, DataFlare was faster"


@dataclass(frozen=True)
class Bench:
    """pythons: of the peers that are given, by name. rows: of the files; a tenth of them for pathway, and
    into PostgreSQL; a fifth out of it. database: where one of the cases needs it."""

    pythons: Mapping[str, str]
    rows: int
    repeat: int
    seconds: int
    scratch: Path
    database: Database | None = None

    def job(self, peer: str, *arguments: object, before: list[str] | None = None) -> Candidate:
        """The peer's own file, by its Python. HOME is where tools keep what they note."""
        home = self.scratch / "home"
        home.mkdir(exist_ok=True)
        command = [self.pythons[peer], str(HERE / f"{peer}_job.py"), *map(str, arguments)]
        return Candidate(peer, command, {"PYTHONPATH": str(ROOT), "HOME": str(home)}, before)

    def ours(self, workflow: dict[str, Any], folder: Path, before: list[str] | None = None) -> Candidate:  # fmt: skip
        file = workflows.write(workflow, folder / "dataflare.yaml")
        command = [DATAFLARE, "run", str(file), "--quiet", "--fresh"]
        return Candidate(OURS, command, before=before)

    def server(self) -> Database:
        assert self.database is not None
        return self.database


@dataclass(frozen=True)
class Case:
    """peers: who can do it. measure: runs those of them that it is given, in turns with us."""

    peers: tuple[str, ...]
    measure: Callable[[str, Bench, list[str]], Result]
    needs_database: bool = False


# --- files to files -------------------------------------------------------------------------------


def file_case(kind: str, out_kind: str, share: float = 1.0) -> Callable[..., Result]:
    """Orders of `kind` to `out_kind`: a filter and three derived columns."""

    def measure(name: str, bench: Bench, peers: list[str]) -> Result:
        rows = int(bench.rows * share)
        source = data.orders(rows, kind)
        warm([source])
        scratch = bench.scratch / name
        ours = scratch / OURS / f"out.{out_kind}"
        jobs = {
            "dlt": (("files", kind, source, "out"), "out/made/orders"),
            "bytewax": (("files", source, "out"), "out"),
            "pathway": (("files", source, f"out.{out_kind}"), f"out.{out_kind}"),
            "spark": (("files", kind, source, "out"), "out"),
        }
        candidates = [
            bench.ours(workflows.files(name, source, ours), scratch),
            *(bench.job(peer, *jobs[peer][0]) for peer in peers),
        ]
        result = Result(name, BAR)
        turns = take_turns(candidates, bench.repeat, scratch)
        for peer in peers:
            found = data.differences(ours, scratch / peer / jobs[peer][1])
            result.wrong += [f"{OURS} and {peer} differ in {line}" for line in found]
        return finished(result, turns, rows)

    return measure


def finished(result: Result, turns: list[Measured], rows: int) -> Result:
    """The table, unless results differ: then no time counts."""
    if result.wrong:
        return result
    rows_table(result, turns, rows)
    result.lines.append(f"{rows:,} rows; results agree: rows and a checksum per column")
    ours, *theirs = turns
    result.by = ", ".join(
        f"{ratio.median:.2f} x {each.name} ({ratio.min:.2f}..{ratio.max:.2f})"
        for each in theirs
        for ratio in (ours.against[each.name],)
    )
    return result


# --- into and out of PostgreSQL -------------------------------------------------------------------


def load_case(kind: str) -> Callable[..., Result]:
    """A file into a table that is not there yet, by key; each makes the table as it does for its users."""

    def measure(name: str, bench: Bench, peers: list[str]) -> Result:
        database, rows = bench.server(), bench.rows // 10
        database.given(rows)
        source = database.csv(rows) if kind == "csv" else database.parquet(rows)
        warm([source])
        scratch = bench.scratch / name
        schemas = {each: f"{each}_{kind}" for each in (OURS, *peers)}
        read: dict[str, Any] = {"type": "file", "config": {"path": str(source)}}
        if kind == "csv":
            read["schema"] = TYPES
        table = {"table": f"{schemas[OURS]}.customers", "mode": "upsert", "key": "id"}
        workflow = two_steps(name, read, postgres(database, table))
        candidates = [bench.ours(workflow, scratch, database.without(schemas[OURS]))]
        for peer in peers:
            into = schemas[peer] if peer == "dlt" else f"{schemas[peer]}.customers"
            candidates.append(
                bench.job(
                    *(peer, "load", source, database.dsn, into),
                    before=database.without(schemas[peer]),
                )
            )
        result = Result(name, BAR)
        turns = take_turns(candidates, bench.repeat, scratch)
        for each, schema in schemas.items():
            found = database.differences("given", f"{schema}.customers")
            result.wrong += [f"what was given and {each} differ in {line}" for line in found]
        return finished(result, turns, rows)

    return measure


def unload_case(out_kind: str) -> Callable[..., Result]:
    """A table into a file."""

    def measure(name: str, bench: Bench, peers: list[str]) -> Result:
        database, rows = bench.server(), bench.rows // 5
        database.given(rows)
        scratch = bench.scratch / name
        ours = scratch / OURS / f"out.{out_kind}"
        written = {peer: scratch / peer / f"out.{out_kind}" for peer in peers}
        read = postgres(database, {"table": "given"})
        workflow = two_steps(name, read, {"type": "file", "config": {"path": str(ours)}})
        result = Result(name, BAR)
        turns = take_turns(
            [
                bench.ours(workflow, scratch),
                *(bench.job(peer, "unload", database.dsn, written[peer]) for peer in peers),
            ],
            bench.repeat,
            scratch,
        )
        for peer in peers:
            made = written[peer] / "made" / "given" if peer == "dlt" else written[peer]
            found = data.differences(ours, made)
            result.wrong += [f"{OURS} and {peer} differ in {line}" for line in found]
        return finished(result, turns, rows)

    return measure


def postgres(database: Database, config: dict[str, Any]) -> dict[str, Any]:
    return {"type": "postgres", "config": {"connection_string": database.dsn, **config}}


def two_steps(name: str, source: dict[str, Any], destination: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.0",
        "sources": {"given": source},
        "destinations": {"out": {"inputs": ["given"], **destination}},
    }


# --- latency --------------------------------------------------------------------------------------


def latency_case(rate: int) -> Callable[..., Result]:
    """Rows at a steady rate through a filter and a map, from due time to destination."""

    def measure(name: str, bench: Bench, peers: list[str]) -> Result:
        scratch = bench.scratch / name
        workflow = workflows.paced(rate, rate * bench.seconds)
        # Every second row, so that everybody keeps the same ones.
        workflow["transformations"]["active"]["config"]["condition"] = "id % 2 = 0"
        file = workflows.write(workflow, scratch / "paced.yaml")
        module = [sys.executable, "-m", "benchmarks.latency"]
        candidates = [
            Candidate(OURS, [*module, "run", str(file), "late.json"], {"PYTHONPATH": str(ROOT)}),
            *(bench.job(peer, "latency", rate, bench.seconds, "late.json") for peer in peers),
        ]
        result = Result(name, "none")
        found = take_paced_turns(result, candidates, bench.repeat, scratch)
        expected = rate * bench.seconds // 2
        for each, turns in found.items():
            for turn in turns:
                if turn["rows"] != expected:
                    result.wrong.append(f"{each}: {turn['rows']:.0f} rows of {expected}")
        if not result.wrong:
            result.by = "p50, p99, CPU: " + "; ".join(
                f"{median(turns, 'p50_ms'):.1f} ms, {median(turns, 'p99_ms'):.1f} ms, "
                f"{median(turns, 'cpu_s'):.1f} s {each}"
                for each, turns in found.items()
            )
        return result

    return measure


def median(turns: list[dict[str, float]], key: str) -> float:
    return Spread.of([turn[key] for turn in turns]).median


CASES: dict[str, Case] = {
    "csv_to_parquet": Case(("dlt", "spark"), file_case("csv", "parquet")),
    "parquet_to_parquet": Case(("dlt", "bytewax", "spark"), file_case("parquet", "parquet")),
    "csv_to_ndjson": Case(("pathway",), file_case("csv", "ndjson", share=0.1)),
    "csv_to_postgres": Case(("sling", "ingestr"), load_case("csv"), needs_database=True),
    "parquet_to_postgres": Case(("dlt",), load_case("parquet"), needs_database=True),
    "postgres_to_csv": Case(("sling", "ingestr"), unload_case("csv"), needs_database=True),
    "postgres_to_parquet": Case(("dlt",), unload_case("parquet"), needs_database=True),
    "latency_10k": Case(("bytewax", "pathway"), latency_case(10_000)),
    "latency_50k": Case(("bytewax", "pathway"), latency_case(50_000)),
}
