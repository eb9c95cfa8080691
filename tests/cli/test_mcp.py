"""An assistant's tools, by the protocol's own client, over standard input and output."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

WORKFLOW = """\
name: w
sources: {a: {type: inline, config: {rows: [{n: 1, m: 2}, {n: 3, m: 0}]}}}
transformations: {f: {type: filter, inputs: [a], config: {condition: "m > 1"}}}
destinations: {out: {type: file, inputs: [f], config: {path: out.csv}}}
"""


def ask(
    folder: Path, *calls: tuple[str, dict], allow_run: bool = False, whole: bool = False
) -> tuple[list[str], list]:
    """The names of the tools, and what each call gave."""
    options = ["--allow-run"] if allow_run else []
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "dataflare", "mcp", *options], cwd=folder
    )

    async def asked() -> tuple[list[str], list]:
        async with Client(parameters) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            answers = [await client.call_tool(name, given) for name, given in calls]
            if whole:
                return names, answers
            return names, ["".join(part.text for part in each.content) for each in answers]

    return asyncio.run(asked())


def test_an_assistant_looks_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    names, answers = ask(
        tmp_path,
        ("validate", {"text": WORKFLOW.replace("m > 1", "mm > 1")}),
        ("validate", {"file": "w.yaml"}),
        ("plan", {"file": "w.yaml"}),
        ("preview", {"file": "w.yaml", "step": "f"}),
        ("lineage", {"file": "w.yaml"}),
        ("connectors", {"type": "kafka"}),
        ("functions", {"name": "upper"}),
        ("runs", {}),
        ("docs_search", {"words": "late rows of windows"}),
        ("docs_page", {"page": "windows.md"}),
        ("docs_page", {"page": "../pyproject.toml"}),
        ("preview", {"file": "--help", "step": "f"}),
    )
    assert "run" not in names
    wrong, right, planned, rows, columns, kafka, upper, ran, found, page, outside, dash = answers
    assert json.loads(wrong)["error"]["code"] == "E0203"
    assert json.loads(right)["error"] is None
    assert {node["id"] for node in json.loads(planned)["nodes"]} >= {"a", "f", "out"}
    assert [json.loads(line) for line in rows.splitlines()] == [{"n": 1, "m": 2}]
    assert json.loads(columns)["columns"]["out"]["n"]["conditions"] == ["a.m"]
    assert "topic" in kafka
    assert "upper" in upper
    assert json.loads(ran) == []
    assert found.startswith(("windows.md", "joins.md", "concepts.md"))
    assert page.startswith("# ")
    assert "there is no page" in outside
    assert "begin with a dash" in dash
    assert not (tmp_path / "out.csv").exists()


def test_a_call_that_fails_is_an_error_of_the_tool(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    wrong = WORKFLOW.replace("m > 1", "mm > 1")
    failed = {
        "nothing": ("validate", {}),
        "both": ("validate", {"file": "w.yaml", "text": WORKFLOW}),
        "dash": ("preview", {"file": "--help", "step": "f"}),
        "unknown": ("logs", {"workflow": "nope"}),
        "page": ("docs_page", {"page": "nope"}),
        "found": ("validate", {"text": wrong}),
        "right": ("validate", {"file": "w.yaml"}),
    }
    _, answers = ask(tmp_path, *failed.values(), whole=True)
    errors = {name for name, each in zip(failed, answers, strict=True) if each.is_error}
    assert errors == {"nothing", "both", "dash", "unknown", "page"}


def test_a_run_must_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    names, (ran, runs) = ask(tmp_path, ("run", {"file": "w.yaml"}), ("runs", {}), allow_run=True)
    assert "run" in names
    assert json.loads(ran)["status"] == "finished"
    assert (tmp_path / "out.csv").read_text() == "n,m\n1,2\n"
    assert len(json.loads(runs)) == 1


def test_lines_of_files_elsewhere_are_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    folder = tmp_path / "flows"
    folder.mkdir()
    (tmp_path / "keys.yaml").write_text("private_word: 5\n")
    (folder / "near.yaml").write_text("nearby_word: 5\n")
    outer = f"include: [../keys.yaml]\n{WORKFLOW}"
    (folder / "outer.yaml").write_text(outer)
    (folder / "inner.yaml").write_text(f"include: [near.yaml]\n{WORKFLOW}")
    _, (*hidden, shown) = ask(
        folder,
        ("validate", {"file": "outer.yaml"}),
        ("plan", {"file": "outer.yaml"}),
        ("preview", {"file": "outer.yaml", "step": "f"}),
        ("validate", {"text": outer.replace("../keys.yaml", str(tmp_path / "keys.yaml"))}),
        ("validate", {"file": "inner.yaml"}),
    )
    for answer in hidden:
        error = json.loads(answer[answer.index("{") :])["error"]
        assert (error["code"], error["spots"][0]["line"]) == ("E0103", 1)
        assert "private_word" not in answer
    assert "nearby_word" in json.loads(shown)["error"]["message"]


def test_a_preview_for_an_assistant_has_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAFLARE_HOME", raising=False)
    text = WORKFLOW.replace(
        "{n: 1, m: 2}", "{n: 1, m: 2, url: 'postgres://u:${HOOK:-hookpass}@db/x'}"
    )
    (tmp_path / "w.yaml").write_text(text)
    _, (rows,) = ask(tmp_path, ("preview", {"file": "w.yaml", "step": "f"}))
    assert json.loads(rows) == {"n": 1, "m": 2, "url": "postgres://u:***@db/x"}
