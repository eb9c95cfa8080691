"""The HTTP server of a webhook.

Always true: a status of success means that the messages of the request are on disk; nothing of a request that was
refused is in the log.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy

from dataflare.connectors.webhook.config import WebhookConfig
from dataflare.connectors.webhook.signatures import is_signed
from dataflare.errors import DataFlareError
from dataflare.formats.json_values import BadJson, list_items
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.push.addresses import address_of, listening
from dataflare.sdk.push.blocks import Message
from dataflare.sdk.push.inbox import Inbox
from dataflare.sdk.push.log import LogFull
from dataflare.sdk.push.reader import Listener
from dataflare.sdk.threads import in_thread
from dataflare.sdk.tracing import HEADER, trace_in

_CLOSING_S = 5.0
_READ_BYTES = 64 << 10
_ASK_AGAIN_S = 1


class _Refused(Exception):
    """The answer to a request that is not taken."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        self.status, self.why = status, why
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class WebhookListener(Listener):
    def __init__(self, config: WebhookConfig, context: ConnectorContext) -> None:
        self._config, self._context = config, context
        self._runner: web.ServerRunner | None = None
        self._inbox: Inbox | None = None

    async def start(self, inbox: Inbox) -> None:
        self._inbox = inbox
        tls = self._config.tls
        ssl_context = None if tls is None else await in_thread(tls.context, self._context)
        server = web.Server(self._answer, access_log=None, auto_decompress=False)
        self._runner = web.ServerRunner(server, shutdown_timeout=_CLOSING_S)
        await self._runner.setup()
        address = address_of(self._config.listen)
        site = web.TCPSite(
            self._runner,
            address.host or None,
            address.port,
            ssl_context=ssl_context,
            reuse_address=True,
        )
        await listening(site.start(), str(address), self._context.step)

    async def aclose(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    # -- a request ---------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        try:
            return await self._take(request)
        except _Refused as refused:
            answer = web.Response(
                status=refused.status, text=refused.why + "\n", headers=refused.headers
            )
            # What was not read of the body is not taken for another request.
            answer.force_close()
            return answer

    async def _take(self, request: web.BaseRequest) -> web.Response:
        config = self._config
        if request.path != config.path:
            raise _Refused(404, "there is nothing at this path")
        if request.method == hdrs.METH_GET and config.challenge is not None:
            text = request.query.get(config.challenge)
            if text is not None:
                return web.Response(text=text)
        if request.method not in config.methods:
            allowed = ", ".join(config.methods)
            raise _Refused(405, f"use {allowed}", Allow=allowed)
        self._check_auth(request)
        body = await self._body(request)
        if config.signature is not None and not is_signed(
            config.signature, _lowered(request.headers), body, time.time()
        ):
            raise _Refused(401, "the signature is missing or wrong")
        rows = self._rows(_unpacked(body, request, config.max_body))
        beside = self._beside(request)
        messages: list[Message] = [[row, *beside] for row in rows]
        num_bytes = sum(map(len, rows)) + len(rows) * len(repr(beside))
        if num_bytes > config.log.max_size // 4:
            raise _Refused(413, "the body has too many rows")
        assert self._inbox is not None
        try:
            await self._inbox.put(messages, num_bytes, waits=False)
        except LogFull:
            self._inbox.warn("requests were refused with 503, because the log was full")
            raise _Refused(
                503, "there is no room now: send it again", Retry_After=str(_ASK_AGAIN_S)
            ) from None
        except DataFlareError:
            raise _Refused(
                503, "it could not be stored: send it again", Retry_After=str(_ASK_AGAIN_S)
            ) from None
        return web.Response(status=config.status)

    def _check_auth(self, request: web.BaseRequest) -> None:
        auth = self._config.auth
        if auth is not None and not auth.are_in(request.headers, request.query):
            scheme = {"bearer": "Bearer", "basic": 'Basic realm="dataflare"'}.get(auth.type)
            headers = {} if scheme is None else {"WWW_Authenticate": scheme}
            raise _Refused(401, "the credentials are missing or wrong", **headers)

    async def _body(self, request: web.BaseRequest) -> bytes:
        most = self._config.max_body
        too_large = f"a body may have {most:,} bytes"
        if request.content_length is not None and request.content_length > most:
            raise _Refused(413, too_large)
        body = bytearray()
        try:
            async with asyncio.timeout(self._config.timeout):
                while part := await request.content.read(_READ_BYTES):
                    body += part
                    if len(body) > most:
                        raise _Refused(413, too_large)
        except TimeoutError:
            raise _Refused(408, "the body did not come in time") from None
        return bytes(body)

    def _rows(self, body: bytes) -> Sequence[bytes]:
        """The messages of a body. What is not JSON at all is refused: only its sender can fix it."""
        config = self._config
        if config.format == "json":
            body = body.removeprefix(BOM_UTF8)
        rows: Sequence[bytes] = [body]
        try:
            if config.rows == "list":
                parsed = orjson.loads(body)
                if not isinstance(parsed, list):
                    raise _Refused(400, "the body is not a JSON list")
                rows = list_items(body)
                if not all(isinstance(each, dict) for each in parsed):
                    raise _Refused(400, "the list has items that are not JSON objects")
                return rows
            if config.rows == "lines":
                rows = [line for line in body.split(b"\n") if line.strip()]
            if config.format == "json" and not all(
                isinstance(orjson.loads(row), dict) for row in rows
            ):
                raise _Refused(400, f"{_subject(config.rows)} not a JSON object")
        except (orjson.JSONDecodeError, BadJson) as error:
            raise _Refused(400, f"the body is not JSON: {error}") from None
        return rows

    def _beside(self, request: web.BaseRequest) -> Message:
        """What a message has beside its value. Headers are kept only where they are read."""
        config = self._config
        headers = None
        if "headers" in config.metadata or config.format == "cloudevents":
            headers = [
                self._header(text, value)
                for name, value in request.raw_headers
                if (text := name.decode("latin-1")).lower() not in self._secret_headers
            ]
        _, _, query = request.path_qs.partition("?")
        is_secret = config.auth is not None and config.auth.type == "query"
        kept = None if is_secret or not query else query
        now_us = time.time_ns() // 1000
        trace = trace_in(request.headers.get(HEADER))
        return [now_us, request.method, request.path, kept, headers, request.remote, trace]

    def _header(self, name: str, value: bytes) -> list[Any]:
        """A header as the log has it. Attributes of CloudEvents are as their HTTP binding reads them: in any case, and
        percent-encoded where they are not ASCII."""
        if self._config.format == "cloudevents" and name.lower().startswith("ce-"):
            return [name.lower(), unquote_to_bytes(value)]
        return [name, value]

    @property
    def _secret_headers(self) -> set[str]:
        auth, names = self._config.auth, {"authorization", "cookie"}
        return {*names, auth.name.lower()} if auth is not None and auth.name else names


def _subject(rows: str) -> str:
    return "a line is" if rows == "lines" else "the body is"


def _lowered(headers: CIMultiDictProxy[str]) -> Mapping[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _unpacked(body: bytes, request: web.BaseRequest, most: int) -> bytes:
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding != "gzip":
        raise _Refused(415, "a body may be packed with gzip", Accept_Encoding="gzip")
    unpacking = zlib.decompressobj(31)
    try:
        unpacked = unpacking.decompress(body, most + 1)
    except zlib.error:
        raise _Refused(400, "the body is not gzip") from None
    if len(unpacked) > most:
        raise _Refused(413, f"a body may have {most:,} bytes")
    if not unpacking.eof or unpacking.unused_data:
        raise _Refused(400, "the body is not one whole gzip stream")
    return unpacked
