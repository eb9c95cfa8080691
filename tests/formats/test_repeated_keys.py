"""A key that stands twice in one object: only one of its values can be read, so it is said."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare import load, run
from dataflare.connectors.file.source import FileSource
from dataflare.formats.json_values import repeated_key
from dataflare.jobs import RunOptions
from dataflare.sdk.context import ConnectorContext

VALUES = st.recursive(
    st.sampled_from([1, "x", 'a":1', "\\", None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from('ab:"'), inner),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([(",", ":"), (", ", " : ")]))
def test_values_without_repeated_keys_have_none(value: object, separators: tuple[str, str]) -> None:
    text = json.dumps(value, separators=separators)
    assert repeated_key(text.encode()) is None
    assert repeated_key(f'{{"k":1,"v":{text},"k":2}}'.encode()) == "k"
    assert repeated_key(f'[{{"k":1}},{{"v":{text}}},{{"k":2}}]'.encode()) is None


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":1,"a"', b"\xff"])
def test_what_is_not_json_has_none(text: bytes) -> None:
    assert repeated_key(text) is None


def test_a_source_warns_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text('{"o":{"a":1}}\n{"o":{"a":1,"a":2}}\n')
    source = FileSource(FileSource.Config(path="a.ndjson"), ConnectorContext("s", tmp_path))
    asyncio.run(source.schema())
    [doubt] = source.doubts()
    assert "the key 'a' twice" in doubt


def test_a_run_says_it(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_text('{"o":{"a":1,"a":2}}\n')
    (tmp_path / "w.yaml").write_text(
        "name: twice\nsources: {s: {type: file, config: {path: a.ndjson}}}\n"
        "destinations: {o: {type: file, inputs: [s], config: {path: o.ndjson}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "dataflare", "run", "w.yaml"],
        cwd=tmp_path,
        env={**os.environ, "DATAFLARE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the key 'a' twice in one object") == 1


@pytest.mark.parametrize("format_", ["ndjson", "json"])
@pytest.mark.parametrize("bad", [False, True])
def test_a_run_says_it_after_the_sample(tmp_path: Path, format_: str, bad: bool) -> None:
    rows = [f'{{"a": {n}, "b": {{"c": "x"}}}}' for n in range(60_000)]
    rows[50_000] = '{"a": 1, "b": {"c": "first", "c": "second"}}'
    rows[50_001] = '{"a": "bad", "b": null}' if bad else rows[50_002]
    text = "\n".join(rows) if format_ == "ndjson" else f"[{','.join(rows)}]"
    (tmp_path / f"in.{format_}").write_text(text)
    (tmp_path / "w.yaml").write_text(
        "name: twice\nsettings: {error_handling: {on_error: skip}}\n"
        f"sources: {{s: {{type: file, config: {{path: in.{format_}}}, schema: {{a: int64}}}}}}\n"
        "destinations: {o: {type: file, inputs: [s], config: {path: o.ndjson}}}\n"
    )
    result = run(load(tmp_path / "w.yaml"), RunOptions(tmp_path / "home"))
    assert result.error is None
    assert [each for each in result.warnings if "the key 'c' twice" in str(each)]
    line = (tmp_path / "o.ndjson").read_text().splitlines()[50_000]
    assert '"c":"first"' in line
