"""A secret that is planted in an option of a connector is nowhere in what a run writes or prints."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from dataflare.cli.app import execute
from dataflare.sdk import registry
from dataflare.security.literals import is_secret, literal_secrets

CANARY = "CANARYz9Q7w"
NOBODY = "http://127.0.0.1:1"
Config = dict[str, Any]

HTTP: dict[str, Config] = {
    "bearer": {"url": NOBODY, "auth": {"type": "bearer", "token": CANARY}},
    "basic": {"url": NOBODY, "auth": {"type": "basic", "username": "u", "password": CANARY}},
    "header": {"url": NOBODY, "auth": {"type": "header", "name": "X-Key", "value": CANARY}},
    "query": {"url": NOBODY, "auth": {"type": "query", "name": "k", "value": CANARY}},
    "headers": {"url": NOBODY, "headers": {"Authorization": f"Bearer {CANARY}", "Cookie": CANARY}},
    "query string": {"url": f"{NOBODY}/a?key={CANARY}&x=1"},
    "signature": {"url": f"{NOBODY}/a?X-Amz-Signature={CANARY}"},
}
POSTGRES: dict[str, Config] = {
    name: {"connection_string": text, "table": "t"}
    for name, text in {
        "password": f"postgresql://u:{CANARY}@127.0.0.1:1/db",
        "slash": f"postgresql://u:{CANARY}/x@127.0.0.1:5432/db",
        "space": f"postgresql://u:pa {CANARY}@127.0.0.1:1/db",
        "encoded": f"postgresql://u:{quote(CANARY + '/x', safe='')}@127.0.0.1:1/db",
        "parameter": f"postgresql://u@127.0.0.1:1/db?sslpassword={CANARY}",
        "pair": f"host=127.0.0.1 port=1 password={CANARY}",
        "misspelt pair": f"host=127.0.0.1 pasword={CANARY}",
        "broken": f"postgresql://u:{CANARY}@[::1",
    }.items()
}
SOURCES = [("http", name, config) for name, config in HTTP.items()] + [
    ("postgres", name, config) for name, config in POSTGRES.items()
]
STEPS = [
    pytest.param(
        {"sources": {"g": {"type": type_, "config": config, "schema": {"id": "int64"}}},
         "destinations": {"o": {"type": "blackhole", "inputs": ["g"]}}},
        id=f"{type_} source, {name}",
    )
    for type_, name, config in SOURCES
] + [
    pytest.param(
        {"sources": {"g": {"type": "inline", "config": {"rows": [{"id": 1}]}}},
         "destinations": {"o": {"type": type_, "inputs": ["g"], "config": config}}},
        id=f"{type_} destination, {name}",
    )
    for type_, name, config in SOURCES
] + [
    pytest.param(
        {"sources": {"g": {"type": "inline", "config": {"rows": [{"id": 1}]}}},
         "transformations": {"l": {"type": "lookup", "inputs": ["g"], "config": {
             "source": {"type": type_, **config, "schema": {"id": "int64", "n": "string"}},
             "mapping": {"key": "id", "fields": ["n"]}}}},
         "destinations": {"o": {"type": "blackhole", "inputs": ["l"]}}},
        id=f"{type_} lookup, {name}",
    )
    for type_, name, config in [
        *SOURCES, ("redis", "password", {"connection": f"redis://u:{CANARY}@127.0.0.1:1/0"}),
    ]
]  # fmt: skip


def forms() -> list[bytes]:
    """How the secret may be spelt."""
    encoded = [base64.b64encode(text.encode()) for text in (CANARY, f"u:{CANARY}")]
    return [CANARY.encode(), *encoded]


def leaks(folder: Path, *texts: str) -> list[str]:
    """Where the secret is: files below the folder, or printed text."""
    files = {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    printed = {f"printed text {n}": text.encode() for n, text in enumerate(texts)}
    return [name for name, data in {**files, **printed}.items() if any(f in data for f in forms())]


@pytest.mark.parametrize("steps", STEPS)
def test_a_planted_secret_is_not_found_in_anything_that_is_written(
    steps: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    workflow = {"name": "planted", "version": "1.0", "settings": {"restart": {"attempts": 0}}}
    retries = {"error_handling": {"retry_count": 0}}
    for section in ("sources", "destinations"):
        steps[section] = {name: {**step, **retries} for name, step in steps[section].items()}
    file = tmp_path / "w.yaml"
    file.write_text(yaml.safe_dump({**workflow, **steps}))
    home = tmp_path / "home"
    monkeypatch.setenv("DATAFLARE_HOME", str(home))
    assert execute(["run", str(file), "--json"]) in (1, 2)
    for command in (["runs", "planted", "--json"], ["plan", str(file)], ["validate", str(file)]):
        execute(command)
    printed, errors = capfd.readouterr()
    assert errors
    assert leaks(home, printed, errors) == []


@pytest.mark.parametrize(
    "message",
    [
        f'{{"auth": "{CANARY}"}}',
        f'{{"op": "login", "args": [{{"apiKey": "{CANARY}", "note": "a"}}]}}',
        {"op": "auth", "args": {"auth": CANARY}},
        f"AUTH me {CANARY}",
        {"action": "login", "key": f"AK{CANARY}0000"},
        f"PASS oauth:{CANARY}",
        f"hello token={CANARY}",
        f"{{'token': '{CANARY}', not JSON",
    ],
)
def test_a_secret_in_a_message_to_a_server_is_not_shown(
    message: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The config is on the line that errors quote."""
    config = {"url": "ws://127.0.0.1:1", "timeout": "100ms", "subscribe": [message]}
    (tmp_path / "w.yaml").write_text(f"""\
name: subscribed
settings: {{restart: {{attempts: 0}}}}
sources:
  s: {{type: websocket, config: {json.dumps(config)}, schema: {{id: int64}}, error_handling: {{retry_count: 0}}}}
destinations:
  o: {{type: blackhole, inputs: [s]}}
""")
    home = tmp_path / "home"
    monkeypatch.setenv("DATAFLARE_HOME", str(home))
    assert execute(["run", str(tmp_path / "w.yaml"), "--json"]) == 1
    execute(["plan", str(tmp_path / "w.yaml")])
    printed, errors = capfd.readouterr()
    assert "127.0.0.1:1" in errors
    assert leaks(home, printed, errors) == []


