"""`dataflare validate` says what is wrong without a network, and what it could not check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import ORDERS, write

from dataflare.cli import app

REMOTE = """\
name: remote
sources:
  api: {type: http, config: {url: "http://127.0.0.1:9/x"}}
  known: {type: http, config: {url: "http://127.0.0.1:9/y"}, schema: {id: int64}}
transformations:
  dear: {type: filter, inputs: [api], config: {condition: "amount > 1"}}
  small: {type: filter, inputs: [known], config: {condition: "id < 9"}}
destinations:
  out: {type: file, inputs: [dear], config: {path: out.csv}}
  sent: {type: http, inputs: [small], config: {url: "http://127.0.0.1:9/z"}}
"""


@pytest.fixture
def validated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    def validated(text: str, *more: str) -> tuple[int, Any]:
        write(tmp_path, "w.yaml", text)
        monkeypatch.chdir(tmp_path)
        status = app.execute(["validate", "w.yaml", "--json", *more])
        return status, json.loads(capsys.readouterr().out)

    return validated


def test_what_could_not_be_checked_is_said_with_the_reason(validated: Any) -> None:
    status, told = validated(REMOTE)
    assert status == 0
    unchecked = {each["step"]: each for each in told["files"][0]["unchecked"]}
    assert list(unchecked) == ["api", "known", "dear", "small", "out", "sent"]
    assert "schema" in unchecked["api"]["what"]
    assert "--connect" in unchecked["api"]["why"]
    assert "'schema'" in unchecked["known"]["what"]


def test_connect_asks(validated: Any) -> None:
    status, told = validated(REMOTE, "--connect")
    assert status == 1
    assert {error["step"] for error in told["errors"]} >= {"api", "known"}


def test_nothing_is_left_unchecked_where_all_is_here(validated: Any) -> None:
    assert validated(ORDERS)[1]["files"][0]["unchecked"] == []


@pytest.mark.parametrize(
    ("source", "code", "status"),
    [
        ('type: file, config: {path: "gone.csv"}', "E0601", 1),
        ('type: file, config: {path: "gone/*.csv"}', "E0601", 1),
        ('type: sqlite, config: {path: "gone.db", table: t}', "E0601", 1),
        ('type: file, config: {path: "swift://bucket/a.csv"}', "E0419", 2),
        ('type: sqlite, config: {path: "https://x.test/a.db", table: t}', "E0419", 2),
        ('type: file, config: {path: "file:///tmp/a.csv"}', "E0419", 2),
    ],
)
def test_wrong_inputs_are_found(validated: Any, source: str, code: str, status: int) -> None:
    text = f"name: w\nsources: {{s: {{{source}}}}}\ndestinations: {{d: {{type: blackhole, inputs: [s]}}}}\n"
    done, told = validated(text)
    assert (done, told["error"]["code"], told["error"]["step"]) == (status, code, "s")
    assert told["error"]["spots"][0]["line"] == 2


@pytest.mark.parametrize(
    ("destination", "code", "status"),
    [
        ('type: file, config: {path: "swift://bucket/a.csv"}', "E0419", 2),
        ('type: sqlite, config: {path: "gs://bucket/a.db", table: t}', "E0419", 2),
        ('type: file, config: {path: "a\\0b.csv"}', "E0419", 2),
        ('type: duckdb, config: {path: "a\\0b.db", table: t}', "E0419", 2),
        ('type: file, config: {path: "w.yaml/a.csv"}', "E0604", 1),
        ('type: file, config: {path: "w.yaml/parts/"}', "E0604", 1),
    ],
)
def test_wrong_places_are_found(validated: Any, destination: str, code: str, status: int) -> None:
    text = ORDERS.replace(
        "    type: file\n    inputs: [dear]\n    config: {path: out/dear.csv}\n",
        f"    inputs: [dear]\n    {destination.replace(', config', chr(10) + '    config')}\n",
    )
    done, told = validated(text)
    assert (done, told["error"]["code"], told["error"]["step"]) == (status, code, "out")


def test_a_place_is_wrong_whatever_comes(validated: Any) -> None:
    text = REMOTE.replace("out.csv", "swift://bucket/out.csv")
    assert validated(text)[1]["error"]["code"] == "E0419"


def test_what_was_found_in_a_file_is_said(
    validated: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "a.csv", "x;y\n1;2\n")
    text = "name: w\nsources: {s: {type: file, config: {path: a.csv, delimiter: ';'}}}\ndestinations: {d: {type: blackhole, inputs: [s]}}\n"
    assert validated(text)[1]["files"][0]["found"]["s"]["delimiter"] == ";"
    assert app.execute(["preview", "w.yaml", "s"]) == 0
    assert "delimiter ;" in capsys.readouterr().out


PART = """\
name: part
sources:
  some: {{{source}, schema: {{amount: "decimal(38, 2)"}}}}
transformations:
  more: {{type: map, inputs: [some], config: {{derive: {{loud: "upper(note)"}}}}}}
destinations:
  out: {{type: file, inputs: [more], config: {{path: out.csv}}}}
"""


def test_a_schema_may_name_some_of_the_columns(validated: Any) -> None:
    source = 'type: http, config: {url: "http://127.0.0.1:9/x"}'
    status, told = validated(PART.format(source=source))
    assert (status, told["errors"]) == (0, [])
    steps = [each["step"] for each in told["files"][0]["unchecked"]]
    assert steps == ["some", "more", "out"]


def test_syntax_is_checked_behind_such_a_schema(validated: Any) -> None:
    text = PART.replace("upper(note)", "upr(note)")
    status, told = validated(
        text.format(source='type: http, config: {url: "http://127.0.0.1:9/x"}')
    )
    assert status == 2
    assert [error["step"] for error in told["errors"]] == ["more"]


def test_the_schema_of_a_table_on_another_machine_is_checked_against(validated: Any) -> None:
    source = "type: postgres, config: {connection_string: 'postgresql://127.0.0.1:9/x', table: t}"
    status, told = validated(PART.format(source=source))
    assert status == 2
    assert [(error["step"], error["code"]) for error in told["errors"]] == [("more", "E0203")]


@pytest.mark.parametrize(
    ("time", "status"), [("", 2), (", event_time: {column: at}", 0)], ids=["no time", "time"]
)
@pytest.mark.parametrize(
    "step",
    [
        "type: window, inputs: [named], config: {kind: tumbling, size: 1h, measures: {n: count(*)}}",
        "type: deduplicate, inputs: [named], config: {key: id, within: 1h}",
    ],
    ids=["window", "deduplicate"],
)
def test_a_step_by_event_time_is_refused_also_where_no_columns_are_known(
    validated: Any, time: str, status: int, step: str
) -> None:
    source = "{type: postgres, config: {connection_string: 'postgresql://127.0.0.1:9/x', table: t}"
    text = f"""
name: timed
sources:
  s: {source}{time}}}
transformations:
  named: {{type: map, inputs: [s], config: {{derive: {{a: "1"}}}}}}
  by_time: {{{step}}}
destinations:
  out: {{type: blackhole, inputs: [by_time]}}
"""
    found, told = validated(text)
    assert found == status, told
    codes = [(error["step"], error["code"]) for error in told.get("errors", [])]
    assert codes == ([("by_time", "E0331")] if status else [])
