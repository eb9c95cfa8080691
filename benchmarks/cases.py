"""What is measured: each case with its candidates, its bar, and what it must prove about its result.

A bar is a promise with a number; `verdict` says whether it was kept, and by how much. The reference of
a file case is the fastest of the three engines in that run, whichever it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import data, workflows
from benchmarks.measure import Candidate, Measured, Spread, clear, run, take_turns, warm

ENGINES = ("polars", "duckdb", "datafusion")
OURS = "dataflare"
BENCH = Path(__file__).parent
ROOT = BENCH.parent
DATAFLARE = str(Path(sys.executable).parent / "dataflare")


@dataclass(frozen=True)
class Options:
    """rows: of the large files. repeat: turns per candidate. scratch: everything written."""

    rows: int
    repeat: int
    scratch: Path
    seconds: int = 10


@dataclass
class Result:
    """of a case. lines: the table's rows below its title. met: None where there is no bar."""

    case: str
    bar: str
    met: bool | None = None
    by: str = ""
    lines: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "bar": self.bar,
            "met": self.met,
            "by": self.by,
            "wrong": self.wrong,
            **self.detail,
        }


# --- files to files -------------------------------------------------------------------------------

RATIO_MAX = 1 / 0.9
"""The bar of file cases: our wall time over that of the fastest engine's, median of the turns: 0.9 of
its speed."""


def file_case(kind: str, out_kind: str, *, lookup: bool = False) -> Callable[[Options], Result]:
    """Orders of `kind` to `out_kind`, through DataFlare and the three engines."""
    name = f"{kind}_to_{out_kind}" + ("_lookup" if lookup else "")

    def measured(options: Options) -> Result:
        result = Result(name, f"at most {RATIO_MAX:.2f} x the fastest engine's wall time")
        source = data.orders(options.rows, kind)
        customers = data.customers() if lookup else None
        warm([source, *([customers] if customers else [])])
        scratch = options.scratch / name
        turns = take_turns(
            file_candidates(name, source, out_kind, customers, scratch), options.repeat, scratch
        )
        rows_table(result, turns, options.rows)
        compare_results(result, scratch, out_kind)
        judge_ratio(result, turns)
        return result

    return measured


def file_candidates(
    name: str, source: Path, out_kind: str, customers: Path | None, scratch: Path
) -> list[Candidate]:
    """DataFlare first, then the engines. Each writes `out.KIND` in its own folder."""
    out = scratch / OURS / f"out.{out_kind}"
    file = workflows.write(workflows.files(name, source, out, customers), scratch / f"{OURS}.yaml")
    more = [str(customers)] if customers else []
    return [
        Candidate(OURS, [DATAFLARE, "run", str(file), "--quiet"]),
        *(
            Candidate(
                engine,
                [
                    *(sys.executable, "-m", "benchmarks.references", engine),
                    *(source.suffix[1:], out_kind, str(source), f"out.{out_kind}", *more),
                ],
                env={"PYTHONPATH": str(ROOT)},
            )
            for engine in ENGINES
        ),
    ]


def compare_results(result: Result, scratch: Path, out_kind: str) -> None:
    """Every engine's last result against ours: row count and a checksum per column."""
    ours = scratch / OURS / f"out.{out_kind}"
    for engine in ENGINES:
        theirs = scratch / engine / f"out.{out_kind}"
        found = data.differences(ours, theirs)
        result.wrong += [f"{OURS} and {engine} differ in {line}" for line in found]
    if not result.wrong:
        result.lines.append("results agree: rows and a checksum per column")


def rows_table(result: Result, turns: list[Measured], rows: int) -> None:
    """A line per candidate."""
    for each in turns:
        ratio = each.against.get(OURS)
        beside = (
            f"{1 / ratio.median:5.2f} ({1 / ratio.max:.2f}..{1 / ratio.min:.2f})" if ratio else ""
        )
        result.lines.append(
            f"{each.name:11} {rows / each.wall.median / 1e6:6.2f} Mrows/s  "
            f"wall {shown(each.wall)} s  cpu {each.cpu.median:6.2f} s  "
            f"peak {each.rss.median:5.0f} MB  {'ours/theirs ' + beside if beside else ''}".rstrip()
        )
    result.detail["candidates"] = [each.to_json() for each in turns]


def judge_ratio(result: Result, turns: list[Measured]) -> None:
    """Against the engine with the least median wall time."""
    ours, *theirs = turns
    fastest = min(theirs, key=lambda each: each.wall.median)
    ratio = ours.against[fastest.name]
    result.met = ratio.median <= RATIO_MAX
    result.by = f"{ratio.median:.2f} x {fastest.name} ({ratio.min:.2f}..{ratio.max:.2f})"


