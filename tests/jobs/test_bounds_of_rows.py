"""Rows that are too wide, and answers that are too large, end a run with the bound and how to raise it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from servers.web import Answer, http_server

from dataflare import Workflow
from dataflare.errors import DataFlareError
from dataflare.formats.messages.json import sampled
from dataflare.model.width import columns_bounded


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("DATAFLARE_HOME", str(tmp_path / "home"))


NAMES = [f"c{n}" for n in range(60)]
TEXTS = {
    "wide.csv": ",".join(NAMES) + "\n" + ",".join("1" for _ in NAMES) + "\n",
    "bare.csv": ",".join("1" for _ in NAMES) + "\n",
    "wide.ndjson": json.dumps(dict.fromkeys(NAMES, 1)) + "\n",
    "wide.json": json.dumps([dict.fromkeys(NAMES, 1)]),
    "nested.ndjson": json.dumps({"a": [{"b": dict.fromkeys(NAMES, 1)}]}) + "\n",
    "many.ndjson": "".join(json.dumps({name: 1}) + "\n" for name in NAMES),
}


def reading(folder: Path, name: str, columns: int, **options: object) -> Workflow:
    (folder / name).write_text(TEXTS[name])
    wf = Workflow("wide", base=folder, settings={"resources": {"columns": columns}})
    wf.source("rows", "file", path=name, **options).to("out", "memory")
    return wf


@pytest.mark.parametrize("name", TEXTS)
def test_too_many_columns_are_refused_before_a_row_is_read(tmp_path, name):
    options = {"has_header": False} if name == "bare.csv" else {}
    with pytest.raises(DataFlareError) as raised:
        reading(tmp_path, name, 40, **options).run()
    error = raised.value
    assert error.code == "E0561"
    assert "'resources.columns' allows 40" in error.message
    assert "raise 'resources.columns'" in str(error.help)
    assert error.step == "rows"
    assert reading(tmp_path, name, 100, **options).run(fresh=True).status == "finished"


def test_fields_that_come_later_count_too(tmp_path):
    text = '{"a": 1}\n' * 400_000 + TEXTS["wide.ndjson"] + '{"a": 1}\n'
    (tmp_path / "late.ndjson").write_text(text)
    wf = Workflow("late", base=tmp_path, settings={"resources": {"columns": 40}})
    wf.source("rows", "file", path="late.ndjson").to("out", "memory")
    with pytest.raises(DataFlareError) as raised:
        wf.run()
    assert raised.value.code == "E0561"


def test_a_sample_of_messages_has_the_same_bound():
    messages = pl.Series([TEXTS["wide.ndjson"].encode()], dtype=pl.Binary)
    with columns_bounded(40), pytest.raises(DataFlareError) as raised:
        sampled(messages)
    assert raised.value.code == "E0561"
    assert len(sampled(messages)) == 60


def test_an_answer_that_is_too_large_is_not_read_to_its_end(tmp_path):
    def answer(asked: object) -> Answer:
        return Answer([{"n": n, "text": "x" * 10_000} for n in range(600)])

    with http_server(answer) as server:
        for memory, code in (("8MiB", "E0562"), ("64MiB", None)):
            wf = Workflow("large", base=tmp_path, settings={"resources": {"memory": memory}})
            wf.source("api", "http", url=server.url).to("out", "memory")
            if code is None:
                assert wf.run(fresh=True).frame("out").height == 600
                continue
            with pytest.raises(DataFlareError) as raised:
                wf.run()
            assert raised.value.code == code
            assert "resources.memory" in raised.value.message
