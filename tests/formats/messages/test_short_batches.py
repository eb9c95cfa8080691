"""Short batches of JSON messages are searched in other ways than long ones, and are read the same."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.formats import ndjson_watch
from dataflare.formats.messages import json as json_messages
from dataflare.formats.messages.json import JsonDecoder, sampled

MESSAGES = st.sampled_from(
    [
        b'{"a": 1, "b": "x"}', b'{"a":2,"b":"7.50"}', b'{"a": 3, "b": 1.50}', b'{"a": 4, "b": {"c": 1}}',
        b'{"a"\t:\n5,\n"b" : null}', b'\xef\xbb\xbf{"a": 6}', b'{"a": 7, "b": "\xef\xbb\xbf:\\":"}',
        b'{"a": 8, "new": 1}', b'{"a": 9, "new": null}', b'{"a": 1, "a": 2}', b'{"b": "{"}', b"", b" ", b"[1]",
        b'{"a": "no"}', b'{"b": "a\nb"}',
    ]
)  # fmt: skip


@given(messages=st.lists(st.none() | MESSAGES, max_size=8))
def test_a_short_batch_is_read_as_if_it_were_a_long_one(messages: list[bytes | None]) -> None:
    values = pl.Series(messages, dtype=pl.Binary)
    columns = sampled(pl.Series([b'{"a": 1, "b": "x"}'], dtype=pl.Binary))
    short = JsonDecoder(columns).decode(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_messages, "_SHORT", 0)
        patch.setattr(ndjson_watch, "_SHORT", 0)
        long = JsonDecoder(columns).decode(values)
    assert short.rows.equals(long.rows)
    assert short.message.equals(long.message)
    assert short.bad.equals(long.bad)
    assert short.warnings == long.warnings
    assert (short.new_fields is None) == (long.new_fields is None)
    if short.new_fields is not None and long.new_fields is not None:
        assert short.new_fields.fields == long.new_fields.fields
