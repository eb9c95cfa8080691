"""The notifier and the measure of the page on alerts do what the page says."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from dataflare.errors import ConfigError, SystemError_, WorkflowError
from dataflare.jobs import RunOptions, run
from dataflare.observability.alerts import Event, Rule
from dataflare.observability.conditions import parse_condition
from dataflare.observability.measures import measure_of
from dataflare.observability.notifiers import Notice
from dataflare.observability.own_notifiers import notifier_kind, notifier_types, secrets_of
from dataflare.sdk import registry
from dataflare.sdk.notifier import NotifierConnector
from dataflare.sdk.registry import register
from dataflare.workflow import load_text
from dataflare.workflow.jsonschema import json_schema

PAGE = Path(__file__).parents[2] / "docs/extend/alerts.md"
FLOW = """\
name: orders
sources:
  all: {type: inline, config: {rows: [{n: 1}, {n: 2}, {n: 3}, {n: 4}]}}
transformations:
  paid: {type: filter, inputs: [all], config: {condition: "n = 1"}}
destinations:
  out: {type: blackhole, inputs: [paid], config: {}}
"""


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    code = re.search(r"```python title=.*?\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    module = ModuleType("dataflare_board")
    sys.modules[module.__name__] = module
    exec(compile(code[1], str(PAGE), "exec"), module.__dict__)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register(module.Board)
    register(module.RowsLost)
    yield module
    del sys.modules[module.__name__]


def workflow_of_page(place: Path) -> Any:
    told = re.search(r"```yaml\n(alerts:.*?)```", PAGE.read_text(), re.DOTALL)
    assert told is not None
    return load_text(FLOW + told[1].replace("/mnt/board/alerts.txt", str(place)))


def test_the_workflow_of_the_page_tells_the_board(board: ModuleType, tmp_path: Path) -> None:
    place = tmp_path / "alerts.txt"
    result = run(workflow_of_page(place), RunOptions(tmp_path / "home"))
    assert result.status == "finished"
    assert "alert 'too few' fired: rows lost of paid is 75% (rows_lost > 30%)" in result.warnings
    (line,) = [each for each in place.read_text().splitlines() if "firing" in each]
    assert line.endswith("firing orders: rows lost of paid is 75% (rows_lost > 30%)")


def test_what_cannot_be_told_is_a_warning_and_the_run_goes_on(
    board: ModuleType, tmp_path: Path
) -> None:
    place = tmp_path / "away" / "alerts.txt"
    result = run(workflow_of_page(place), RunOptions(tmp_path / "home"))
    assert result.status == "finished"
    assert any("notifier 'wall'" in text and "not told" in text for text in result.warnings)


def test_they_are_known_by_name_and_their_options_are_checked(board: ModuleType) -> None:
    assert notifier_types()[-1] == "board"
    found = measure_of("rows_lost")
    assert found is not None
    assert (found.unit, found.grows) == ("share", False)
    with pytest.raises(WorkflowError, match="unknown key 'fil' in the notifier 'wall'"):
        load_text(FLOW + "notifiers: {wall: {type: board, file: b, fil: x}}\n")
    with pytest.raises(ValueError, match="did you mean 'rows_lost'"):
        parse_condition("rows_los > 30%")
    assert "notifier.board" in json_schema({}, {}, {})["$defs"]
    assert secrets_of({"wall": {"type": "board", "token": "s3cret"}}) == ["s3cret"]


def test_a_name_of_ours_is_never_a_plugins(board: ModuleType) -> None:
    class Webhook(board.Board):  # type: ignore[misc, name-defined]
        type = "webhook"

    register(Webhook)
    kind = notifier_kind("webhook")
    assert kind is not None
    assert kind.__module__ == "dataflare.observability.notifiers"
    assert notifier_types().count("webhook") == 1


def test_one_that_hangs_is_not_waited_for(board: ModuleType) -> None:
    go_on, is_called = threading.Event(), threading.Event()

    class Empty(BaseModel):
        pass

    class Hangs(NotifierConnector):
        type = "hangs"
        Config = Empty

        def send(self, alert: Any, timeout_s: float) -> None:
            is_called.set()
            go_on.wait()

    register(Hangs)
    kind = notifier_kind("hangs")
    assert kind is not None
    rule = Rule("r", parse_condition("rows > 1"))
    notice = Notice(Event("firing", rule, "many", "", 2.0, 0.0, 0.0), "flow", "run", "here")
    try:
        with pytest.raises(SystemError_, match=r"did not answer within 0\.05 s"):
            kind.model_validate({"type": "hangs", "timeout": "50ms"}).send(notice, Path())
        assert is_called.is_set()
    finally:
        go_on.set()


def test_one_that_lacks_something_is_refused() -> None:
    class Half(NotifierConnector):
        type = "half"

    with pytest.raises(ConfigError, match="Half lacks Config, send"):
        register(Half)
