"""The HTTP client of a step: limits the rate, waits when the server asks for it, and converts
errors.

Always true: requests never begin faster than the rate limit allows; if a server answers 429, 503 or
403 with a time (`Retry-After`, or a spent rate limit and its reset time), the error says when to
try again; credentials are never sent to another server, because only redirects to the same server
are followed.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from dataflare.connectors.http.auth import Signed, Tokens
from dataflare.connectors.http.config import Auth, HttpConfig
from dataflare.errors import ConfigError, DataFlareError, Retry, SystemError_
from dataflare.resilience.backoff import backoff_s
from dataflare.resilience.policy import AFTER_MAX_S
from dataflare.sdk.in_flight import limit_of
from dataflare.sdk.tracing import HEADER, Requests
from dataflare.security.redact import redact_pieces

_TOO_MANY = (403, 429, 503)
"""Statuses of servers that got too many requests; 403 only if the answer says when to try again."""
_EPOCH_MIN = 1e9
_REDIRECTS_MAX = 5
_BODY_SHOWN = 200
_AT_ONCE = 64
_PAUSE_S, _PAUSE_MAX_S = 0.1, 5.0
_MOVED = (301, 302, 303, 307, 308)


class HttpClient:
    """The requests of one step. clock returns seconds, sleep waits for seconds; tests pass their
    own. waits_max: how often a request is repeated after the time that the server names, or after a pause where it says only
    that there are too many, before it becomes an error. It is for one request among many, whose error would discard the others. body_max: how many bytes an
    answer may have, once unpacked. at_once: how many requests may be under way at best; fewer are while the server has too
    much to do, and all steps that ask it share that.
    """

    def __init__(
        self,
        config: HttpConfig,
        step: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        waits_max: int = 0,
        body_max: int = 256 << 20,
        at_once: int = _AT_ONCE,
    ) -> None:
        self._body_max = body_max
        self._config, self._step, self._clock, self._sleep = config, step, clock, sleep
        self._next_at, self._waits_max = 0.0, waits_max
        self.requests = Requests()
        headers, self._key = dict(config.headers), {}
        auth: httpx.Auth | None = None
        match config.auth:
            case Auth(type="bearer", token=token):
                headers["Authorization"] = f"Bearer {token}"
            case Auth(type="basic", username=str(name), password=str(password)):
                auth = httpx.BasicAuth(name, password)
            case Auth(type="header", name=str(name), value=str(value)):
                headers[name] = value
            case Auth(type="query", name=str(name), value=str(value)):
                self._key = {name: value}
            case Auth(type="oauth2"):
                auth = Tokens(config.auth, step)
            case Auth(type="hmac"):
                auth = Signed(config.auth)
        self._in_flight = limit_of(step, urlsplit(config.url).netloc.rpartition("@")[2], at_once)
        self._client = httpx.AsyncClient(headers=headers, auth=auth, timeout=config.timeout)

    async def ask(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer, with any status below 500 that is not about credentials or rates. Raises
        SystemError_ (E0602, E0606 to E0608, E0611) and ConfigError (E0415)."""
        target = httpx.URL(url)
        query = {**dict(target.params), **(params or {}), **self._key}
        for _ in range(_REDIRECTS_MAX):
            answer = await self._request(
                method, target, query, json=json, content=content, headers=headers
            )
            if answer.status_code not in _MOVED:
                return self._checked(answer, url)
            target, query = self._redirect_target(answer, target), {}
        raise self._error(f"{public_url(url)} redirects without end", "E0611")

    async def _request(
        self,
        method: str,
        url: httpx.URL,
        params: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None,
        **body: Any,
    ) -> httpx.Response:
        waits = 0
        while True:
            await self._pace()
            try:
                with self.requests.one({"step": self._step}) as trace:
                    request = self._client.build_request(
                        method,
                        url.copy_with(params=params) if params else url,
                        headers=self._with_trace(headers, trace),
                        **body,
                    )
                    async with self._in_flight.turn(len(request.content)) as turn:
                        answer = await self._client.send(request, stream=True)
                        await self._read(answer)
                        turn.failed = answer.status_code in (429, 503)
            except httpx.TimeoutException as error:
                raise self._error(
                    f"{public_url(str(url))} did not answer within {self._config.timeout:g} s",
                    "E0608",
                    help="check whether the server works, or raise 'timeout'",
                    retry=Retry.LATER,
                ) from error
            except httpx.HTTPError as error:
                raise self._connection_error(str(url), error) from error
            wait = _wait_of(answer)
            if wait is None and answer.status_code == 429 and self._waits_max:
                wait = backoff_s(_PAUSE_S, _PAUSE_MAX_S, waits + 1) * (0.5 + random.random() / 2)
            if wait is None:
                return answer
            if wait > AFTER_MAX_S:
                raise self._error(
                    f"{public_url(str(url))} accepts the next request only in {wait:.0f} s",
                    "E0611",
                    help="run again later, or set 'rate_limit'",
                    retry=Retry.LATER,
                    retry_after_s=wait,
                )
            if waits >= self._waits_max:
                return answer
            waits += 1
            await self._sleep(wait)

    async def _read(self, answer: httpx.Response) -> None:
        """Read the body of an answer. Raises SystemError_ (E0562) as soon as it is too large."""
        parts, size = [], 0
        try:
            async for part in answer.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > self._body_max:
                    raise self._error(
                        f"the answer of {public_url(str(answer.url))} has more than {self._body_max:,} bytes, which is what "
                        "'resources.memory' allows (a quarter of it)",
                        "E0562",
                        help="ask for smaller pages ('pagination', 'params'), or raise 'resources.memory' in the settings",
                    )
        finally:
            await answer.aclose()
        answer._content = b"".join(parts)  # what `aread` does, without a bound

    def _with_trace(
        self, headers: Mapping[str, str] | None, trace: str | None
    ) -> Mapping[str, str] | None:
        """The headers of a request; what the options say of `traceparent` stays."""
        if trace is None or HEADER in self._client.headers:
            return headers
        return {**(headers or {}), HEADER: trace}

    async def _pace(self) -> None:
        rate = self._config.rate_limit
        if rate is None:
            return
        time_now = self._clock()
        turn = max(time_now, self._next_at)
        self._next_at = turn + 1 / rate
        if turn > time_now:
            await self._sleep(turn - time_now)

    def _redirect_target(self, answer: httpx.Response, url: httpx.URL) -> httpx.URL:
        target = urljoin(str(url), answer.headers.get("location", ""))
        if origin_of(target) != origin_of(str(url)):
            raise other_server(f"{public_url(str(url))} redirects", target, self._step)
        return httpx.URL(target)

    def _checked(self, answer: httpx.Response, url: str) -> httpx.Response:
        status = answer.status_code
        message = f"{public_url(url)} answered {status} {answer.reason_phrase}".rstrip()
        notes = [f"it says: {text}"] if (text := excerpt(answer)) else []
        wait = _wait_of(answer)
        if status == 401:
            raise self._error(f"{message}: it does not accept the credentials", "E0606", notes=notes,
                              help="look at 'auth' and 'headers'")  # fmt: skip
        if status == 403 and wait is None:
            raise self._error(f"{message}: the credentials may not do this", "E0602", notes=notes)
        if status >= 500 or status in _TOO_MANY:  # a 403 without a time was handled above
            raise self._error(message, "E0611", notes=notes, retry=Retry.LATER, retry_after_s=wait)
        return answer

    def _connection_error(self, url: str, error: httpx.HTTPError) -> DataFlareError:
        why = redact_pieces(str(error)) or type(error).__name__
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
            return ConfigError(
                f"{public_url(url)} cannot be requested: {why}",
                code="E0415",
                step=self._step,
                help="fix the address: http://host/path or https://host/path",
            )
        if "CERTIFICATE" in why or "SSL" in why:
            return self._error(f"no TLS connection to {public_url(url)}: {why}", "E0609")
        return self._error(
            f"no connection to {public_url(url)}: {why}",
            "E0607",
            help="see whether the server runs and the address is right",
            retry=Retry.LATER,
        )

    def _error(self, message: str, code: str, **options: Any) -> SystemError_:
        return SystemError_(message, code=code, step=self._step, **options)

    async def aclose(self) -> None:
        await self._client.aclose()


