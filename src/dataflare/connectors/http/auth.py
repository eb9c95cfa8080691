"""Credentials that are made for each request, or asked for: signatures and OAuth 2.

Always true: a token is asked for once, and used until shortly before it expires; a token that the API refuses is
replaced once for a request. Secrets are in no message.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any
from urllib.parse import urlsplit

import httpx

from dataflare.connectors.http.auth_config import Auth
from dataflare.errors import Retry, SystemError_
from dataflare.security.redact import redact_pieces

_EARLY_S = 30.0
_DEFAULT_S = 300.0
"""How long a token is used whose answer does not say how long it lives."""


class Signed(httpx.Auth):
    """Signs each request with a secret. clock: seconds since 1970."""

    requires_request_body = True

    def __init__(self, auth: Auth, clock: Callable[[], float] = time.time) -> None:
        self._auth, self._clock = auth, clock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        auth, timestamp = self._auth, str(int(self._clock()))
        parts = {
            "method": request.method.encode(),
            "path": request.url.raw_path.partition(b"?")[0],
            "query": request.url.query,
            "timestamp": timestamp.encode(),
            "body": request.content,
            "body_sha256": hashlib.sha256(request.content).hexdigest().encode(),
        }
        signed = b"".join(
            parts[piece[1:-1]] if is_part else piece.encode() for is_part, piece in auth.sign_pieces
        )
        digest = hmac.digest((auth.secret or "").encode(), signed, auth.algorithm)
        text = digest.hex() if auth.encoding == "hex" else base64.b64encode(digest).decode()
        request.headers[auth.name or ""] = auth.prefix + text
        if auth.timestamp is not None:
            request.headers[auth.timestamp] = timestamp
        yield request


class Tokens(httpx.Auth):
    """Asks for a token of OAuth 2, and shows it."""

    requires_response_body = True

    def __init__(self, auth: Auth, step: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._auth, self._step, self._clock = auth, step, clock
        self._held = auth.held
        if self._held.refresh is None:
            self._held.refresh = auth.refresh_token
        self._asking = asyncio.Lock()

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        used = self._held.text
        if not used or self._clock() >= self._held.until:
            async with self._asking:
                if self._held.text == used:
                    answer = yield self._question()
                    await answer.aread()
                    self._take(answer)
        used = self._held.text
        request.headers["Authorization"] = f"Bearer {used}"
        answer = yield request
        if answer.status_code != 401:
            return
        async with self._asking:
            if self._held.text == used:
                answer = yield self._question()
                await answer.aread()
                self._take(answer)
        request.headers["Authorization"] = f"Bearer {self._held.text}"
        yield request

    def _question(self) -> httpx.Request:
        auth = self._auth
        form = {"grant_type": "client_credentials"}
        if self._held.refresh is not None:
            form = {"grant_type": "refresh_token", "refresh_token": self._held.refresh}
        form |= {"scope": auth.scope} if auth.scope else {}
        form |= auth.token_params
        headers = {"Accept": "application/json"}
        if auth.client_auth == "basic":
            pair = f"{auth.client_id}:{auth.client_secret or ''}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        else:
            form["client_id"] = auth.client_id or ""
            form |= {"client_secret": auth.client_secret} if auth.client_secret else {}
        return httpx.Request("POST", auth.token_url or "", data=form, headers=headers)

    def _take(self, answer: httpx.Response) -> None:
        parts = urlsplit(self._auth.token_url or "")
        place = f"{parts.scheme}://{parts.netloc}{parts.path}"
        found: Any = None
        try:
            found = answer.json()
        except ValueError:
            found = None
        fields = found if isinstance(found, dict) else {}
        token = fields.get("access_token")
        if answer.status_code != 200 or not isinstance(token, str) or not token:
            raise self._refused(place, answer.status_code, fields)
        self._held.text = token
        lives = fields.get("expires_in")
        seconds = float(lives) if isinstance(lives, int | float) else _DEFAULT_S
        self._held.until = self._clock() + max(seconds - _EARLY_S, seconds / 2)
        given = fields.get("refresh_token")
        if self._held.refresh is not None and isinstance(given, str) and given:
            self._held.refresh = given

    def _refused(self, place: str, status: int, fields: dict[str, Any]) -> SystemError_:
        said = " ".join(
            str(fields[name]) for name in ("error", "error_description") if name in fields
        )
        later = status >= 500 or status == 429
        return SystemError_(
            f"{place} gives no token: it answered {status}"
            + (f", {redact_pieces(said)}" if said else ""),
            code="E0611" if later else "E0606",
            step=self._step,
            retry=Retry.LATER if later else Retry.NEVER,
            help="look at token_url, client_id, client_secret, refresh_token and scope in 'auth'",
        )
