"""What a long run keeps of its warnings and of its failed calls."""

from __future__ import annotations

from pathlib import Path

from servers.web import Answer, Asked, http_server

from dataflare.jobs import RunOptions, run
from dataflare.jobs.kept_warnings import WARNINGS_MAX, KeptWarnings
from dataflare.workflow.load import load_text


def test_the_last_warnings_are_kept_and_the_others_are_counted() -> None:
    warnings = KeptWarnings(3)
    assert warnings.shown() == []
    for number in range(3):
        assert warnings.add(f"w{number}")
    assert not warnings.add("w1"), "each text once"
    assert warnings.shown() == ["w0", "w1", "w2"]
    warnings.append("w2")
    assert warnings.shown() == ["1 earlier warning left out: the log has them", "w1", "w2", "w2"]
    warnings.extend(["w1", "w3"])
    assert warnings.shown()[0].startswith("2 earlier warnings")
    assert warnings.shown() is warnings.shown(), "nothing is copied until another one comes"


def test_a_run_that_restarts_often_keeps_as_many_warnings_as_it_shows(tmp_path: Path) -> None:
    left = [2 * (WARNINGS_MAX + 30)]

    def fails_often(asked: Asked) -> Answer:
        left[0] -= 1
        return Answer(None, 503 if left[0] > 0 else 204)

    with http_server(fails_often) as web:
        text = f"""\
name: often
settings: {{restart: {{attempts: 1000, delay: 1ms, max_delay: 1ms, window: 1h}}}}
sources:
  rows: {{type: inline, config: {{rows: [{{n: 1}}]}}}}
destinations:
  out:
    type: http
    inputs: [rows]
    config: {{url: "{web.url}"}}
    error_handling: {{retry_policy: {{max_attempts: 2, initial_backoff: 1ms, max_backoff: 1ms}}}}
"""
        result = run(load_text(text, base=tmp_path), RunOptions(tmp_path))
    assert result.status == "finished"
    assert len(result.warnings) == WARNINGS_MAX + 1
    assert "earlier warnings left out" in result.warnings[0]
    assert any("tried again 230 times after E" in each for each in result.warnings)
