"""Systems, files and users' code that quote a row: nothing that a run says or keeps shows a value which a `mask` step hides."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from servers.mariadb import MariaDbServer
from servers.postgres import PostgresServer
from servers.services import running
from servers.web import Answer, Asked, http_server

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow import load_text

PEOPLE = ["ann@hidden.example", "bob o'neil", "Zoë-hidden"]
FLOW = """\
name: people
settings: {restart: {attempts: 0}, error_handling: {on_error: ON_ERROR, retry_count: 1}}
sources:
  rows: {type: inline, config: {rows: [{id: 1, email: "ann@hidden.example"}, {id: 2, email: "bob o'neil"}, {id: 3, email: "Zoë-hidden"}]}}
transformations:
  masked: {type: mask, inputs: [rows], config: {columns: {email: redact}}}
MORE
destinations:
  safe: {type: file, inputs: [masked], config: {path: safe.ndjson}}
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    yield from running("postgres")


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDbServer]:
    yield from running("mariadb")


def done(text: str, folder: Path) -> RunResult:
    def logging(watch: Any) -> Any:
        return watch.log.writing(folder / "home" / watch.workflow.name, print)

    return run(
        load_text(text, base=folder),
        RunOptions(folder / "home", observers=[logging], accept_changes=True),
    )


def said(result: RunResult, folder: Path) -> str:
    """All that the run says and keeps, except the rows themselves."""
    parts = [json.dumps(result.to_json(), ensure_ascii=False, default=str)]
    for path in (folder / "home").rglob("*"):
        if not path.is_file() or "redo" in path.parts:
            continue
        if "dead_letters" in path.parts and path.suffix == ".ndjson":
            letters = map(json.loads, path.read_text().splitlines())
            parts += [f"{each['message']} {each['position']}" for each in letters]
        elif path.suffix == ".gz":
            parts.append(gzip.decompress(path.read_bytes()).decode())
        elif {"logs", "runs", "courses"} & {*path.parts}:
            parts.append(path.read_text())
    return "\n".join(parts)


def check(result: RunResult, folder: Path, *, shown: str) -> None:
    """shown: what its texts have besides."""
    text = said(result, folder)
    for value in [*PEOPLE, "hidden.example", "o'neil", "o''neil", "Zo\\u00eb-hidden"]:
        assert value not in text
    assert "***" in text
    assert shown in text


def flow(on_error: str, *, steps: str = "", destination: str = "") -> str:
    return FLOW.replace("ON_ERROR", on_error).replace("MORE\n", steps) + destination


@pytest.mark.parametrize("on_error", ["fail", "dead_letter"])
def test_postgres_quotes_the_key_of_a_row(
    postgres: PostgresServer, tmp_path: Path, on_error: str
) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS people")
        connection.execute("CREATE TABLE people (id bigint, email text PRIMARY KEY CHECK (email <> 'Zoë-hidden'))")  # fmt: skip
        connection.execute("INSERT INTO people VALUES (0, 'ann@hidden.example'), (0, 'bob o''neil')")  # fmt: skip
    to = f'  db: {{type: postgres, inputs: [rows], config: {{connection_string: "{postgres.dsn()}", table: people, mode: append}}}}\n'
    check(done(flow(on_error, destination=to), tmp_path), tmp_path, shown="refuses a row")


def test_a_source_quotes_what_it_cannot_cast(postgres: PostgresServer, tmp_path: Path) -> None:
    query = "SELECT 1::bigint AS id, ('ann@hidden' || '.example')::bigint AS email"
    text = flow("fail").replace(
        FLOW[FLOW.index("  rows:") : FLOW.index("transformations")],
        f'  rows: {{type: postgres, config: {{connection_string: "{postgres.dsn()}", query: "{query}"}}}}\n',
    )
    check(done(text, tmp_path), tmp_path, shown="invalid input syntax")


