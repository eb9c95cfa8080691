"""Environments of a file, steps of another type, and `!replace`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflare.errors import DataFlareError, WorkflowError
from dataflare.workflow import load_text

BASE = """\
name: orders
params: {least: {type: int64, default: 1}}
settings: {parallelism: 2, checkpoint: {interval: 5s, retain: 4}}
sources:
  rows: {type: inline, config: {rows: [{a: 1}]}, schema: {a: int64}}
transformations:
  named:
    type: lookup
    inputs: [rows]
    config: {source: {type: sqlite, path: a.db, table: t}, mapping: {key: a, remote_key: a, fields: [n]}}
destinations:
  out: {type: sqlite, inputs: [named], config: {path: o.db, table: t, mode: overwrite}, description: kept}
environments:
  prod:
    settings: {parallelism: 4}
    destinations: {out: {type: duckdb, config: {path: o.duckdb, table: t}}}
  wide:
    settings: {checkpoint: !replace {interval: 9s}}
    transformations: {named: {config: {source: {type: redis, connection: "redis://r"}}}}
  nothing:
"""


def plain(value: object) -> object:
    return json.loads(json.dumps(value))


def test_without_a_name_no_environment_counts() -> None:
    made = load_text(BASE)
    assert made.settings.parallelism == 2
    assert made.destinations["out"].type == "sqlite"
    assert load_text(BASE, environment="nothing").fingerprints() == made.fingerprints()


def test_a_step_of_another_type_keeps_nothing_of_the_old_config() -> None:
    out = load_text(BASE, environment="prod").destinations["out"]
    assert out.type == "duckdb"
    assert plain(out.config) == {"path": "o.duckdb", "table": "t"}
    assert (out.description, str(out.inputs[0])) == ("kept", "named")


def test_the_same_type_is_merged(tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text("destinations: {out: {type: sqlite, config: {table: u}}}")
    out = load_text(BASE, overlays=[tmp_path / "o.yaml"]).destinations["out"]
    assert plain(out.config) == {"path": "o.db", "table": "u", "mode": "overwrite"}


def test_a_table_of_another_type_is_replaced_whole() -> None:
    named = load_text(BASE, environment="wide").transformations["named"]
    assert plain(named.config["source"]) == {"type": "redis", "connection": "redis://r"}
    assert plain(named.config["mapping"]) == {"key": "a", "remote_key": "a", "fields": ["n"]}


def test_replace_takes_the_place_of_any_map() -> None:
    made = load_text(BASE, environment="wide").settings.checkpoint
    assert (made.interval, made.retain) == (9.0, 3)


def test_a_null_of_the_old_type_is_left_out(tmp_path: Path) -> None:
    text = "destinations: {out: {type: postgres, config: {path: null, table: t}}}"
    (tmp_path / "o.yaml").write_text(text)
    out = load_text(BASE, overlays=[tmp_path / "o.yaml"]).destinations["out"]
    assert plain(out.config) == {"table": "t"}


def test_a_column_named_type_is_a_column(tmp_path: Path) -> None:
    base = "name: w\nsources: {s: {type: inline, config: {rows: [{a: 1}]}, schema: {type: string, a: int64}}}\ndestinations: {d: {type: blackhole, inputs: [s]}}"
    (tmp_path / "o.yaml").write_text("sources: {s: {schema: {type: int64}}}")
    made = load_text(base, overlays=[tmp_path / "o.yaml"])
    assert made.sources["s"].schema is not None
    assert made.sources["s"].schema.to_json() == {"type": "int64", "a": "int64"}


def test_an_overlay_goes_over_the_environment_and_may_bring_one(tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text(
        "settings: {checkpoint: {retain: 8}}\nenvironments: {prod: {settings: {parallelism: 7}}}"
    )
    made = load_text(BASE, overlays=[tmp_path / "o.yaml"], environment="prod")
    assert (made.settings.parallelism, made.settings.checkpoint.retain) == (7, 8)
    assert made.destinations["out"].type == "duckdb"


def test_a_variable_of_another_environment_may_be_missing() -> None:
    text = BASE.replace("path: o.duckdb", 'path: "${NOT_SET_HERE}"')
    assert load_text(text, environ={}).name == "orders"
    with pytest.raises(WorkflowError, match="NOT_SET_HERE"):
        load_text(text, environ={}, environment="prod")


@pytest.mark.parametrize(
    ("text", "environment", "code"),
    [
        (BASE, "prd", "E0127"),
        ("name: w\nsources: {}\n", "prod", "E0127"),
        (BASE.replace("  nothing:", "  nothing: 3"), None, "E0105"),
        (BASE.replace("  nothing:", "  nothing: {stettings: {}}"), None, "E0103"),
        (BASE.replace("  nothing:", "  nothing: {environments: {}}"), None, "E0103"),
    ],
)
def test_what_is_wrong_with_environments(text: str, environment: str | None, code: str) -> None:
    with pytest.raises(DataFlareError) as caught:
        load_text(text, environment=environment)
    assert code in {error.code for error in caught.value.each}
