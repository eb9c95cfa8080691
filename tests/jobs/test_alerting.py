"""Alerts of runs: told to real receivers, also when these fail, the run is killed, or it ends at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers.web import Answer, Asked, HttpServer, http_server

from dataflare.jobs import RunOptions, RunResult, run
from dataflare.observability import logs
from dataflare.sdk.context import Policy
from dataflare.workflow import load_text

BAD = """\
name: bad
sources: {rows: {type: inline, config: {rows: [{x: "1"}, {x: a}, {x: b}]}}}
transformations:
  cast: {type: map, inputs: [rows], config: {cast: {x: int64}}, error_handling: {on_error: skip}}
destinations: {out: {type: blackhole, inputs: [cast]}}
notifiers:
  ops: {type: webhook, url: URL}
alerts:
  - {name: broken rows, when: "errors > 1", severity: page, notify: [ops]}
  - {name: many, when: "errors > 100", notify: [ops]}
"""
STREAM = """\
name: stream
settings: {checkpoint: {interval: 50ms}}
sources: {rows: {type: generate, config: {rate: 1000/s, columns: {n: {sequence: 0}}}}}
destinations: {out: {type: blackhole, inputs: [rows]}}
notifiers:
  ops: {type: webhook, url: "URL?token=s3cretToken"}
alerts:
  - {when: "rows > 10", notify: ops}
