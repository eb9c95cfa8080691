"""Messages name the run that wrote them."""

from __future__ import annotations

import json

from nats_kit import Place

from dataflare.jobs import RunOptions, run
from dataflare.workflow import load_text

WRITE = """\
name: marked
settings: {run_column: _run}
sources: {rows: {type: inline, config: {rows: [{n: 1}, {n: 2}]}}}
destinations:
  out: {type: nats, inputs: [rows], config: {connection: "SERVER", subject: STREAM.a}}
"""


def test_messages_name_their_run(place: Place) -> None:
    text = WRITE.replace("SERVER", place.server.url).replace("STREAM", place.stream)
    options = RunOptions(place.folder / "home")
    runs = [run(load_text(text, base=place.folder), options) for _ in range(2)]
    assert [each.error for each in runs] == [None, None]
    assert [json.loads(each.data) for each in place.messages()] == [
        {"n": n, "_run": each.run_id} for each in runs for n in (1, 2)
    ]
