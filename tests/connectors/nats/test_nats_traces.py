"""Traces go through messages of NATS: their headers name one, and say which one wrote them."""

from __future__ import annotations

import pytest
from nats_kit import Place
from remembered_spans import GIVEN, OWN, traced_run

COPY = """\
name: traced
sources:
  given:
    type: nats
    config: {connection: "SERVER", stream: STREAM, subject: STREAM.a, stop: latest}
    schema: {n: int64}
destinations:
  out: {type: nats, inputs: [given], config: {connection: "SERVER", subject: STREAM.b}}
"""


@pytest.mark.parametrize("traced", [True, False])
def test_a_trace_goes_through_messages(place: Place, traced: bool) -> None:
    place.put([b'{"n": 1}', b'{"n": 2}'], traceparent=GIVEN)
    text = COPY.replace("SERVER", place.server.url).replace("STREAM", place.stream)
    spans = traced_run(text, place.folder, traced=traced)
    written = [each for each in place.messages() if each.subject.endswith(".b")]
    assert len(written) == 2
    if not traced:
        assert [each.headers for each in written] == [None, None]
        return
    assert spans.links["read given"] == [GIVEN]
    assert all(each.headers["traceparent"].startswith(OWN) for each in written)