"""


def done(text: str, folder: Path, for_s: float | None = None, **more: Any) -> RunResult:
    result = run(load_text(text, base=folder), RunOptions(folder / "home", for_s=for_s, **more))
    assert result.error is None
    return result


def told(server: HttpServer) -> list[tuple[str, str]]:
    return [(asked.json()["alert"], asked.json()["status"]) for asked in server.asked]


def test_a_run_of_a_moment_tells_what_was_wrong(tmp_path: Path) -> None:
    with http_server(lambda _: Answer(status=204)) as server:
        result = done(BAD.replace("URL", server.url), tmp_path)
        assert told(server) == [("broken rows", "firing")]
        assert server.asked[0].json()["message"] == "errors is 2 (errors > 1)"
        assert "alert 'broken rows' fired: errors is 2 (errors > 1)" in result.warnings
        # The next run is as bad: who knows it is not told again. Then one is good.
        done(BAD.replace("URL", server.url), tmp_path)
        assert len(server.asked) == 1
        done(BAD.replace("URL", server.url).replace("{x: a}, {x: b}", "{x: '2'}"), tmp_path, accept_changes=True, fresh=True)  # fmt: skip
        assert told(server)[1:] == [("broken rows", "resolved")]
    assert json.loads((tmp_path / "home" / "bad" / "alerts.json").read_text()) == []


def test_a_receiver_that_fails_for_a_while_is_told_once_it_is_back(tmp_path: Path) -> None:
    answers = [503, 503, 200]

    def answer(_: Asked) -> Answer:
        return Answer(status=answers.pop(0) if answers else 500, headers={"Retry-After": "0"})

    with http_server(answer) as server:
        result = done(BAD.replace("URL", server.url), tmp_path)
    assert len(server.asked) == 3
    assert not any("not told" in warning for warning in result.warnings)


def test_a_receiver_that_refuses_costs_the_run_nothing_but_a_warning(tmp_path: Path) -> None:
    with http_server(lambda _: Answer({"why": "no"}, 403)) as server:
        result = done(BAD.replace("URL", f"{server.url}/?token=s3cretToken"), tmp_path)
        assert len(server.asked) == 1
        # It is not known yet: the next run tells it.
        done(BAD.replace("URL", server.url), tmp_path)
        assert len(server.asked) == 2
    assert (result.status, result.steps["out"]["rows_in"]) == ("finished", 1)
    (warning,) = [each for each in result.warnings if "notifier" in each]
    assert warning.startswith("notifier 'ops': 1 alert was not told: it answers 403")


def test_a_receiver_that_hangs_does_not_hold_the_rows_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataflare.jobs.alerting._CLOSING_S", 0.2)
    free = threading.Event()

    def answer(_: Asked) -> Answer:
        free.wait(20)
        return Answer()

    seen: list[Any] = []
    with http_server(answer) as server:
        text = STREAM.replace("URL", server.url)
        timer = threading.Timer(2.5, free.set)
        timer.start()
        try:
            result = done(text, tmp_path, for_s=1.6, listener=seen.append)
        finally:
            free.set()
            timer.join()
    assert result.status == "stopped"
    assert result.steps["out"]["rows_in"] > 1000
    assert "notifier 'ops': 1 alert was not told" in result.warnings[-1]


def test_secrets_of_a_notifier_are_in_no_log(tmp_path: Path) -> None:
    text = BAD.replace("type: webhook, url: URL", "type: command, command: \"sh -c 'echo s3cret-$0 >&2; exit 1' ${secret:KEY}\"")  # fmt: skip
    secrets = {"KEY": "t0pSecretValue"}

    class Provider:
        def get(self, name: str) -> str | None:
            return secrets.get(name)

    workflow = load_text(text, base=tmp_path, secrets=Provider())  # type: ignore[arg-type]
    home = tmp_path / "home"

    @contextmanager
    def log(watch: Any) -> Iterator[None]:
        with watch.log.writing(home / "bad", lambda text: None):
            yield

    import dataflare.jobs.alerting as alerting

    monkey = pytest.MonkeyPatch()
    monkey.setattr(alerting, "_CLOSING_S", 0.5)
    try:
        result = run(workflow, RunOptions(home, observers=[log]))
    finally:
        monkey.undo()
    lines = [*logs.lines(home / "bad", result.run_id)]
    assert any("notifier 'ops': the command ended with 1: s3cret-***" in str(line["message"]) for line in lines), lines  # fmt: skip
    assert "t0pSecretValue" not in json.dumps([lines, result.to_json()])


def test_where_workflows_may_run_no_code_a_command_is_refused(tmp_path: Path) -> None:
    text = BAD.replace("type: webhook, url: URL", "type: command, command: ls")
    options = RunOptions(tmp_path / "home", policy=Policy(python=False))
    with pytest.raises(Exception, match="may not start a program here") as error:
        run(load_text(text, base=tmp_path), options)
    assert getattr(error.value, "code", None) == "E0410"


def test_alerts_that_nobody_hears_are_a_warning(tmp_path: Path) -> None:
    text = BAD.replace("notifiers:\n  ops: {type: webhook, url: URL}\n", "")
    result = done(text, tmp_path)
    assert result.warnings[0] == (
        "alerts notify 'ops', and the workflow has no 'notifiers': they are only shown"
    )


def test_a_killed_run_has_told_what_fires_and_the_next_one_resolves_it(tmp_path: Path) -> None:
    with http_server(lambda _: Answer(status=204)) as server:
        (tmp_path / "w.yaml").write_text(STREAM.replace("URL", server.url))
        command = [sys.executable, "-m", "dataflare", "run", "w.yaml", "--quiet"]
        kept = tmp_path / ".dataflare" / "stream" / "alerts.json"
        with subprocess.Popen(command, cwd=tmp_path) as process:
            try:
                while not kept.exists() or '"told":["ops"]' not in kept.read_text():
                    assert process.poll() is None
                    threading.Event().wait(0.05)
                status = subprocess.run(
                    [*command[:3], "status"],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                top = subprocess.run(
                    [*command[:3], "top", "--once", "--every", "0.1"],
                    cwd=tmp_path, capture_output=True, text=True, check=True,
                )  # fmt: skip
            finally:
                process.kill()
        assert told(server) == [("rows > 10", "firing")]
        for shown in (status.stdout, top.stdout):
            assert "alert 'rows > 10' (warning) firing: rows is" in shown
        (tmp_path / "w.yaml").write_text(
            STREAM.replace("URL", server.url).replace("rows > 10", "rows > 1000000")
            .replace("{when:", "{name: rows > 10, when:").replace("1000/s", "1000/s, rows: 1")
        )  # fmt: skip
        ended = subprocess.run([*command, "--fresh"], cwd=tmp_path, check=False)
        assert ended.returncode == 0
        assert told(server)[1:] == [("rows > 10", "resolved")]


ENDED = """\
name: ended
sources: {rows: {type: inline, config: {rows: [{x: "1"}, {x: PRIVATE}]}}}
transformations:
  cast: {type: map, inputs: [rows], config: {cast: {x: int64}}}
  hide: {type: mask, inputs: [cast], config: {columns: {x: redact}}}
destinations: {out: {type: blackhole, inputs: [LAST]}}
notifiers:
  ops: {type: webhook, url: URL}
