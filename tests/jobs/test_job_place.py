"""Where the job of a workflow runs on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflare.jobs.job_place import has_own_code, job_place
from dataflare.workflow import load_text

FILE = """
name: placed
sources: {rows: %s}
transformations: {kept: {type: filter, inputs: [rows], config: {condition: "n > 0"}}}
destinations: {out: %s}
"""
INLINE = "{type: inline, config: {rows: [{n: 1}]}}"


@pytest.mark.parametrize(
    ("source", "destination", "place"),
    [
        (INLINE, "{type: stdout, inputs: [kept]}", "command"),
        ("{type: stdin, config: {format: json}, schema: {n: int64}}", "{type: sqlite, inputs: [kept], config: {path: a.db, table: t}}", "command"),
        (INLINE, "{type: sqlite, inputs: [kept], config: {path: a.db, table: t}}", "node"),
        (INLINE, "{type: file, inputs: [kept], config: {path: out.csv}}", "node"),
        (INLINE, "{type: file, inputs: [kept], config: {path: out, format: csv}}", "anywhere"),
        (INLINE, "{type: file, inputs: [kept], config: {path: s3://bucket/out.csv}}", "anywhere"),
        (INLINE, "{type: postgres, inputs: [kept], config: {url: 'postgres://h/d', table: t}}", "anywhere"),
        (INLINE, "{type: blackhole, inputs: [kept], error_handling: {on_error: dead_letter, dead_letter: {type: stdout}}}", "command"),
    ],
)  # fmt: skip
def test_the_place_of_a_job(tmp_path: Path, source: str, destination: str, place: str) -> None:
    assert job_place(load_text(FILE % (source, destination), base=tmp_path)) == place


def test_code_of_its_own(tmp_path: Path) -> None:
    text = FILE % (INLINE, "{type: blackhole, inputs: [kept]}")
    assert not has_own_code(load_text(text, base=tmp_path))
    python = "{type: python, inputs: [rows], config: {function: 'mine:keep', schema: {n: int64}}}"
    filter_ = '{type: filter, inputs: [rows], config: {condition: "n > 0"}}'
    assert has_own_code(load_text(text.replace(filter_, python), base=tmp_path))
