"""The messages of a source's letters, decoded again as the workflow says today. Their system is not asked for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from dataflare.connectors.inline.values import sifted
from dataflare.formats.messages.contract import Decoded, text_bytes
from dataflare.model.types import Schema
from dataflare.sdk.messages.letters import METADATA, RAW, SupportsMessages, columns_read
from dataflare.sdk.source import Reread
from dataflare.sdk.threads import in_thread

if TYPE_CHECKING:
    from dataflare.jobs.letters import Letter


async def decoded_again(
    source: SupportsMessages, letters: Sequence[Letter], schema_change: str
) -> list[Reread]:
    """What each letter's message gives now. schema_change: of the workflow; what a reader does with a field that
    the columns lack is done here too, except that `evolve` adds no column."""
    columns, envelope = await columns_read(source), await source.made_envelope()
    answers = [Reread(why=_lack(letter, columns), detail=_place(letter)) for letter in letters]
    whole = [number for number, answer in enumerate(answers) if not answer.why]
    messages = sifted([_message(letters[number]) for number in whole], columns)
    for at, problem in messages.wrong:
        letter = letters[whole[at]]
        answers[whole[at]] = Reread(
            why="what is told of their messages has another type now",
            detail=f"{_place(letter)}: {problem}",
        )
    decoded = await in_thread(envelope.decode, messages.frame)
    unforeseen = _unforeseen(decoded, schema_change)
    starts = decoded.message.search_sorted(pl.int_range(messages.frame.height + 1, eager=True))
    errors = dict(zip(decoded.bad["message"], decoded.bad["error"], strict=True))
    for at, sifted_number in enumerate(messages.numbers):
        number = whole[sifted_number]
        letter = letters[number]
        if at in errors:
            answers[number] = Reread(
                why="they still cannot be read", detail=f"{_place(letter)}: {errors[at]}"
            )
        elif at in unforeseen:
            answers[number] = Reread(
                why="they have fields that the source's columns lack: name these in its 'schema'",
                detail=f"{_place(letter)}, with '{unforeseen[at]}'",
            )
        else:
            rows = decoded.rows[starts[at] : starts[at + 1]]
            answers[number] = Reread(
                row=rows, detail=_place(letter), source=_identity(source, letter)
            )
    return answers


def _place(letter: Letter) -> str:
    return letter.position or f"letter {letter.id}"


def _lack(letter: Letter, columns: Schema) -> str:
    """Why the message of a letter cannot be decoded at all; empty if it can."""
    raw, metadata = letter.row[RAW], letter.row.get(METADATA) or {}
    if raw is not None and text_bytes(str(raw)) is None:
        return "their letters hold only the beginning of their messages"
    missing = next((name for name in columns.names[1:] if name not in metadata), None)
    if missing is not None:
        return f"their letters do not hold the '{missing}' of their messages, which is read now"
    return ""


def _message(letter: Letter) -> Mapping[str, Any]:
    raw = letter.row[RAW]
    return {
        **(letter.row.get(METADATA) or {}),
        "value": None if raw is None else text_bytes(str(raw)),
    }


def _unforeseen(decoded: Decoded, schema_change: str) -> Mapping[int, str]:
    """By message, a field that the columns lack and that is not to be left out."""
    found = decoded.new_fields
    if found is None or schema_change == "ignore":
        return {}
    if schema_change == "evolve" and not found.columns([found.sample]):
        return {}
    return {row: path for path, rows in found.fields.items() for row in rows}


def _identity(source: SupportsMessages, letter: Letter) -> str:
    """Tells one message that two runs refused from two messages."""
    return f"{letter.position}: {letter.row}" if source.places_differ else letter.id
