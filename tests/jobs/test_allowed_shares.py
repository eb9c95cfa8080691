"""Rules of a step of which a share of the rows may be broken: counted, told, or the end of the run before its commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataflare.errors import DataFlareError
from dataflare.jobs import RunOptions, RunResult, run
from dataflare.workflow import load_text

FLOW = """\
name: nulls
params: {nulls: {type: int64, default: NULLS}}
sources: {o: {type: generate, config: {rows: 1000, columns: {n: {sequence: 0}}}}}
transformations:
  some: {type: map, inputs: [o], config: {derive: {email: "CASE WHEN n >= ${param:nulls} THEN 'a' END"}}}
  check:
    type: validate
    inputs: [some]
    config: {rules: [{name: email there, expect: email IS NOT NULL, allowed: ALLOWED, on_fail: FAIL}]}
destinations: {out: {type: file, inputs: [check], config: {path: out.ndjson}}}
"""


def done(folder: Path, allowed: str, on_fail: str, nulls: int) -> RunResult:
    text = FLOW.replace("ALLOWED", allowed).replace("FAIL", on_fail).replace("NULLS", str(nulls))
    return run(load_text(text, base=folder), RunOptions(folder / "home", accept_changes=True))


def accepted(folder: Path, nulls: int, *, is_bad: bool = False) -> RunResult:
    text = FLOW.replace("ALLOWED", "usual").replace("FAIL", "fail").replace("NULLS", str(nulls))
    if is_bad:
        text = text.replace("THEN 'a' END\"", 'THEN \'a\' END", bad: "100 % (n - 999)"')
    options = RunOptions(folder / "home", accept_changes=True, accept_usual=True)
    return run(load_text(text, base=folder), options)


def usual(folder: Path) -> list[float]:
    (seen,) = json.loads((folder / "home" / "nulls" / "usual.json").read_bytes()).values()
    return [each[1] for each in seen]


def rows(folder: Path) -> int:
    file = folder / "out.ndjson"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_as_many_as_are_allowed_say_nothing_and_more_warn(tmp_path: Path) -> None:
    assert not done(tmp_path, "5%", "warn", 50).warnings
    result = done(tmp_path, "5%", "warn", 51)
    assert result.status == "finished"
    assert result.warnings == [
        "alert 'check.email there' fired: broken share of check.email there is 5% (broken_share > 5%)"
    ]
    assert rows(tmp_path) == 1000, "rows stay"


def test_more_end_the_run_before_a_row_is_committed(tmp_path: Path) -> None:
    result = done(tmp_path, "0.05", "fail", 51)
    assert (result.status, rows(tmp_path)) == ("failed", 0)
    assert result.error is not None
    assert (result.error.code, result.error.step) == ("E0531", "check")
    assert "too many rows break the rule 'email there'" in result.error.message
    assert done(tmp_path, "0.05", "fail", 50).status == "finished"
    assert rows(tmp_path) == 1000


def test_what_is_usual_is_learnt_and_a_run_that_failed_teaches_nothing(tmp_path: Path) -> None:
    for number in range(8):
        assert not done(tmp_path, "usual", "fail", 100 + number).warnings
    for _ in range(2):
        result = done(tmp_path, "usual", "fail", 300)
        assert result.status == "failed"
        assert result.error is not None
        assert "is 30%, and 8% to 12% is usual" in result.error.message
    assert done(tmp_path, "usual", "fail", 110).status == "finished"
    (seen,) = json.loads((tmp_path / "home" / "nulls" / "usual.json").read_bytes()).values()
    assert [each[1] for each in seen] == [*((100 + n) / 1000 for n in range(8)), 0.11]


def test_a_lasting_shift_can_be_accepted_and_is_usual_from_then_on(tmp_path: Path) -> None:
    for number in range(8):
        done(tmp_path, "usual", "fail", 100 + number)
    refused = done(tmp_path, "usual", "fail", 300)
    assert refused.error is not None
    assert "--accept-usual" in str(refused.error.help)
    assert "--accept-usual" not in str(getattr(done(tmp_path, "5%", "fail", 300).error, "help", ""))
    assert accepted(tmp_path, 300).status == "finished"
    assert usual(tmp_path) == [0.3]
    for number in range(7):
        assert done(tmp_path, "usual", "fail", 301 + number).status == "finished"
    back = done(tmp_path, "usual", "fail", 100)
    assert back.status == "finished", "the rule asks for too many, and there are fewer"
    assert done(tmp_path, "usual", "fail", 600).status == "failed"


def test_a_run_that_fails_for_another_reason_accepts_nothing(tmp_path: Path) -> None:
    for number in range(8):
        done(tmp_path, "usual", "fail", 100 + number)
    before = usual(tmp_path)
    failed = accepted(tmp_path, 300, is_bad=True)
    assert (failed.status, failed.error and failed.error.step) == ("failed", "some")
    assert usual(tmp_path) == before


@pytest.mark.parametrize(
    ("allowed", "on_fail", "said"),
    [
        ("5%", "drop", "'allowed' needs on_fail: warn or fail"),
        ("much", "warn", "is compared with a number such as 90% or 0.9"),
        ("5% in never", "warn", "'in' needs"),
    ],
)
def test_what_cannot_be_allowed_is_refused(
    allowed: str, on_fail: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataFlareError) as refused:
        done(tmp_path, allowed, on_fail, 0)
    assert said in str(refused.value) + str(refused.value.notes)


VOLUME = """\
name: volume
settings: {checkpoint: {interval: 50ms}}
sources: {o: {type: generate, config: {rows: ROWS, columns: {n: {sequence: 0}}}}}
transformations:
  check:
    type: validate
    inputs: [o]
    config: {rules: [{name: enough, broken_when: WHEN, on_fail: FAIL}, {name: small, expect: n < 1_000_000}]}
