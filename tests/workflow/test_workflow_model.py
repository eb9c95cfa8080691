"""The workflow that comes out: its parts, its fingerprints, and what it shows of itself."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

from dataflare.errors import DataFlareError, WorkflowError
from dataflare.model.types import Schema
from dataflare.workflow import InputRef, Settings, load, load_text
from dataflare.workflow.settings import cpu_count

PAGE = """\
name: active_customers            # [a-z][a-z0-9_-]*, at most 63; names its state and checkpoints
version: "1.0"                    # version of this file format; other values are refused by name
description: Active customers, enriched, into search

params:                           # typed; --param since=..., the API, or the default
  since: {type: timestamp, default: "2023-01-01T00:00:00Z"}

settings:
  mode: auto                      # auto | batch | streaming; auto = batch if all sources are bounded
  parallelism: 2                  # subtasks for each keyed or splittable step; default: CPU count
  guarantee: exactly_once         # optional demand; refused at plan time when it cannot hold
  checkpoint: {interval: 10s, retain: 3, storage: null, incremental: true, timeout: 60s}
  restart: {attempts: 3, delay: 1s, max_delay: 60s, window: 10m}   # of the job, for errors worth retrying
  state: {backend: memory, path: null}            # memory | rocksdb | sqlite
  batch: {initial: 1000, min: 100, max: 100000, latency_target: 20ms, throughput_target: null,
          adaptation_rate: 0.2, evaluation_interval: 5s, stability_threshold: 10}
  backpressure: {mode: adaptive, initial_credits: 10000, min_credits: 100, max_credits: 1000000,
                 refill_rate: null, refill_interval: 50ms, memory_threshold: 0.7}
  resources: {memory: 1GiB, threads: 2}
  schema_change: evolve           # evolve | ignore | fail | dead_letter
  error_handling:
    retry_count: 3                  # or retry_policy
    backoff: exponential            # fixed | linear | exponential
    on_error: dead_letter           # fail (default) | skip | dead_letter
    dead_letter: {path: ./dead}     # default: under $DATAFLARE_HOME
    max_errors: 1000                # or 1% of the step's rows
    circuit_breaker: {failure_rate: 0.5, window: 60s, slow_call: 5s, recovery: 30s}

sources:
  crm:
    type: postgres
    config:
      connection_string: "${PG_CONNECTION}"
      table: customers
      incremental: {column: updated_at, initial_value: "${param:since}"}
      batch_size: 1000
    schema: {customer_id: int64, status: string, updated_at: "timestamp[us, UTC]"}  # a contract
    event_time: {column: updated_at, out_of_orderness: 5s, idle_timeout: 30s, max_drift: null, max_future: 1d}
    error_handling: {retry_count: 3, backoff: exponential}

transformations:
  active:
    type: filter
    inputs: [crm]
    config: {condition: "status == 'active'"}

destinations:
  search:
    type: elasticsearch
    inputs: [active]
    config: {connection: "${ES_CONNECTION}", index: customers, id_field: customer_id, batch_size: 500}

tests:                            # run by `dataflare test`
  - name: inactive customers are dropped
    given: {crm: [{customer_id: 1, status: active}, {customer_id: 2, status: gone}]}
    expect: {search: [{customer_id: 1, status: active}]}
"""
ENVIRON = {"PG_CONNECTION": "postgres://u:pg-word@db/x", "ES_CONNECTION": "http://es:9200"}

SMALL = """\
name: small
settings: {error_handling: {retry_count: 1, max_errors: 1%}}
sources:
  a:
    type: generate
    description: numbers
    config: {rate: 5/s, rows: 3, columns: {x: {int: [1, 2]}}, retry_policy: {max_attempts: 2}}
    schema: {x: int64}
    event_time: {column: x}
transformations:
  t: {type: map, inputs: [a], config: {derive: {y: "x + ${N:-1}", s: "${secret:S}"}}}
