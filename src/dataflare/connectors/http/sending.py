"""Requests with rows, and what the server answers.

Always true: a batch that the server refuses (400, 409, 413, 422) is halved until the refused rows are found, if rows
may be left out.
"""

from __future__ import annotations

import uuid

import httpx
import polars as pl

from dataflare.connectors.http.client import HttpClient, excerpt, public_url
from dataflare.connectors.http.config import HttpDestinationConfig
from dataflare.errors import DataError, SystemError_
from dataflare.formats.text_write import NdjsonText, python_row
from dataflare.sdk.bisection import Bisection
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.destination import RefusedRow

_ABOUT_ROWS = (400, 409, 413, 422)


class Request:
    """Rows to send, as one request, or as several where the server refuses some of them. Each of these has a key that
    follows from the first one, so that the same rows have the same key whenever they are sent again."""

    def __init__(self, rows: pl.DataFrame, key: str) -> None:
        self.rows, self._key = rows, key
        self._search = Bisection(rows.height)

    @property
    def next(self) -> tuple[pl.DataFrame, str] | None:
        """What to send next, with its key. None: all has its answer."""
        part = self._search.part
        if part is None:
            return None
        first, behind = part
        if behind - first == self.rows.height:
            return self.rows, self._key
        key = uuid.uuid5(uuid.UUID(self._key), f"{first}-{behind}")
        return self.rows.slice(first, behind - first), str(key)

    @property
    def left(self) -> pl.DataFrame:
        """The rows without an answer."""
        part = self._search.part
        return self.rows.slice(part[0]) if part is not None else self.rows.clear()

    def took(self) -> None:
        self._search.took()

    def refuse(self, error: DataError) -> None:
        self._search.refuse(error)

    @property
    def refused_rows(self) -> int:
        return len(self._search.refused)

    @property
    def refused(self) -> list[RefusedRow]:
        """The rows that were refused alone."""
        return [
            RefusedRow(python_row(self.rows, each.row), "E0510", each.error.message)
            for each in self._search.refused
        ]


class Requests:
    """Sends requests. help: what may be done where the server refuses rows that may not be left out."""

    def __init__(
        self,
        client: HttpClient,
        config: HttpDestinationConfig,
        context: DestinationContext,
        help: str = "fix the data, or set error_handling: {on_error: dead_letter}",
    ) -> None:
        self._client, self._config, self._context, self._help = client, config, context, help

    async def send(self, request: Request) -> bool:
        """Send the next part of a request, and tell the request the outcome; whether the server took it. Raises
        DataError (E0510) if the server refuses it, and rows may not be left out."""
        part = request.next
        assert part is not None
        rows, key = part
        config = self._config
        content, kind = self._body(rows)
        headers = {"Content-Type": kind, config.key_header: key}
        answer = await self._client.ask(config.method, config.url, content=content, headers=headers)
        if answer.status_code < 300:
            request.took()
            return True
        why = _why(answer, config.url)
        if answer.status_code not in _ABOUT_ROWS:
            raise _request_error(answer, config.url)
        if not self._context.sift:
            raise self._refusal(rows, why)
        request.refuse(DataError(why, code="E0510", help=self._help))
        return False

    def _body(self, rows: pl.DataFrame) -> tuple[bytes, str]:
        lines = NdjsonText().encode(rows)
        if self._config.format == "ndjson":
            return lines, "application/x-ndjson"
        if self._config.batch_size == 1:
            return lines.rstrip(b"\n"), "application/json"
        return b"[" + lines.rstrip(b"\n").replace(b"\n", b",") + b"]", "application/json"

    def _refusal(self, rows: pl.DataFrame, why: str) -> DataError:
        subject = "a row" if rows.height == 1 else f"a batch of {rows.height} rows"
        text = ", ".join(f"{name}={value!r}" for name, value in python_row(rows).items())
        return DataError(
            f"{public_url(self._config.url)} refuses {subject}: {why}",
            code="E0510",
            step=self._context.step,
            notes=[f"{'the' if rows.height == 1 else 'the first'} row: {text[:400]}"],
            help=self._help,
        )


def _why(answer: httpx.Response, url: str) -> str:
    text = excerpt(answer)
    status = f"{answer.status_code} {answer.reason_phrase}".rstrip()
    return f"{status}: {text}" if text else status


def _request_error(answer: httpx.Response, url: str) -> SystemError_:
    return SystemError_(
        f"{public_url(url)} answered {_why(answer, url)}",
        code="E0604" if answer.status_code in (404, 410) else "E0611",
        help="look at 'url' and 'method'",
    )