def public_url(url: str) -> str:
    """The address without its secret parts: credentials and the query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def excerpt(answer: httpx.Response) -> str:
    """The beginning of an answer's text, on one line, without secrets."""
    text = " ".join(answer.text[: 4 * _BODY_SHOWN].split())
    return redact_pieces(text[:_BODY_SHOWN])


def other_server(subject: str, target: str, step: str) -> ConfigError:
    """The error for an address of another server than the configured one."""
    return ConfigError(
        f"{subject} to another server: {public_url(target)}",
        code="E0415",
        step=step,
        help="put that address into 'url', if you trust it with your credentials",
    )


def origin_of(url: str) -> tuple[str, str, int | None]:
    """The server in an address: scheme, host and port."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def _wait_of(answer: httpx.Response) -> float | None:
    """The seconds to wait that a server names when it got too many requests, if it names them."""
    if answer.status_code not in _TOO_MANY:
        return None
    wait = _retry_after(answer)
    if wait is not None:
        return wait
    for prefix in ("x-ratelimit", "x-rate-limit", "ratelimit"):
        if answer.headers.get(f"{prefix}-remaining", "").strip() == "0":
            reset = answer.headers.get(f"{prefix}-reset", "").strip()
            if re.fullmatch(r"\d+(\.\d+)?", reset):
                # Either seconds since 1970, as GitHub sends it, or seconds from now.
                seconds = float(reset)
                return max(0.0, seconds - time.time()) if seconds > _EPOCH_MIN else seconds
    return None


def _retry_after(answer: httpx.Response) -> float | None:
    """The seconds in the header Retry-After, if there is one."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, when.timestamp() - time.time())
