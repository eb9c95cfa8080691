"""The commands that write messages to Redis."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.connectors.redis.commands import Command, commands_of, transaction_of
from dataflare.connectors.redis.destination_config import RedisDestinationConfig
from dataflare.formats.messages.fields import pack
from dataflare.sdk.brokers.rows import MESSAGES


def applied(commands: list[Command], there: dict[str, object]) -> dict[str, object]:
    """What Redis has after these commands, by key: a hash as a dict, each with its time to live."""
    keys = dict(there)
    for name, *arguments in commands:
        target = str(arguments[0])
        match name:
            case "DEL":
                for each in arguments:
                    keys.pop(str(each), None)
            case "HSET":
                fields, _ = keys.get(target, ({}, None))  # type: ignore[misc]
                fields = {**fields, **dict(zip(arguments[1::2], arguments[2::2], strict=True))}
                keys[target] = (fields, None)
            case "EXPIRE":
                keys[target] = (keys[target][0], arguments[1])  # type: ignore[index]
            case "SET":
                keys[target] = (arguments[1], arguments[2:])
            case _:
                raise AssertionError(name)
    return keys


ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.dictionaries(st.sampled_from([b"x", b"y"]), st.binary(max_size=2), min_size=1),
        st.booleans(),
    ),
    max_size=12,
)


@pytest.mark.parametrize(
    "more", [{}, {"ttl": "5s"}, {"structure": "json"}, {"structure": "json", "ttl": "5s"}]
)
@given(rows=ROWS)
def test_a_transaction_leaves_what_the_commands_of_each_message_leave(
    more: dict[str, str], rows: list[tuple[str, dict[bytes, bytes], bool]]
) -> None:
    config = RedisDestinationConfig(
        connection="redis://localhost", key=["id"], mode="mirror", **more
    )
    messages = pl.DataFrame(
        {
            "target": [target for target, _, _ in rows],
            "value": [None if gone else pack(fields.items()) for _, fields, gone in rows],
            "id": None, "headers": None,
            "is_delete": [gone for _, _, gone in rows],
        },
        schema=MESSAGES,
    )  # fmt: skip
    there = {"a": ({b"old": b"1"}, 3), "d": ({b"old": b"2"}, None)}
    by_message = applied([*commands_of(config, messages)], there)
    at_once = [*transaction_of(config, messages)]
    assert applied(at_once, there) == by_message
    assert sum(command[0] == "DEL" for command in at_once) <= 1