def shown(spread: Spread) -> str:
    return f"{spread.median:6.2f} ({spread.min:.2f}..{spread.max:.2f})"


# --- rows that fail ------------------------------------------------------------------------------

DEAD_LETTERS_MIN = 0.7
"""Speed with one row in a hundred that cannot be read, over the speed without."""


def dead_letters(options: Options) -> Result:
    result = Result("dead_letters", f"at least {DEAD_LETTERS_MIN} of the speed without bad rows")
    scratch = options.scratch / result.case
    sources = {
        "clean": data.orders(options.rows, "csv"),
        "1 % bad": data.dirty_orders(options.rows),
    }
    warm([*sources.values()])
    candidates = [
        Candidate(
            name,
            [DATAFLARE, "run", str(workflows.write(
                workflows.with_dead_letters(source, scratch / name / "out.parquet"),
                scratch / f"{source.stem}.yaml",
            )), "--quiet"],
        )
        for name, source in sources.items()
    ]  # fmt: skip
    turns = take_turns(candidates, options.repeat, scratch)
    rows_table(result, turns, options.rows)
    ratio = turns[0].wall.median / turns[1].wall.median
    result.met = ratio >= DEAD_LETTERS_MIN
    result.by = f"{ratio:.2f} of the speed without bad rows"
    return result


# --- rows made and thrown away --------------------------------------------------------------------

GENERATE_MIN = 5_000_000
"""Rows a second of `generate`, through a filter and a map, with checkpoints each second."""


def generate(options: Options) -> Result:
    result = Result("generate_to_blackhole", f"at least {GENERATE_MIN / 1e6:.0f} Mrows/s")
    scratch = options.scratch / "generate"
    rows = options.rows * 2
    file = workflows.write(workflows.generated(rows), scratch / "generated.yaml")
    turns = take_turns(
        [Candidate(OURS, [DATAFLARE, "run", str(file), "--quiet"])], options.repeat, scratch
    )
    rows_table(result, turns, rows)
    rate = rows / turns[0].wall.median
    result.met = rate >= GENERATE_MIN
    result.by = f"{rate / 1e6:.2f} Mrows/s, start-up included"
    return result


# --- latency --------------------------------------------------------------------------------------

P50_MAX_MS, P99_MAX_MS, CPU_MAX = 5.0, 20.0, 2.0
"""Milliseconds from a row's due time to the destination; CPU over that of the bare loop."""


def latency(rate: int) -> Callable[[Options], Result]:
    """From a row's due time to the destination, beside a bare loop."""

    def measured(options: Options) -> Result:
        result = Result(
            f"latency_{rate // 1000}k",
            f"p50 at most {P50_MAX_MS:.0f} ms, p99 {P99_MAX_MS:.0f} ms, CPU {CPU_MAX:g} x a bare loop's",
        )
        scratch = options.scratch / result.case
        file = workflows.write(
            workflows.paced(rate, rate * options.seconds), scratch / "paced.yaml"
        )
        module = [sys.executable, "-m", "benchmarks.latency"]
        env = {"PYTHONPATH": str(ROOT)}
        candidates = [
            Candidate(OURS, [*module, "run", str(file), "late.json"], env=env),
            Candidate("bare loop", [*module, "bare", str(rate), str(options.seconds), "late.json"], env=env),
        ]  # fmt: skip
        found = take_paced_turns(result, candidates, options.repeat, scratch)
        p50, p99, cpu, bare = (
            Spread.of([turn[key] for turn in found[name]]).median
            for name, key in (
                (OURS, "p50_ms"),
                (OURS, "p99_ms"),
                (OURS, "cpu_s"),
                ("bare loop", "cpu_s"),
            )
        )
        result.met = p50 <= P50_MAX_MS and p99 <= P99_MAX_MS and cpu <= CPU_MAX * bare
        result.by = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, CPU {cpu / bare:.1f} x"
        return result

    return measured


