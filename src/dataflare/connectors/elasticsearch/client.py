"""The requests of one step, and what goes wrong with them.

Always true: a request that may have reached a server is not sent to another one; a message has the servers' addresses
without users, and no credentials.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import orjson

from dataflare.connectors.elasticsearch.config import ElasticsearchConfig
from dataflare.errors import ConfigError, DataFlareError, Retry, SystemError_
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.tls import PasswordTls
from dataflare.security.redact import redact_pieces

_SHOWN = 300
_NDJSON = "application/x-ndjson"
READ_ONLY = "cluster_block_exception"


class Answer:
    """What a server said. status: of HTTP. content: as it came."""

    def __init__(self, status: int, content: bytes, retry_after: str = "") -> None:
        self.status, self.content, self._retry_after = status, content, retry_after

    @property
    def data(self) -> Any:
        """Its JSON. Raises ValueError if it is none."""
        return orjson.loads(self.content)

    @property
    def retry_after_s(self) -> float | None:
        return float(self._retry_after) if self._retry_after.isdigit() else None

    @property
    def error(self) -> tuple[str, str]:
        """The kind of an error, and its text."""
        try:
            data = self.data
        except ValueError:
            return "", " ".join(self.content[: 4 * _SHOWN].decode(errors="replace").split())
        said = data.get("error", data) if isinstance(data, dict) else data
        return reason_of(said)


class Client:
    """One step's way to the servers. shown: where they are, for messages."""

    def __init__(self, config: ElasticsearchConfig, context: ConnectorContext, name: str) -> None:
        self._config, self._context, self._name = config, context, name
        self._urls = config.urls
        self._first = 0
        headers = {"Accept": "application/json", **config.headers}
        if config.api_key is not None:
            headers["Authorization"] = f"ApiKey {config.api_key}"
        login = config.login
        self._http = httpx.AsyncClient(
            headers=headers,
            auth=None if login is None else httpx.BasicAuth(*login),
            timeout=config.timeout,
            verify=self._trust(),
            trust_env=False,
        )

    @property
    def shown(self) -> str:
        return f"{self._name} at {self._config.servers}"

    @property
    def step(self) -> str:
        return self._context.step

    def _trust(self) -> ssl.SSLContext | bool:
        if not any(url.startswith("https") for url in self._urls):
            return False
        tls = self._config.tls or PasswordTls.model_validate({})
        try:
            ca = None if tls.ca is None else str(self._context.path(tls.ca))
            made = ssl.create_default_context(cafile=ca)
            if tls.certificate is not None and tls.key is not None:
                made.load_cert_chain(
                    self._context.path(tls.certificate),
                    self._context.path(tls.key),
                    tls.key_password or "",
                )
        except (OSError, ssl.SSLError) as error:
            raise self.failure(
                f"no TLS connection to {self.shown}: {redact_pieces(str(error))}",
                "E0609",
                help="look at the files of 'tls'",
            ) from error
        made.check_hostname = tls.check_name
        return made

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        lines: bytes | None = None,
        fine: Sequence[int] = (),
        doing: str = "",
    ) -> Answer:
        """The answer. fine: statuses of errors that the caller handles. doing: what it is for, for messages. Raises
        SystemError_ for others, and for a server that is away, slow, or not to be trusted."""
        content, kind = lines, _NDJSON
        if json is not None:
            content, kind = orjson.dumps(json, option=orjson.OPT_NON_STR_KEYS), "application/json"
        headers = {} if content is None else {"Content-Type": kind}
        answer = await self._sent(method, path, params=params, content=content, headers=headers)
        if answer.status < 300 or answer.status in fine:
            return answer
        if answer.status < 400:
            raise self.strange(f"{doing or 'go on'}: it redirects, with {answer.status}")
        raise self.refusal(answer, doing)

    async def _sent(self, method: str, path: str, **request: Any) -> Answer:
        """Ask the servers in turn until one is reached."""
        problem: Exception | None = None
        for turn in range(len(self._urls)):
            place = (self._first + turn) % len(self._urls)
            try:
                answer = await self._http.request(method, self._urls[place] + path, **request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                problem = error
                if "CERTIFICATE" in str(error) or "SSL" in str(error):
                    break
                continue
            except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
                # A server that wants a certificate says so after the handshake, where httpx does not expect it.
                self._first = place + 1
                raise self._away(error) from error
            self._first = place
            retry_after = answer.headers.get("retry-after", "").strip()
            return Answer(answer.status_code, answer.content, retry_after)
        assert problem is not None
        raise self._away(problem) from problem

    def _away(self, error: Exception) -> DataFlareError:
        why = redact_pieces(str(error)) or type(error).__name__
        if isinstance(error, httpx.TimeoutException):
            return self.failure(
                f"{self.shown} did not answer within {self._config.timeout:g} s",
                "E0608",
                help="check whether the server works, or raise 'timeout'",
                retry=Retry.LATER,
            )
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
            return ConfigError(
                f"{self.shown} cannot be asked: {why}",
                code="E0415",
                step=self.step,
                help="fix 'connection': https://user:password@host:9200",
            )
        if isinstance(error, ssl.SSLError) or "CERTIFICATE" in why or "SSL" in why:
            return self.failure(
                f"no TLS connection to {self.shown}: {why}",
                "E0609",
                help="name the certificates to trust: tls: {ca: ca.pem}; a server without TLS is http://",
            )
        return self.failure(
            f"no connection to {self.shown}: {why}",
            "E0607",
            help="see whether the server runs and the address is right; with TLS it is https://",
            retry=Retry.LATER,
        )

    def refusal(self, answer: Answer, doing: str = "") -> DataFlareError:
        """The error for an answer with a status of 400 or more."""
        kind, text = answer.error
        said = f"{self.shown} answered {answer.status}{f' to {doing}' if doing else ''}"
        notes = [f"it says: {redact_pieces(text)[:_SHOWN]}"] if text else []
        return self.failed(answer.status, kind, said, notes, answer.retry_after_s)

    def failed(
        self,
        status: int,
        kind: str,
        said: str,
        notes: Sequence[str],
        retry_after_s: float | None = None,
    ) -> DataFlareError:
        """The error for a request, or for one of its documents, that failed with a status and a kind."""
        if status == 401:
            return self.failure(f"{said}: it does not accept the login", "E0606", notes=notes,
                                help="look at user and password, or 'api_key'")  # fmt: skip
        if kind == READ_ONLY:
            return self.failure(
                f"{said}: the index takes no documents now",
                "E0603",
                notes=notes,
                help="the server blocks writing, as when its disk is almost full: make room there",
                retry=Retry.LATER,
            )
        if status == 403:
            return self.failure(f"{said}: the user lacks a right", "E0602", notes=notes,
                                help="grant the user the right")  # fmt: skip
        if status == 404:
            return self.failure(f"{said}: it is not there", "E0604", notes=notes,
                                help="look at 'index' and 'pipeline'")  # fmt: skip
        if status in (408, 429) or status >= 500:
            return self.failure(said, "E0611", notes=notes, retry=Retry.LATER,
                                retry_after_s=retry_after_s)  # fmt: skip
        return self.failure(
            said, "E0600", notes=notes, help="fix the cause that the server reports, and run again"
        )

    def strange(self, what: str) -> DataFlareError:
        """The error for an answer that is not one of such a server."""
        return self.failure(
            f"{self.shown} gave an answer that cannot be used to {what}",
            "E0612",
            help="check whether 'connection' is the address of Elasticsearch or OpenSearch",
        )

    def failure(self, message: str, code: str, **options: Any) -> SystemError_:
        return SystemError_(message, code=code, step=self.step, **options)

    async def server(self) -> tuple[str, str]:
        """The kind of the server, elasticsearch or opensearch, and its version."""
        answer = await self.ask("GET", "/", doing="a first question")
        try:
            version = answer.data["version"]
            return str(version.get("distribution", "elasticsearch")), str(version["number"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.strange("tell its version") from error

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        await self._http.aclose()


def reason_of(said: Any) -> tuple[str, str]:
    """The kind and the text of an error of the server, with what caused it."""
    if not isinstance(said, dict):
        return "", str(said)
    kind, text = str(said.get("type", "")), str(said.get("reason", ""))
    cause = said.get("caused_by")
    roots = said.get("root_cause")
    if isinstance(roots, list) and roots and not text:
        kind, text = reason_of(roots[0])
    if isinstance(cause, dict) and cause.get("reason"):
        text += f": {cause['reason']}"
    return kind, " ".join((text or kind or str(said)).split())
