"""Which files a path means, and what many files or empty ones cost."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
from pathlib import Path

import pytest
from file_kit import read, source

from dataflare.errors import SystemError_


def write(base: Path, name: str, text: str) -> None:
    path = base / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("*.csv", [1]),
        ("_*.csv", [2]),
        (".*.csv", [3]),
        ("_d/*.csv", [4]),
        ("*/*.csv", [5]),
        ("**/*.csv", [1, 5]),
        ("_d/**/*.csv", [4]),
        (".", [1, 5]),
    ],
)
def test_a_pattern_reads_hidden_names_that_it_begins_like(tmp_path, path, values):
    for value, name in enumerate(["a.csv", "_b.csv", ".c.csv", "_d/a.csv", "d/a.csv"], 1):
        write(tmp_path, name, f"id\n{value}\n")
    assert read(path, tmp_path).frame["id"].to_list() == values


def test_a_pattern_that_passes_over_hidden_names_says_so(tmp_path):
    write(tmp_path, "_b.csv", "id\n1\n")
    with pytest.raises(SystemError_) as caught:
        read("?b.csv", tmp_path)
    assert caught.value.code == "E0601"
    assert "begin the pattern with that character" in caught.value.help


@pytest.mark.parametrize(
    ("kind", "text"),
    [("csv", "id\n1\n"), ("ndjson", '{"id": 1}\n'), ("json", '[{"id": 1}]')],
)
def test_an_empty_file_among_others_has_no_rows(tmp_path, kind, text):
    write(tmp_path, f"b.{kind}", text)
    (tmp_path / f"a.{kind}").write_bytes(b"")
    (tmp_path / f"c.{kind}").write_bytes(b"\xef\xbb\xbf\n")
    (tmp_path / f"d.{kind}.gz").write_bytes(gzip.compress(b""))
    assert read(f"*.{kind}*", tmp_path).frame["id"].to_list() == [1]


def test_listing_and_sampling_grow_with_the_number_of_files_alone(tmp_path):
    """Function calls are counted: times would differ from run to run."""

    def calls(count: int) -> int:
        for number in range(count):
            write(tmp_path, f"f{number}.csv", f"id,v\n{number},x\n")
        passed = [0]

        def tick(*_: object) -> None:
            passed[0] += 1

        described = source("*.csv", tmp_path)
        threading.setprofile(tick)
        sys.setprofile(tick)
        try:
            assert len(asyncio.run(described.splits())) == count
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        return passed[0]

    calls(10)
    few = calls(200)
    assert calls(400) < 2.6 * few + 10_000
