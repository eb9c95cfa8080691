"""How figures are shown and kept: a table for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.cases import Result

PACKAGES = ("dataflare", "polars", "duckdb", "datafusion", "pyarrow", "orjson")


def facts(given: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpus": len(affinity(0)) if affinity else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
        "versions": versions,
        "rows": given.rows,
        "repeat": given.repeat,
    }


def table(result: Result) -> str:
    lines = [f"\n{result.case}: {verdict(result)}", f"  bar: {result.bar}"]
    lines += [f"  {line}" for line in result.lines]
    lines += [f"  WRONG: {line}" for line in result.wrong]
    return "\n".join(lines)


def verdict(result: Result) -> str:
    if result.wrong:
        return "WRONG"
    word = {True: "met", False: "MISSED", None: "no bar"}[result.met]
    return f"{word}, {result.by}"


def summary(results: Sequence[Result]) -> str:
    return "\n".join(f"{result.case:28} {verdict(result)}" for result in results)


def write(path: Path, machine: dict[str, Any], results: Sequence[Result]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"machine": machine, "results": [result.to_json() for result in results]}
    path.write_text(json.dumps(found, indent=1) + "\n")
