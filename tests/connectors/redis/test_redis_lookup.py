"""Lookups in a real Redis: what is found, what is asked, and what is said when it fails."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from servers.redis import PASSWORD, RedisServer

from dataflare.connectors.redis.lookup import RedisLookup
from dataflare.errors import ConfigError, DataFlareError
from dataflare.jobs import Progress, RunOptions, RunResult, run
from dataflare.jobs.inspect import inspect
from dataflare.testing import check_lookup, description
from dataflare.workflow.load import load_text

FLOW = """\
name: enrich
settings: {{parallelism: 1, restart: {{attempts: 0}}}}
sources:
  orders: {{type: inline, config: {{rows: [{{id: 1, customer: 7}}, {{id: 2, customer: 8}}, {{id: 3}}, {{id: 4, customer: 7}}]}}}}
transformations:
  named:
    type: lookup
    inputs: [orders]
    config:
      source: {{type: redis, connection: "{url}", key_prefix: "customer:", {source}}}
      mapping: {{key: customer, fields: {fields}}}
      {config}
    error_handling: {{{errors}}}
destinations:
  out: {{type: file, inputs: [named], config: {{path: out.parquet}}}}
"""


def flow(url: str, **parts: str) -> str:
    known = {"source": "", "fields": "[name]", "config": "", "errors": ""} | parts
    return FLOW.format(url=url, **known)


def start(folder: Path, text: str, said: list[str] | None = None, **options: Any) -> RunResult:
    def listen(progress: Progress) -> None:
        if said is not None and progress.message is not None:
            said.append(progress.message)

    workflow = load_text(text, base=folder)
    return run(workflow, RunOptions(folder / "home", listener=listen, **options))


def out(folder: Path) -> list[dict[str, Any]]:
    return pl.read_parquet(folder / "out.parquet").to_dicts()


def test_fields_of_a_hash_are_added_and_missing_keys_are_null(
    server: RedisServer, tmp_path: Path
) -> None:
    with server.client() as client:
        client.hset("customer:7", mapping={"name": "Ada", "priority": "3"})
    text = flow(server.url, source="schema: {priority: int64}", fields="[name, priority]")
    result = start(tmp_path, text)
    assert result.status == "finished", result.error
    assert out(tmp_path) == [
        {"id": 1, "customer": 7, "name": "Ada", "priority": 3},
        {"id": 2, "customer": 8, "name": None, "priority": None},
        {"id": 3, "customer": None, "name": None, "priority": None},
        {"id": 4, "customer": 7, "name": "Ada", "priority": 3},
    ]


def test_fields_of_a_json_document(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.set("customer:7", '{"name": "Ada", "tags": ["a", "b"], "more": {"x": 1}}')
        client.set("customer:8", '{"name": null}')
    source = 'structure: json, schema: {tags: "list<string>"}'
    result = start(
        tmp_path, flow(server.url, source=source, fields="{called: name, tags: tags, more: more}")
    )
    assert result.status == "finished", result.error
    first, second, third, _ = out(tmp_path)
    assert first == {
        "id": 1,
        "customer": 7,
        "called": "Ada",
        "tags": ["a", "b"],
        "more": '{"x": 1}',
    }
    assert (second["called"], second["tags"]) == (None, None)
    assert third["called"] is None


@pytest.mark.parametrize(("on_miss", "ids"), [("drop", [1, 4]), ("'null'", [1, 2, 3, 4])])
def test_a_hash_without_the_field_is_there(
    server: RedisServer, tmp_path: Path, on_miss: str, ids: list[int]
) -> None:
    with server.client() as client:
        client.hset("customer:7", "other", "x")
    result = start(tmp_path, flow(server.url, config=f"on_miss: {on_miss}"))
    assert result.status == "finished", result.error
    assert [row["id"] for row in out(tmp_path)] == ids
    assert {row["name"] for row in out(tmp_path)} == {None}


def test_a_missing_key_may_fail_the_run(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.hset("customer:7", "name", "Ada")
    result = start(tmp_path, flow(server.url, config="on_miss: fail"))
    assert result.error is not None
    assert result.error.code == "E0542"
    assert "customer=8" in result.error.notes[0]


def test_a_missing_key_may_become_a_dead_letter(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.hset("customer:7", "name", "Ada")
    result = start(tmp_path, flow(server.url, config="on_miss: dead_letter"))
    assert result.status == "finished", result.error
    assert [row["id"] for row in out(tmp_path)] == [1, 4]
    assert result.steps["named"]["dead_letters"] == 2
    assert (result.steps["named"]["rows_in"], result.steps["named"]["rows_out"]) == (4, 2)


@pytest.mark.parametrize("structure", ["hash", "json"])
def test_the_contract_of_lookups_is_kept(
    server: RedisServer, tmp_path: Path, structure: str
) -> None:
    with server.client() as client:
        for key in range(0, 20, 2):
            values = {"name": f"n{key}", "priority": key}
            if structure == "json":
                client.set(f"k:{key}:x", json.dumps(values))
            else:
                client.hset(f"k:{key}:x", mapping=values)
    config = {
        "connection": server.url,
        "key_prefix": "k:",
        "structure": structure,
        "schema": {"priority": "int64", "name": "string"},
    }
    keys = pl.DataFrame({"id": range(20), "part": ["x"] * 20})
    asyncio.run(check_lookup(description(RedisLookup, config, base=tmp_path), keys))


def commands(server: RedisServer) -> int:
    """How many commands it has run to read hashes."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_hmget", {}).get("calls", 0))