def test_a_secret_in_the_address_of_a_destination_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.yaml").write_text(f"""\
name: addressed
version: "1.0"
settings: {{restart: {{attempts: 0}}, error_handling: {{retry_count: 0}}}}
sources:
  g: {{type: inline, config: {{rows: [{{id: 1}}]}}}}
destinations:
  o: {{type: http, inputs: [g], config: {{url: "{NOBODY}/${{secret:MY_HOOK}}"}}}}
""")
    home = tmp_path / "home"
    monkeypatch.setenv("DATAFLARE_HOME", str(home))
    monkeypatch.setenv("MY_HOOK", CANARY)
    assert execute(["run", str(tmp_path / "w.yaml"), "--json"]) == 1
    assert f"{NOBODY}/***" in (home / "addressed" / "current.json").read_text()
    assert leaks(home, *capfd.readouterr()) == []


def test_a_users_function_may_not_tell_a_secret_to_the_dead_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "telling.py").write_text(
        "import os\n\n\ndef tell(row):\n    raise ValueError('no: ' + os.environ['MY_TOKEN'])\n"
    )
    (tmp_path / "w.yaml").write_text(f"""\
name: telling
version: "1.0"
settings: {{error_handling: {{on_error: dead_letter}}}}
sources:
  g: {{type: inline, config: {{rows: [{{id: 1}}]}}}}
transformations:
  p: {{type: python, inputs: [g], config: {{function: "telling:tell", mode: record, schema: {{id: int64}}}}}}
destinations:
  o: {{type: http, inputs: [p], config: {{url: "{NOBODY}", auth: {{type: bearer, token: "${{secret:MY_TOKEN}}"}}}}}}
""")
    home = tmp_path / "home"
    monkeypatch.setenv("DATAFLARE_HOME", str(home))
    monkeypatch.setenv("MY_TOKEN", CANARY)
    execute(["run", str(tmp_path / "w.yaml"), "--json"])
    execute(["dlq", "show", "telling", "--json"])
    printed, errors = capfd.readouterr()
    assert '"dead_letters": 1' in printed
    assert leaks(home, printed, errors) == []


def options(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[str]:
    """The names of all options, at every depth."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    for name, each in schema.get("properties", {}).items():
        yield name
        for part in (each, *each.get("anyOf", ())):
            yield from options(part, root)


def test_every_option_that_is_secret_by_its_name_is_masked() -> None:
    classes = [registry.source(name) for name in registry.source_types()]
    classes += [registry.destination(name) for name in registry.destination_types()]
    names = set()
    for each in classes:
        schema = each.Config.model_json_schema()
        names |= set(options(schema, schema))
    secret = {name for name in names if is_secret(name)}
    assert {"token", "password"} <= secret
    assert not secret & {"key", "key_prefix", "path", "table", "columns", "sharding", "records"}
    for name in secret:
        assert CANARY in set(literal_secrets({name: CANARY}))


@pytest.mark.parametrize(
    "config",
    [
        {"path": "data/key.csv", "key": ["id"]},
        {"url": "https://host/items?page=2&sort=name"},
        {"query": "select * from t where token_count = 5"},
        {"condition": "status = 'active'"},
        {"max_tokens": 4000, "password_file": "/run/secret"},
        {
            "subscribe": [
                '{"op": "subscribe", "args": ["trades.BTC"]}',
                "SUB orders",
                {"key": "orders"},
            ]
        },
    ],
)
def test_what_is_no_secret_is_shown(config: Config) -> None:
    assert list(literal_secrets(config)) == []