destinations:
  z: {type: sqlite, inputs: [t], config: {path: "${P:-z.db}"}, error_handling: {retry_count: 9}}
"""


class Vault:
    place = "a test"

    def __init__(self, value="topsecret"):
        self.value = value

    def get(self, name):
        return self.value


def small(old="", new="", *, environ=None, secret="topsecret"):
    assert old in SMALL
    text = SMALL.replace(old, new) if old else SMALL
    return load_text(text, environ=environ or {}, secrets=Vault(secret))


def test_the_format_page_loads_with_every_part(tmp_path):
    path = tmp_path / "customers.yaml"
    path.write_text(PAGE)
    workflow = load(path, environ=ENVIRON)
    assert (workflow.name, workflow.file, workflow.base) == ("active_customers", path, tmp_path)
    assert [(step.name, step.kind, step.type) for step in workflow.steps()] == [
        ("crm", "source", "postgres"),
        ("active", "transformation", "filter"),
        ("search", "destination", "elasticsearch"),
    ]
    crm = workflow.sources["crm"]
    assert crm.config["incremental"] == {
        "column": "updated_at",
        "initial_value": "2023-01-01T00:00:00Z",
    }
    assert crm.schema == Schema.of(
        {"customer_id": "int64", "status": "string", "updated_at": "timestamp[us, UTC]"}
    )
    assert (crm.event_time.column, crm.event_time.max_future) == ("updated_at", 86400.0)
    (test,) = workflow.tests
    assert test.given["crm"][1] == {"customer_id": 2, "status": "gone"}
    assert workflow.settings.error_handling.circuit_breaker.slow_call == 5.0


def test_the_defaults_of_settings_are_those_of_the_page(tmp_path):
    written = load_text(PAGE, environ=ENVIRON).settings.model_dump()
    default = Settings().model_dump()
    same = {"mode", "checkpoint", "restart", "state", "batch", "backpressure", "schema_change"}
    assert {key: default[key] for key in same} == {key: written[key] for key in same}
    assert default["resources"] == {
        "memory": 2**30,
        "threads": cpu_count(),
        "columns": 10_000,
        "disk": None,
    }
    assert (default["parallelism"], default["guarantee"]) == (min(128, cpu_count()), None)


def test_inputs_may_name_an_output_of_a_step():
    text = (
        "name: w\nsources: {a: {type: inline}}\ntransformations: {r: {type: route, inputs: a}}\n"
        "destinations: {z: {type: x, inputs: [r.eu, 'r.us']}}\n"
    )
    workflow = load_text(text, file="w.yaml", environ={})
    eu, us = workflow.destinations["z"].inputs
    assert ((eu.step, eu.output), (us.step, us.output)) == (("r", "eu"), ("r", "us"))
    assert [str(eu), str(us), eu.spot.column, us.spot.column] == ["r.eu", "r.us", 38, 45]
    (single,) = workflow.transformations["r"].inputs
    assert single == InputRef("a", None, single.spot)


def test_a_lookup_reads_a_source_of_the_file():
    text = (
        "name: w\nsources: {a: {type: inline}, table: {type: inline}}\n"
        "transformations: {l: {type: lookup, inputs: [a], config: {source: table}}}\n"
        "destinations: {z: {type: x, inputs: [l]}}\n"
    )
    assert list(load_text(text, environ={}).sources) == ["a", "table"]


def test_extension_keys_may_hold_what_anchors_are_made_of():
    text = (
        "name: w\nx-common: &c {type: inline, config: {rows: []}}\nsources: {a: *c, b: {<<: *c}}\n"
        "destinations: {z: {type: x, inputs: [a, b]}}\n"
    )
    workflow = load_text(text, environ={})
    assert workflow.sources["b"].config == {"rows": []}


@pytest.mark.parametrize("version", ["'1.0'", "1.0", '"1.0"'])
def test_the_version_may_lack_its_quotes(version):
    assert load_text(SMALL + f"version: {version}\n", environ={}, secrets=Vault()).version == "1.0"


def test_a_name_may_have_63_characters_and_no_more():
    assert small("small", "a" * 63).name == "a" * 63
    with pytest.raises(WorkflowError) as caught:
        small("small", "a" * 64)
    assert caught.value.code == "E0106"


def test_places_of_a_step_can_be_asked_for():
    step = small().transformations["t"]
    assert step.spot.column == 3
    assert step.spot_of("config", "derive", "y").column == 52
    assert step.key_spot_of("config", "derive", "y").column == 49
    assert step.spot_of("config", "nothing", "below") == step.spot_of("config")
    assert step.spot_of("nothing") == step.spot
    assert step.type_spot == step.spot_of("type")


def test_an_unknown_step_is_named_with_its_neighbour():
    with pytest.raises(WorkflowError) as caught:
        small().step("tt")
    assert (caught.value.code, caught.value.help) == ("E0108", "did you mean 't'?")


def test_a_steps_error_handling_stands_over_the_settings():
    workflow = small()
    a, t, z = (step.error_handling for step in workflow.steps())
    assert (a.retry_count, a.retry_policy.max_attempts, a.max_errors) == (None, 2, 0.01)
    assert (t.retry_count, t.retry_policy) == (1, None)
    assert (z.retry_count, z.max_errors) == (9, 0.01)
    assert "retry_policy" not in workflow.sources["a"].config


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("description: numbers", "description: other", set()),
        ("rate: 5/s", "rate: 9/s", set()),
        ("{max_attempts: 2}", "{max_attempts: 7}", set()),
        ("retry_count: 9", "retry_count: 8", set()),
        ("retry_count: 1, ", "", set()),
        ("name: small", "name: other", set()),
        ("rate: 5/s, rows: 3", "rows: 3, rate: 5/s", set()),
        ("settings: {", "settings: {parallelism: 7, checkpoint: {interval: 1s}, ", set()),
        ("rows: 3", "rows: 4", {"a"}),
        ("type: generate", "type: inline", {"a"}),
        ("{x: int64}", "{x: int32}", {"a"}),
        ("{column: x}", "{column: x, out_of_orderness: 1s}", {"a"}),
        ('"x + ${N:-1}"', '"x - ${N:-1}"', {"t"}),
        ("${N:-1}", "${N:-2}", {"t"}),
        ("${secret:S}", "${secret:R}", {"t"}),
        ("inputs: [t]", "inputs: [t, a]", {"z"}),
        ("{retry_count: 9}", "{on_error: skip}", {"z"}),
        (
            "settings: {error_handling: {",
            "settings: {error_handling: {on_error: skip, ",
            {"a", "t", "z"},
        ),
        ("z.db", "y.db", {"z"}),
    ],
)
def test_a_fingerprint_changes_with_what_a_resume_may_not_change(old, new, changed):
    before, after = small().fingerprints(), small(old, new).fingerprints()
    assert {name for name in before if before[name] != after[name]} == changed


def test_fingerprints_follow_the_environment_but_not_secrets_nor_passwords():
    def path(workflow):
        return workflow.fingerprint_of("z")

    assert path(small()) != path(small(environ={"P": "other.db"}))
    assert path(small(environ={"P": "pg://u:old@h"})) == path(small(environ={"P": "pg://u:new@h"}))
    assert small().fingerprint_of("t") == small(secret="rotated").fingerprint_of("t")


def test_fingerprints_are_the_same_in_every_process_and_version():
    assert small().fingerprints() == {
        "a": "9abe86f4574c3783614eb1059ffcef88",
        "t": "be16da238eddc3e56e580299ea38dd3d",
        "z": "830e517b224bbbfcd0a1b3547f083307",
    }


def test_a_workflow_survives_pickling():
    workflow = small()
    again = pickle.loads(pickle.dumps(workflow))
    assert again == workflow
    assert again.fingerprints() == workflow.fingerprints()
    assert again.step("t").spot_of("config", "derive", "y") == workflow.step("t").spot_of(
        "config", "derive", "y"
    )


def test_secrets_are_known_and_are_shown_nowhere():
    environ = {"P": "postgres://u:pg-word@h/db"}
    workflow = small(
        "rows: 3", "rows: 3, password: plain-word, token: '${T}'", environ=environ | {"T": "tok"}
    )
    assert workflow.secrets_seen == {"topsecret"}
    assert workflow.transformations["t"].config["derive"]["s"] == "topsecret"
    made = json.dumps(workflow.to_json())
    assert not [w for w in ("topsecret", "pg-word", "plain-word", '"tok"') if w in made]
    assert '"s": "${secret:S}"' in made
    assert '"path": "postgres://u:***@h/db"' in made
    assert '"token": "${T}"' in made
    for thing in (workflow, *workflow.steps()):
        assert not [
            w for w in ("topsecret", "pg-word", "plain-word") if w in repr(thing) + str(thing)
        ]


def test_a_parameter_made_of_a_secret_is_a_secret():
    text = (
        "name: w\nparams: {p: {default: '${secret:S}'}}\n"
        "sources: {a: {type: inline, config: {x: 'is ${param:p}'}}}\n"
        "destinations: {z: {type: x, inputs: [a]}}\n"
    )
    workflow = load_text(text, environ={}, secrets=Vault())
    assert workflow.sources["a"].config["x"] == "is topsecret"
    assert "topsecret" not in json.dumps(workflow.to_json()) + repr(workflow)
    assert workflow.to_json()["params"]["p"]["value"] == "***"


def test_a_dead_letter_destination_may_hold_a_secret():
    dead = "error_handling: {dead_letter: {type: kafka, config: {auth: '${secret:S}'}}}"
    workflow = small("settings: {error_handling: {", f"settings: {{{dead}}}\nx-old: {{x: {{")
    assert workflow.sources["a"].error_handling.dead_letter.config["auth"] == "topsecret"
    assert "topsecret" not in json.dumps(workflow.to_json()) + repr(workflow)


def test_json_of_a_workflow_is_plain_and_reads_back():
    made = small().to_json()
    assert json.loads(json.dumps(made)) == made
    assert made["transformations"]["t"] == {
        "type": "map",
        "inputs": ["a"],
        "config": {"derive": {"y": "x + 1", "s": "${secret:S}"}},
    }
    assert made["sources"]["a"]["schema"] == {"x": "int64"}


def test_reading_a_workflow_imports_nothing_heavy():
    code = (
        "import sys; from dataflare.workflow import load_text\n"
        f"load_text({SMALL.replace('${secret:S}', 's')!r}, environ={{}})\n"
        "print([m for m in ('polars', 'sqlglot', 'asyncio', 'duckdb', 'typer', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_errors_of_a_file_come_in_one_pass_and_in_its_order():
    text = (
        "nam: w\nsettings: {mode: bach}\nsources:\n  a: {tpye: inline}\n  b: {type: inline, schema: {x: int46}}\n"
        "destinations:\n  z: {type: x, inputs: [c]}\n  y: {type: x}\n"
    )
    with pytest.raises(DataFlareError) as caught:
        load_text(text, environ={})
    assert [(error.code, error.spot.line) for error in caught.value.errors] == [
        ("E0103", 1),
        ("E0104", 1),
        ("E0105", 2),
        ("E0104", 4),
        ("E0103", 4),
        ("E0112", 5),
        ("E0108", 7),
        ("E0104", 8),
    ]


def test_a_long_chain_of_steps_is_no_problem():
    steps = "".join(f"  t{i}: {{type: map, inputs: [t{i - 1}]}}\n" for i in range(1, 5000))
    text = (
        "name: w\nsources: {t0: {type: inline}}\ntransformations:\n"
        f"{steps}destinations: {{z: {{type: x, inputs: [t4999]}}}}\n"
    )
    assert len(list(load_text(text, environ={}).steps())) == 5001