MANY = """\
name: many
settings: {{parallelism: 1, batch: {{initial: 1000, min: 1000, max: 1000}}}}
sources:
  orders: {{type: generate, config: {{columns: {{id: {{sequence: 0}}, customer: {{int: [0, 49]}}}}, rows: 20000, seed: 1}}}}
transformations:
  named:
    type: lookup
    inputs: [orders]
    config:
      source: {{type: redis, connection: "{url}"}}
      mapping: {{key: customer, fields: [name]}}
      {cache}
destinations:
  out: {{type: file, inputs: [named], config: {{path: out.parquet}}}}
"""


def test_each_key_is_asked_once_while_it_is_remembered(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        for key in range(40):
            client.hset(str(key), "name", f"n{key}")
    result = start(tmp_path, MANY.format(url=server.url, cache="cache: {size: 100, ttl: 1h}"))
    assert result.status == "finished", result.error
    found = pl.read_parquet(tmp_path / "out.parquet")
    expected = pl.when(pl.col("customer") < 40).then(pl.format("n{}", "customer"))
    assert found["name"].equals(found.select(expected.alias("name"))["name"])
    assert found.height == 20_000
    # Several batches may be under way before the first answer has come.
    assert 50 <= commands(server) <= 50 * 6


def test_without_a_cache_each_batch_asks_for_its_keys(server: RedisServer, tmp_path: Path) -> None:
    result = start(tmp_path, MANY.format(url=server.url, cache=""))
    assert result.status == "finished", result.error
    assert commands(server) >= 50 * 10


def test_a_field_of_another_type_is_named_with_its_key(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.hset("customer:7", "priority", "high")
    text = flow(server.url, source="schema: {priority: int64}", fields="[priority]")
    result = start(tmp_path, text)
    assert result.error is not None
    assert result.error.code == "E0501"
    assert "for the key 7" in result.error.message
    assert "'high'" in result.error.message


def test_another_structure_is_said(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.set("customer:7", "plain")
    result = start(tmp_path, flow(server.url))
    assert result.error is not None
    assert result.error.code == "E0508"
    assert "structure" in (result.error.help or "")


def test_no_json_is_said(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.set("customer:7", "{plain")
    result = start(tmp_path, flow(server.url, source="structure: json"))
    assert result.error is not None
    assert result.error.code == "E0503"
    assert "customer:7" in result.error.message


@pytest.mark.parametrize("structure", ["hash", "json"])
def test_what_is_no_utf8_is_said(server: RedisServer, tmp_path: Path, structure: str) -> None:
    with server.client() as client:
        if structure == "hash":
            client.hset("customer:7", "name", b"Ad\xff")
        else:
            client.set("customer:7", b'{"name": "Ad\xff"}')
    result = start(tmp_path, flow(server.url, source=f"structure: {structure}"))
    assert result.error is not None
    assert result.error.code == "E0503"
    assert "customer:7" in result.error.message


def test_the_right_to_read_keys_is_enough(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.hset("customer:7", "name", "Ada")
        client.acl_setuser(
            "reader", enabled=True, passwords=["+rd-pw"], keys=["customer:*"],
            commands=["+hmget", "+exists"],
        )  # fmt: skip
    text = flow(server.url.replace(f":{PASSWORD}@", "reader:rd-pw@"))
    found = {each.step: each for each in inspect(load_text(text, base=tmp_path))}
    assert found["named"].error is None
    assert found["named"].facts["keys"] == found["named"].facts["version"] == "not told"
    result = start(tmp_path, text)
    assert result.status == "finished", result.error
    assert out(tmp_path)[0]["name"] == "Ada"
    refused = start(tmp_path, text.replace('"customer:"', '"order:"'))
    assert refused.error is not None
    assert refused.error.code == "E0602"


def raised(folder: Path, text: str) -> DataFlareError:
    with pytest.raises(DataFlareError) as error:
        start(folder, text)
    assert PASSWORD not in repr(error.value) + error.value.message + "".join(error.value.notes)
    return error.value


def test_a_wrong_password_is_no_secret_told(server: RedisServer, tmp_path: Path) -> None:
    wrong = raised(tmp_path, flow(server.url.replace(PASSWORD, "Wr0ng-one")))
    assert wrong.code == "E0606"
    assert "Wr0ng-one" not in wrong.message
    assert raised(tmp_path, flow(server.url.replace(f":{PASSWORD}@", ""))).code == "E0606"


def test_a_server_that_is_not_there(server: RedisServer, tmp_path: Path) -> None:
    server.kill()
    error = raised(tmp_path, flow(server.url))
    assert error.code == "E0607"
    assert f"127.0.0.1:{server.port}/0" in error.message
    assert error.step == "named"


def test_a_server_that_hangs(server: RedisServer, tmp_path: Path) -> None:
    with server.paused():
        assert raised(tmp_path, flow(server.url, source="timeout: 200ms")).code == "E0608"


def test_a_server_that_comes_back_is_asked_again(server: RedisServer, tmp_path: Path) -> None:
    server.kill()
    said: list[str] = []
    back = threading.Event()

    class Heard(list[str]):
        def append(self, message: str) -> None:
            said.append(message)
            if "trying again" in message and not back.is_set():
                back.set()
                server.start()
                with server.client() as client:
                    client.hset("customer:7", "name", "Ada")

    policy = "retry_policy: {max_attempts: 5, base_delay: 10ms}"
    result = start(tmp_path, flow(server.url, errors=policy), Heard())
    assert result.status == "finished", result.error
    assert out(tmp_path)[0]["name"] == "Ada"
    assert any("no connection to 127.0.0.1" in each for each in said)


def test_check_says_what_it_found(server: RedisServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.hset("customer:7", "name", "Ada")
    found = {each.step: each for each in inspect(load_text(flow(server.url), base=tmp_path))}
    assert found["named"].error is None
    assert (found["named"].kind, found["named"].type) == ("lookup", "redis")
    assert found["named"].facts["keys"] == "1"
    assert found["named"].facts["version"][0].isdigit()


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://", "redis://h/x"])
def test_what_is_no_address_of_redis(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="connection"):
        start(tmp_path, flow(url))


def test_fields_must_be_named_somewhere(server: RedisServer, tmp_path: Path) -> None:
    text = flow(server.url).replace("{key: customer, fields: [name]}", "{key: customer}")
    with pytest.raises(ConfigError, match="does not say which fields"):
        start(tmp_path, text)
