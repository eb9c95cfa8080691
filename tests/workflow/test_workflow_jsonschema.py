"""The JSON Schema accepts what loads, and refuses what does not."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from dataflare.expr import ExprText
from dataflare.model.units import Duration
from dataflare.workflow.jsonschema import json_schema


class Inner(BaseModel):
    column: str
    lag: Duration = 0.0


class FileConfig(BaseModel):
    """Read files."""

    path: str | list[str] = Field(description="a file, a folder or a glob")
    has_header: bool = True
    rows: int = Field(default=1, ge=1)
    format: Literal["auto", "csv"] = "auto"
    incremental: Inner | None = None


class MapConfig(BaseModel):
    derive: dict[str, ExprText] = {}


class OutConfig(BaseModel):
    anything: Any = None


SCHEMA = json_schema({"file": FileConfig}, {"map": MapConfig}, {"out": OutConfig})
GOOD = """\
name: w
version: "1.0"
params: {n: {type: int64, default: 1}, s: }
settings: {parallelism: "${N}", checkpoint: {interval: 10s}, resources: {memory: 1GiB, threads: 2},
           error_handling: {max_errors: 1%, dead_letter: {path: x}}}
sources:
  a:
    type: file
    config: {path: [x.csv], has_header: "${H}", rows: 5, incremental: {column: c, lag: 5s}}
    schema: {a: int64}
    event_time: {column: a, idle_timeout: null}
transformations:
  t: {type: map, inputs: a, config: {derive: {x: a + 1, y: 1, z: true}, retry_policy: {max_attempts: 2}}}
destinations:
  z: {type: out, inputs: [t], config: {anything: {x: [1]}}, error_handling: {retry_count: 1}}
  y: {type: not_known_here, inputs: [t], config: {x: 1}}
tests:
  - {name: t, given: {a: [{x: 1}]}, expect: {z: []}}
environments:
  prod: {settings: {parallelism: 4}, destinations: {z: {config: {anything: 2}}}}
  none:
x-anything: [1]
"""


def fits(value, schema, root=SCHEMA):
    """A validator for the few keywords that are used. Unknown keywords would break the test."""
    for keyword, argument in schema.items():
        if not KEYWORDS[keyword](value, argument, schema, root):
            return False
    return True


def _type(value, names):
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "null": type(None),
        "integer": int,
        "number": (int, float),
    }
    names = [names] if isinstance(names, str) else names
    return any(
        isinstance(value, kinds[name])
        and not (isinstance(value, bool) and name in ("integer", "number"))
        for name in names
    )


def _ref(value, pointer, root):
    node = root
    for part in pointer.removeprefix("#/").split("/"):
        node = node[part]
    return fits(value, node, root)


def _others(value, argument, schema, root):
    if not isinstance(value, dict) or argument is True:
        return True
    known = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    rest = [k for k in value if k not in known and not any(re.search(p, k) for p in patterns)]
    return not rest if argument is False else all(fits(value[k], argument, root) for k in rest)


def _if(value, argument, schema, root):
    return not fits(value, argument, root) or fits(value, schema["then"], root)


def _always(*_):
    return True


KEYWORDS = {
    **dict.fromkeys(["$schema", "$defs", "title", "description", "default", "examples"], _always),
    **dict.fromkeys(["patternProperties", "then"], _always),
    "$ref": lambda v, a, s, r: _ref(v, a, r),
    "type": lambda v, a, s, r: _type(v, a),
    "enum": lambda v, a, s, r: v in a,
    "const": lambda v, a, s, r: v == a,
    "anyOf": lambda v, a, s, r: any(fits(v, each, r) for each in a),
    "allOf": lambda v, a, s, r: all(fits(v, each, r) for each in a),
    "if": _if,
    "properties": lambda v, a, s, r: (
        not isinstance(v, dict) or all(fits(v[k], a[k], r) for k in a.keys() & v.keys())
    ),
    "additionalProperties": _others,
    "propertyNames": lambda v, a, s, r: not isinstance(v, dict) or all(fits(k, a, r) for k in v),
    "required": lambda v, a, s, r: not isinstance(v, dict) or set(a) <= v.keys(),
    "items": lambda v, a, s, r: not isinstance(v, list) or all(fits(i, a, r) for i in v),
    "minItems": lambda v, a, s, r: not isinstance(v, list) or len(v) >= a,
    "pattern": lambda v, a, s, r: not isinstance(v, str) or re.search(a, v) is not None,
    "minimum": lambda v, a, s, r: not _type(v, "number") or v >= a,
    "maximum": lambda v, a, s, r: not _type(v, "number") or v <= a,
    "exclusiveMinimum": lambda v, a, s, r: not _type(v, "number") or v > a,
}


def test_a_good_file_fits():
    assert fits(yaml.safe_load(GOOD), SCHEMA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: w", "name: Wrong Name"),
        ('version: "1.0"', 'version: "2.0"'),
        ("x-anything", "anything"),
        ("parallelism:", "paralelism:"),
        ('"${N}"', "many"),
        ("interval: 10s", "interval: 10"),
        ("memory: 1GiB", "memory: 1 Gigabyte"),
        ("max_errors: 1%", "max_errors: some"),
        ("type: file", "tpye: file"),
        ("path: [x.csv]", "pth: [x.csv]"),
        ("rows: 5", "rows: 0"),
        ('has_header: "${H}"', "has_header: maybe"),
        ("lag: 5s", "lagg: 5s"),
        ("inputs: a,", ""),
        ("inputs: [t], config: {any", "inputs: [], config: {any"),
        ("{max_attempts: 2}", "{max_attempt: 2}"),
        ("given:", "givn:"),
        ("  t: {type", "  1t: {type"),
        ("config: {path", "confg: {path"),
    ],
)
def test_a_slip_does_not_fit(old, new):
    assert old in GOOD
    assert not fits(yaml.safe_load(GOOD.replace(old, new, 1)), SCHEMA)


def test_editors_are_told_what_fields_mean():
    path = SCHEMA["$defs"]["source.file"]["properties"]["path"]
    assert path["description"] == "a file, a folder or a glob"
    assert SCHEMA["$defs"]["source.file"]["description"] == "Read files."
    assert SCHEMA["$defs"]["Settings"]["properties"]["mode"]["default"] == "auto"


def test_it_is_json_and_every_reference_leads_somewhere():
    text = json.dumps(SCHEMA)
    for name in re.findall(r'"\$ref": "#/\$defs/([^"]+)"', text):
        assert name in SCHEMA["$defs"]