@pytest.mark.parametrize("on_error", ["fail", "dead_letter"])
def test_mariadb_quotes_a_duplicate_entry(
    mariadb: MariaDbServer, tmp_path: Path, on_error: str
) -> None:
    dsn = mariadb.dsn("hidden")
    with mariadb.client() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE IF NOT EXISTS hidden")
        cursor.execute("USE hidden")
        cursor.execute("DROP TABLE IF EXISTS people")
        cursor.execute("CREATE TABLE people (id bigint, email varchar(100) PRIMARY KEY)")
        cursor.execute("INSERT INTO people VALUES (0, 'ann@hidden.example'), (0, 'Zoë-hidden')")
        connection.commit()
    to = f'  db: {{type: mysql, inputs: [rows], config: {{connection_string: "{dsn}", table: people, mode: append}}}}\n'
    check(done(flow(on_error, destination=to), tmp_path), tmp_path, shown="Duplicate entry")


@pytest.mark.parametrize("status", [422, 500])
@pytest.mark.parametrize("on_error", ["fail", "dead_letter"])
def test_a_server_answers_with_the_body_that_it_refuses(
    tmp_path: Path, status: int, on_error: str
) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer({"error": f"no such person in {asked.body.decode()}"}, status)

    with http_server(answer) as server:
        to = f'  hook: {{type: http, inputs: [rows], config: {{url: "{server.url}/hook"}}}}\n'
        check(done(flow(on_error, destination=to), tmp_path), tmp_path, shown="no such person")


@pytest.mark.parametrize("on_error", ["fail", "dead_letter"])
def test_a_lookup_answers_with_the_key_that_it_refuses(tmp_path: Path, on_error: str) -> None:
    steps = """\
  more:
    type: lookup
    inputs: [rows]
    config:
      source: {type: http, url: "URL/one?who={who}"}
      mapping: {key: email, remote_key: who, fields: [name]}
"""

    def answer(asked: Asked) -> Answer:
        return Answer({"error": f"who is {asked.params['who']}?"}, 400)

    with http_server(answer) as server:
        to = "  out: {type: blackhole, inputs: [more]}\n"
        text = flow(on_error, steps=steps.replace("URL", server.url), destination=to)
        check(done(text, tmp_path), tmp_path, shown="answered 400")


@pytest.mark.parametrize("on_error", ["fail", "dead_letter"])
@pytest.mark.parametrize("execution", ["thread", "process"])
def test_code_of_a_user_quotes_a_row(tmp_path: Path, on_error: str, execution: str) -> None:
    (tmp_path / "hidden_code.py").write_text(
        "def step(row):\n    raise ValueError(f\"cannot handle {row['email']}\")\n"
    )
    steps = f'  code: {{type: python, inputs: [rows], config: {{function: "hidden_code:step", mode: record, execution: {execution}, schema: {{id: int64}}}}}}\n'
    to = "  out: {type: blackhole, inputs: [code]}\n"
    text = flow(on_error, steps=steps, destination=to)
    check(done(text, tmp_path), tmp_path, shown="cannot handle")


def test_a_destination_in_python_quotes_a_row(tmp_path: Path) -> None:
    (tmp_path / "hidden_end.py").write_text(
        "def write(frame):\n    raise ValueError(f\"cannot send {frame['email'].to_list()}\")\n"
    )
    to = '  out: {type: python, inputs: [rows], config: {function: "hidden_end:write"}}\n'
    check(done(flow("fail", destination=to), tmp_path), tmp_path, shown="cannot send")


@pytest.mark.parametrize("on_error", ["fail", "dead_letter"])
@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_a_row_that_cannot_be_read_is_not_quoted(tmp_path: Path, kind: str, on_error: str) -> None:
    values = [("1", "7"), ("2", "ann@hidden.example"), ("3", "Zoë-hidden")]
    if kind == "csv":
        lines = ["id,email", *(f"{id_},{email}" for id_, email in values)]
    else:
        lines = [json.dumps({"id": int(id_), "email": email}) for id_, email in values]
    (tmp_path / f"rows.{kind}").write_text("\n".join(lines) + "\n")
    text = flow(on_error).replace(
        FLOW[FLOW.index("  rows:") : FLOW.index("transformations")],
        f"  rows: {{type: file, config: {{path: rows.{kind}}}, schema: {{id: int64, email: int64}}}}\n",
    )
    check(done(text, tmp_path), tmp_path, shown="column 'email'")
