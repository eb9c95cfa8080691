"""A workflow written in Python is the workflow written in YAML: same model, same plan, there and back."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare import Workflow, load, plan
from dataflare.operators import registry
from dataflare.workflow.dsl import Stream
from dataflare.workflow.load import load_text

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

YAML = """\
name: orders
version: "1.0"
description: Every step type once
params:
  least: {type: int64, default: 1}
settings: {parallelism: 2, checkpoint: {interval: 5s}}
sources:
  orders:
    type: inline
    config:
      rows:
        - {id: 1, country: DE, net: 10.5, email: a@b.c, note: '{"w": 1}', tags: [x, y], at: {h: 1}}
        - {id: 2, country: US, net: 2.0, email: d@e.f, note: '{"w": 2}', tags: [z], at: {h: 2}}
  more:
    type: inline
    config: {rows: [{country: DE, name: Germany}]}
transformations:
  big: {type: filter, inputs: [orders], config: {condition: "id >= ${param:least}"}}
  gross: {type: map, inputs: [big], config: {derive: {gross: net * 1.19}, cast: {id: int32}}}
  flat: {type: flatten, inputs: [gross], config: {columns: [at], separator: .}}
  read: {type: parse, inputs: [flat], config: {column: note, format: json, schema: {w: int64}}}
  each: {type: explode, inputs: [read], config: {column: tags, index: place}}
  hidden: {type: mask, inputs: [each], config: {columns: {email: email}}}
  some: {type: sample, inputs: [hidden], config: {fraction: 0.9, key: [id], seed: 7}}
  checked:
    type: validate
    inputs: [some]
    config: {rules: [{name: paid, expect: net > 0, on_fail: tag}]}
    error_handling: {on_error: skip}
  named:
    type: lookup
    inputs: [checked]
    config: {source: more, mapping: {key: country, fields: {land: name}}, on_miss: drop}
  where: {type: route, inputs: [named], config: {routes: {eu: "country = 'DE'"}, default: rest}}
  once: {type: deduplicate, inputs: [where.eu], config: {key: id}}
  both: {type: union, inputs: [once, where.rest], config: {strict: true}}
  few: {type: limit, inputs: [both], config: {rows: 10}}
  total:
    type: aggregate
    inputs: [few]
    config: {group_by: [country], measures: {n: count(*)}}
destinations:
  out: {type: memory, inputs: [total], config: {}}
  rest: {type: blackhole, inputs: [big.rejected], config: {}, description: the small ones}
"""


def written_in_python() -> Workflow:
    wf = Workflow(
        "orders",
        description="Every step type once",
        parallelism=2,
        settings={"checkpoint": {"interval": "5s"}},
    )
    least = wf.param("least", "int64", default=1)
    row = {"id": 1, "country": "DE", "net": 10.5, "email": "a@b.c", "note": '{"w": 1}'}
    other = {"id": 2, "country": "US", "net": 2.0, "email": "d@e.f", "note": '{"w": 2}'}
    rows = [{**row, "tags": ["x", "y"], "at": {"h": 1}}, {**other, "tags": ("z",), "at": {"h": 2}}]
    orders = wf.source("orders", "inline", rows=rows)
    more = wf.source("more", "inline", rows=[{"country": "DE", "name": "Germany"}])
    big = orders.filter("big", f"id >= {least}")
    where = (
        big.map("gross", derive={"gross": "net * 1.19"}, cast={"id": "int32"})
        .flatten("flat", columns=["at"], separator=".")
        .parse("read", "note", format="json", schema={"w": "int64"})
        .explode("each", "tags", index="place")
        .mask("hidden", {"email": "email"})
        .sample("some", 0.9, key=["id"], seed=7)
        .validate(
            "checked", [{"name": "paid", "expect": "net > 0", "on_fail": "tag"}], on_error="skip"
        )
        .lookup("named", more, key="country", fields={"land": "name"}, on_miss="drop")
        .route("where", {"eu": "country = 'DE'"}, default="rest")
    )
    both = where["eu"].deduplicate("once", "id").union("both", where["rest"], strict=True)
    total = both.limit("few", 10).aggregate("total", {"n": "count(*)"}, group_by=["country"])
    total.to("out", "memory")
    big.output("rejected").to("rest", "blackhole", description="the small ones")
    return wf


def test_python_and_yaml_give_one_model_and_one_plan():
    ours, theirs = written_in_python(), load_text(YAML)
    assert ours.to_json() == theirs.to_json()
    assert ours.plan().view() == plan(theirs).view()
    assert ours.build().fingerprints() == theirs.fingerprints()


def test_what_python_writes_reads_back_as_the_same():
    ours = written_in_python()
    again = load_text(ours.to_yaml())
    assert again.to_json() == ours.to_json()
    assert plan(again).view() == ours.plan().view()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_a_file_there_and_back_is_the_same_workflow(example: Path, tmp_path: Path):
    folder = tmp_path / "examples"
    shutil.copytree(example.parent, folder)
    original = load(folder / example.name)
    taken = Workflow.from_yaml(folder / example.name)
    assert taken.to_json() == original.to_json()
    taken.to_yaml(folder / "again.yaml")
    again = load(folder / "again.yaml")
    assert again.to_json() == original.to_json()
    assert again.fingerprints() == original.fingerprints()
    assert plan(again).view() == plan(original).view()


TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff$")
)
ODD = st.sampled_from(
    [
        "no",
        "null",
        "~",
        "1",
        "01",
        "1e5",
        "0o17",
        "0x1f",
        "1_000",
        "1:30",
        "2024-01-01",
        ".inf",
        "#",
        "=",
        "<<",
        "&a",
        "*a",
        "!x",
        "%",
        "@",
        "'",
    ]
) | st.sampled_from(["- a", "a: b", " x ", "a\nb", "a\n", "\ta"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | ODD, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_any_value_comes_back_as_it_was(value: Any):
    wf = Workflow("any")
    wf.source("a", "inline", rows=value).to("b", "blackhole")
    config = load_text(wf.to_yaml()).sources["a"].config
    assert repr(plain(config["rows"])) == repr(plain(value))


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


@pytest.mark.parametrize("type_", registry.step_types())
def test_each_step_type_has_a_method_with_its_options(type_: str):
    fields = registry.step(type_).Config.model_fields
    options = {info.alias or name for name, info in fields.items()}
    if type_ == "lookup":
        options = options - {"mapping"} | {"key", "remote_key", "fields"}
    method = getattr(Stream, type_)
    taken = set(inspect.signature(method).parameters) - {"self", "name", "step", "others"}
    assert taken == options
    assert method.__doc__