def take_paced_turns(
    result: Result, candidates: list[Candidate], repeat: int, scratch: Path
) -> dict[str, list[dict[str, float]]]:
    """Each candidate's turns: rows and percentiles, as it wrote them into `late.json`, and its cost."""
    found: dict[str, list[dict[str, float]]] = {c.name: [] for c in candidates}
    for _ in range(repeat):
        for candidate in candidates:
            folder = scratch / candidate.name
            clear(folder)
            cost = run(candidate, folder)
            late = json.loads((folder / "late.json").read_text())
            found[candidate.name].append({**late, "cpu_s": cost.cpu_s, "rss_mb": cost.rss_mb})
    for name, turns in found.items():
        p50, p99, cpu, peak = (
            Spread.of([turn[key] for turn in turns])
            for key in ("p50_ms", "p99_ms", "cpu_s", "rss_mb")
        )
        result.lines.append(
            f"{name:11} p50 {shown(p50)} ms  p99 {shown(p99)} ms  cpu {shown(cpu)} s  "
            f"peak {peak.median:5.0f} MB  {turns[0]['rows']:.0f} rows"
        )
    result.detail["candidates"] = found
    return found


# --- starting -------------------------------------------------------------------------------------

VERSION_MAX_S, VALIDATE_MAX_S = 0.15, 0.5
"""Wall time of the whole process; a bare Python's is shown beside."""


def start(options: Options) -> Result:
    result = Result(
        "start",
        f"--version within {VERSION_MAX_S * 1000:.0f} ms, validate of 30 steps within "
        f"{VALIDATE_MAX_S * 1000:.0f} ms",
    )
    scratch = options.scratch / "start"
    file = workflows.write(
        workflows.long_chain(data.orders(1000, "csv")), scratch / "long_chain.yaml"
    )
    turns = take_turns(
        [
            Candidate("version", [DATAFLARE, "--version"]),
            Candidate("validate", [DATAFLARE, "validate", str(file)]),
            Candidate("python", [sys.executable, "-c", "pass"]),
        ],
        max(5, options.repeat),
        scratch,
    )
    walls = {each.name: each.wall for each in turns}
    for each in turns:
        result.lines.append(
            f"{each.name:11} wall {each.wall.median * 1000:6.0f} ms "
            f"({each.wall.min * 1000:.0f}..{each.wall.max * 1000:.0f})  "
            f"peak {each.rss.median:4.0f} MB"
        )
    took = {name: walls[name].median for name in ("version", "validate")}
    result.met = took["version"] <= VERSION_MAX_S and took["validate"] <= VALIDATE_MAX_S
    result.by = ", ".join(f"{name} {s * 1000:.0f} ms" for name, s in took.items())
    result.detail["candidates"] = [each.to_json() for each in turns]
    return result


# --- memory ---------------------------------------------------------------------------------------

GROWTH_MAX, PEAK_MAX = 1.10, 1.2
"""Peak memory with four times the rows over that with one; the highest peak over Polars' there."""


def memory(options: Options) -> Result:
    result = Result(
        "memory",
        f"peak grows at most {GROWTH_MAX} x from 0.5 to 2 times the rows, {PEAK_MAX} x Polars' at most",
    )
    peaks: dict[str, list[float]] = {OURS: [], "polars": []}
    sizes = [options.rows // 2, options.rows, options.rows * 2]
    for rows in sizes:
        source = data.orders(rows, "csv")
        scratch = options.scratch / f"memory-{rows}"
        candidates = file_candidates("memory", source, "parquet", None, scratch)
        chosen = [each for each in candidates if each.name in peaks]
        for each in take_turns(chosen, max(1, options.repeat // 2), scratch):
            peaks[each.name].append(each.rss.max)
        clear(scratch)
    for name, values in peaks.items():
        each = "  ".join(f"{r / 1e6:g} M: {mb:.0f} MB" for r, mb in zip(sizes, values, strict=True))
        result.lines.append(f"{name:11} {each}")
    growth = peaks[OURS][-1] / peaks[OURS][0]
    beside = peaks[OURS][-1] / peaks["polars"][-1]
    result.met = growth <= GROWTH_MAX and beside <= PEAK_MAX
    result.by = f"grows {growth:.2f} x, {beside:.2f} x Polars"
    result.detail["peak_mb"] = {"rows": sizes, **peaks}
    return result


CASES: dict[str, Callable[[Options], Result]] = {
    "csv_to_parquet": file_case("csv", "parquet"),
    "parquet_to_parquet": file_case("parquet", "parquet"),
    "ndjson_to_parquet": file_case("ndjson", "parquet"),
    "csv_to_ndjson": file_case("csv", "ndjson"),
    "ndjson_to_ndjson": file_case("ndjson", "ndjson"),
    "csv_to_parquet_lookup": file_case("csv", "parquet", lookup=True),
    "parquet_to_parquet_lookup": file_case("parquet", "parquet", lookup=True),
    "dead_letters": dead_letters,
    "generate_to_blackhole": generate,
    "latency_10k": latency(10_000),
    "latency_50k": latency(50_000),
    "start": start,
    "memory": memory,
}
