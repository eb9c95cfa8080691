"""An event time may be made by an expression; what is not a timestamp is refused with the way to make one."""

from __future__ import annotations

from typing import Any

import pytest

from dataflare import Workflow
from dataflare.errors import DataFlareError

ROWS = [
    {"s": 60, "ms": 60_000, "text": "01.01.1970 00:01", "nested": {"at": "1970-01-01T00:01:00Z"}},
    {"s": 90, "ms": 90_000, "text": "01.01.1970 00:02", "nested": {"at": "1970-01-01T00:02:00Z"}},
]


def counted(column: str, rows: list[dict[str, Any]] = ROWS, **step: Any) -> Any:
    wf = Workflow("made", settings={"mode": "streaming"})
    source = wf.source("s", "inline", rows=rows, event_time={"column": column}, **step)
    window = source.process("w", "window", kind="tumbling", size="1m", measures={"n": "count(*)"})
    window.to("out", "memory")
    return wf.run(check=False)


@pytest.mark.parametrize(
    ("column", "windows"),
    [
        ("to_timestamp(s)", [2]),
        ("epoch_ms(ms)", [2]),
        ("strptime(text, '%d.%m.%Y %H:%M')", [1, 1]),
        ("CAST(nested.at AS timestamptz)", [1, 1]),
    ],
)
def test_an_expression_is_the_event_time(column: str, windows: list[int]) -> None:
    result = counted(column)
    assert result.status == "finished", result.error
    assert result.frame("out")["n"].to_list() == windows


@pytest.mark.parametrize(
    ("column", "code", "said"),
    [
        ("ms", "E0330", "epoch_ms(ms)"),
        ("text", "E0330", "strptime(text"),
        ("seconds", "E0203", "its columns"),
        ("to_timestamp(seconds)", "E0203", "seconds"),
    ],
)
def test_what_is_not_a_time_is_refused_with_the_way_out(column: str, code: str, said: str) -> None:
    with pytest.raises(DataFlareError) as caught:
        counted(column)
    assert (caught.value.code, caught.value.step) == (code, "s")
    assert said in str(caught.value.message) + str(caught.value.notes) + str(caught.value.help)


def test_a_row_whose_time_cannot_be_made_is_an_error_of_that_row() -> None:
    rows = [*ROWS, {"text": "soon"}]
    result = counted("strptime(text, '%d.%m.%Y %H:%M')", rows, on_error="skip")
    assert (result.status, result.errors) == ("finished", {"s": 1})
    assert counted("strptime(text, '%d.%m.%Y %H:%M')", rows).status == "failed"