destinations: {out: {type: file, inputs: [check], config: {path: out.ndjson}}}
"""


def loaded(folder: Path, when: str, on_fail: str, number: int, more: str = "") -> RunResult:
    text = VOLUME.replace("WHEN", f'"{when}"').replace("FAIL", on_fail)
    text = text.replace("ROWS", f"{number}{more}")
    return run(load_text(text, base=folder), RunOptions(folder / "home", accept_changes=True))


def test_a_rule_can_be_about_how_many_rows_there_are(tmp_path: Path) -> None:
    assert not loaded(tmp_path, "rows < 100", "fail", 100).warnings
    result = loaded(tmp_path, "rows < 101", "fail", 100)
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.step) == ("E0531", "check")
    assert (
        result.error.message
        == "step 'check': its rows break the rule 'enough': rows of check is 100 (rows < 101)"
    )
    warned = loaded(tmp_path, "rows < 101", "warn", 100)
    assert (warned.status, rows(tmp_path)) == ("finished", 100)
    assert warned.warnings == ["alert 'check.enough' fired: rows of check is 100 (rows < 101)"]


def test_how_many_rows_are_usual_is_learnt(tmp_path: Path) -> None:
    for number in range(8):
        assert loaded(tmp_path, "rows < usual", "fail", 1_000 + number).status == "finished"
    few = loaded(tmp_path, "rows < usual", "fail", 300)
    assert few.error is not None
    assert "rows of check is 300" in few.error.message
    assert loaded(tmp_path, "rows < usual", "fail", 1_000).status == "finished"


def test_rows_that_do_not_come_fail_a_run_that_takes_no_checkpoints(tmp_path: Path) -> None:
    result = loaded(tmp_path, "freshness > 1s", "fail", 2, ", rate: 0.01/s")
    assert result.status == "failed"
    assert result.error is not None
    assert "the rule 'enough': freshness of check is " in result.error.message


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{name: r, on_fail: warn}", "give 'expect', of each row, or 'broken_when'"),
        (
            "{name: r, expect: n > 1, broken_when: rows < 1, on_fail: warn}",
            "give 'expect', of each",
        ),
        ("{name: r, broken_when: rows < 1}", "'broken_when' needs on_fail: warn or fail, not drop"),
        ("{name: r, broken_when: rows < 1, on_fail: fail, allowed: 5%}", "is a share of the rows"),
        ("{name: r, broken_when: row < 1, on_fail: fail}", "did you mean 'rows'"),
        ("{name: r, broken_when: rows < 1 for 5s, on_fail: fail}", "it is judged once"),
    ],
)
def test_a_rule_is_about_rows_or_about_all_of_them(rule: str, said: str, tmp_path: Path) -> None:
    text = VOLUME.replace("{name: enough, broken_when: WHEN, on_fail: FAIL}", rule)
    with pytest.raises(DataFlareError) as raised:
        run(load_text(text.replace("ROWS", "1"), base=tmp_path), RunOptions(tmp_path / "home"))
    assert said in str(raised.value) + " ".join(map(str, getattr(raised.value, "errors", ())))