alerts:
  - {when: failed, notify: ops}
  - {when: "errors > 0", notify: ops}
"""


@pytest.mark.parametrize("masks", [False, True])
def test_a_run_that_a_row_ends_tells_which_error_it_was_and_counts_the_row(
    tmp_path: Path, *, masks: bool
) -> None:
    text = ENDED.replace("LAST", "hide" if masks else "cast")
    if not masks:
        text = "\n".join(line for line in text.splitlines() if "hide:" not in line)
    with http_server(lambda _: Answer(status=204)) as server:
        workflow = load_text(text.replace("URL", server.url), base=tmp_path)
        result = run(workflow, RunOptions(tmp_path / "home"))
        failed, errors = [asked.json() for asked in server.asked]
    assert result.error is not None
    assert (result.status, result.steps["cast"]["errors"]) == ("failed", 1)
    assert errors["message"] == "errors is 1 (errors > 0)"
    begin = f"the run failed: {result.error.code} in step 'cast'"
    assert failed["step"] == "cast"
    if masks:
        assert failed["message"] == (
            f"{begin} (its message is not told, because the workflow masks columns)"
        )
    else:
        assert failed["message"].startswith(f"{begin}: ")
        assert failed["message"].endswith(result.error.message.removeprefix("step 'cast': "))
    assert "PRIVATE" not in failed["message"]


def test_too_few_rows_of_a_run_without_an_end_is_warned_of(tmp_path: Path) -> None:
    text = STREAM.replace("rows > 10", "rows < 1000000").replace("URL", "http://127.0.0.1:9")
    result = done(text, tmp_path, for_s=0.1)
    (warning,) = [each for each in result.warnings if "alert" in each]
    assert "this one has no end: add 'in 10m' to 'rows < 1000000'" in warning


USUAL = """\
name: daily
params: {rows: {type: int64, default: 400}}
sources: {orders: {type: generate, config: {rows: "${param:rows}", columns: {n: {sequence: 0}}}}}
destinations: {out: {type: blackhole, inputs: [orders]}}
"""
UNUSUAL = "alerts: [{name: volume, when: rows < usual}]\n"


def daily(folder: Path, text: str, rows: int) -> RunResult:
    return done(text.replace("default: 400", f"default: {rows}"), folder, accept_changes=True)


def test_a_rule_knows_what_the_runs_before_it_had(tmp_path: Path) -> None:
    for _ in range(8):
        daily(tmp_path, USUAL, 400)
    result = daily(tmp_path, USUAL + UNUSUAL, 200)
    assert result.warnings[-1:] == [
        "alert 'volume' fired: rows is 200, and 320 to 480 is usual (rows < usual)"
    ]
    file = tmp_path / "home" / "daily" / "usual.json"
    (seen,) = json.loads(file.read_bytes()).values()
    assert [each[1:] for each in seen] == [[400.0, False]] * 8 + [[200.0, True]]
    assert not daily(tmp_path, USUAL + UNUSUAL, 400).warnings
    # A rule that is added later learns from them too, and what the other one saw stays.
    added = UNUSUAL.replace("]", ", {name: slow, when: elapsed > usual}]")
    assert not daily(tmp_path, USUAL + added, 400).warnings
    kept = json.loads(file.read_bytes())
    assert [each[1:] for each in kept["rows  "]] == [[400.0, False]] * 8 + [[200.0, True]] + [[400.0, False]] * 2  # fmt: skip
    assert len(kept["elapsed  "]) == 11


@pytest.mark.parametrize("damaged", [b"{", b'{"rows  \xff": []}', b"[]"])
def test_what_is_usual_is_learnt_from_the_runs_again_where_its_file_was_damaged(
    tmp_path: Path, damaged: bytes
) -> None:
    for _ in range(8):
        daily(tmp_path, USUAL, 400)
    file = tmp_path / "home" / "daily" / "usual.json"
    file.write_bytes(damaged)
    warning, fired = daily(tmp_path, USUAL + UNUSUAL, 200).warnings
    assert warning.startswith("what is usual cannot be read, and is learnt again: ")
    assert fired == "alert 'volume' fired: rows is 200, and 320 to 480 is usual (rows < usual)"
    (seen,) = json.loads(file.read_bytes()).values()
    assert len(seen) == 9
