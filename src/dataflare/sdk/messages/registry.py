"""The client of a schema registry that speaks Confluent's protocol.

Always true: a schema's id never changes its meaning, so what was found is kept; a call that fails for a
reason that may pass is made again, then raised as an error that is worth a retry of the run; credentials are
never in an error. It blocks, so it is called on a thread.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from msgspec import Struct

from dataflare.errors import ConfigError, DataError, DataFlareError, Retry, SystemError_
from dataflare.sdk.messages.config import RegistryConfig

_JSON = "application/vnd.schemaregistry.v1+json"
_WAITS_S = (0.1, 0.5, 2.0)
"""How long to wait before a call is made again."""
_SHOWN = 300
_NO_SUBJECT, _NO_VERSION, _NO_SCHEMA = 40401, 40402, 40403
_DEPTH_MAX = 32


class Reference(Struct, frozen=True):
    """A schema that another one uses. name: how it does: a type of Avro, an import of Protobuf."""

    name: str
    subject: str
    version: int


class Registered(Struct, frozen=True):
    """A schema in the registry. type: AVRO, PROTOBUF or JSON. references: those that it uses."""

    id: int
    text: str
    type: str = "AVRO"
    references: tuple[Reference, ...] = ()


class RegistryClient:
    """base: the folder that relative paths of certificates start from. sleep and transport: tests pass
    their own."""

    def __init__(
        self,
        config: RegistryConfig,
        step: str,
        base: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._config, self._step, self._sleep = config, step, sleep
        self._by_id: dict[int, Registered] = {}
        self._by_version: dict[tuple[str, int], Registered] = {}
        self._lock = threading.Lock()
        headers, auth = {"Accept": _JSON}, None
        if config.auth is not None and config.auth.type == "bearer":
            headers["Authorization"] = f"Bearer {config.auth.token}"
        elif config.auth is not None:
            auth = httpx.BasicAuth(str(config.auth.username), str(config.auth.password))
        self._client = httpx.Client(
            headers=headers,
            auth=auth,
            timeout=config.timeout,
            verify=self._context(base),
            transport=transport,
        )

    def schema(self, id_: int) -> Registered:
        """The schema of an id. Raises DataError (E0571) where the registry has none."""
        with self._lock:
            if id_ not in self._by_id:
                answer = self._call("GET", f"/schemas/ids/{id_}", missing=(_NO_SCHEMA,))
                if answer is None:
                    raise DataError(
                        f"the registry {self._config.url} has no schema with the id {id_}",
                        code="E0571",
                        step=self._step,
                        help="see whether the messages were written with another registry",
                    )
                self._by_id[id_] = self._registered(answer, id_)
            return self._by_id[id_]

    def latest(self, subject: str) -> Registered | None:
        """The newest schema of a subject, None if there is no such subject."""
        return self._version(subject, "latest")

    def texts(self, schema: Registered) -> list[tuple[str, str]]:
        """The name and the text of each schema that it refers to, directly or not, each after those that it
        uses itself."""
        found: dict[tuple[str, int], tuple[str, str]] = {}
        self._collect(schema, found, 0)
        return [*found.values()]

    def find(self, subject: str, text: str, type_: str) -> Registered | None:
        """The schema if the subject has it."""
        path, body = f"/subjects/{quote(subject, safe='')}", _body(text, type_)
        answer = self._call("POST", path, body, missing=(_NO_SUBJECT, _NO_SCHEMA))
        return None if answer is None else self._registered(answer, int(answer["id"]))

    def register(self, subject: str, text: str, type_: str) -> int:
        """The id of a schema under a subject; it becomes the newest version if it is not there. Raises
        ConfigError (E0424) where the registry finds it incompatible with what is there."""
        path = f"/subjects/{quote(subject, safe='')}/versions"
        answer = self._call("POST", path, _body(text, type_))
        assert answer is not None
        try:
            return int(answer["id"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd(path, "it has no id") from error

    def close(self) -> None:
        self._client.close()

    def _version(self, subject: str, version: str) -> Registered | None:
        path = f"/subjects/{quote(subject, safe='')}/versions/{version}"
        answer = self._call("GET", path, missing=(_NO_SUBJECT, _NO_VERSION))
        return None if answer is None else self._registered(answer, int(answer.get("id", 0)))

    def _collect(
        self, schema: Registered, found: dict[tuple[str, int], tuple[str, str]], depth: int
    ) -> None:
        if depth > _DEPTH_MAX:
            raise self._odd("/subjects", f"references are deeper than {_DEPTH_MAX}")
        for each in schema.references:
            key = (each.subject, each.version)
            if key in found:
                continue
            if key not in self._by_version:
                referred = self._version(each.subject, str(each.version))
                if referred is None:
                    raise DataError(
                        f"the registry {self._config.url} has no version {each.version} of "
                        f"'{each.subject}', which another schema refers to",
                        code="E0571",
                        step=self._step,
                        help="register it again",
                    )
                self._by_version[key] = referred
            self._collect(self._by_version[key], found, depth + 1)
            found[key] = (each.name, self._by_version[key].text)

    def _registered(self, answer: dict[str, Any], id_: int) -> Registered:
        try:
            references = tuple(
                Reference(str(each["name"]), str(each["subject"]), int(each["version"]))
                for each in answer.get("references") or ()
            )
            return Registered(
                id_, str(answer["schema"]), answer.get("schemaType") or "AVRO", references
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd(f"/schemas/ids/{id_}", "it has no schema") from error

    def _call(
        self, method: str, path: str, body: Any = None, *, missing: tuple[int, ...] = ()
    ) -> dict[str, Any] | None:
        """The answer's object; None where it says one of the codes in `missing`."""
        for wait in (*_WAITS_S, None):
            try:
                return self._call_once(method, path, body, missing)
            except DataFlareError as error:
                if wait is None or error.retry is Retry.NEVER:
                    raise
            self._sleep(wait)
        raise AssertionError

    def _call_once(
        self, method: str, path: str, body: Any, missing: tuple[int, ...]
    ) -> dict[str, Any] | None:
        url = self._config.url + path
        try:
            answer = self._client.request(
                method, url, json=body, headers={"Content-Type": _JSON} if body else None
            )
        except httpx.TimeoutException as error:
            raise self._error(
                f"the registry {self._config.url} did not answer within {self._config.timeout:g} s",
                "E0608",
                "see whether it works, or raise its `timeout`",
                Retry.LATER,
            ) from error
        except httpx.HTTPError as error:
            raise self._unreached(error) from error
        try:
            data = answer.json()
        except ValueError:
            data = None
        if answer.is_success and isinstance(data, dict):
            return data
        said = data if isinstance(data, dict) else {}
        if answer.status_code == 404 and said.get("error_code") in missing:
            return None
        raise self._refused(path, answer, said)

    def _refused(self, path: str, answer: httpx.Response, said: dict[str, Any]) -> DataFlareError:
        status, url = answer.status_code, self._config.url
        text = " ".join(str(said.get("message") or answer.text).split())[:_SHOWN]
        subject = path.split("/")[2] if path.startswith("/subjects/") else ""
        match status:
            case 401:
                return self._error(
                    f"the registry {url} does not accept the credentials", "E0606", "look at `auth`"
                )
            case 403:
                return self._error(
                    f"the registry {url} does not allow this: {text}", "E0602",
                    f"give the user the right to use {path}",
                )  # fmt: skip
            case 409:
                return ConfigError(
                    f"the registry {url} finds the schema incompatible with the newest one of "
                    f"'{subject}'",
                    code="E0424",
                    step=self._step,
                    notes=[f"it says: {text}"] if text else [],
                    help="change the columns so that the schemas fit, or the compatibility of the subject",
                )
            case 422:
                return ConfigError(
                    f"the registry {url} does not take the schema for '{subject}'",
                    code="E0424",
                    step=self._step,
                    notes=[f"it says: {text}"] if text else [],
                    help="look at what it says",
                )
        if status == 429 or status >= 500:
            return self._error(
                f"the registry {url} answered {status}: {text}",
                "E0611",
                "run again later",
                Retry.LATER,
            )
        return self._odd(path, f"it is {status}: {text}")

    def _unreached(self, error: httpx.HTTPError) -> DataFlareError:
        why = str(error) or type(error).__name__
        if "CERTIFICATE" in why or "SSL" in why:
            return self._error(
                f"no TLS connection to the registry {self._config.url}: {why}",
                "E0609",
                "name the certificate that signed its own in `tls: {ca: ...}`",
            )
        return self._error(
            f"no connection to the registry {self._config.url}: {why}",
            "E0607",
            "see whether it runs and the address is right",
            Retry.LATER,
        )

    def _odd(self, path: str, problem: str) -> DataFlareError:
        return self._error(
            f"the registry {self._config.url} gave an answer that cannot be used to {path}: {problem}",
            "E0612",
            "see whether the address is that of a schema registry",
        )

    def _error(
        self, message: str, code: str, help: str, retry: Retry = Retry.NEVER
    ) -> SystemError_:
        return SystemError_(message, code=code, step=self._step, help=help, retry=retry)

    def _context(self, base: Path) -> ssl.SSLContext | bool:
        tls = self._config.tls
        if tls is None:
            return True
        path = ""
        try:
            path = str(base / tls.ca) if tls.ca else ""
            context = ssl.create_default_context(cafile=path or None)
            if tls.certificate is not None:
                path = str(base / tls.certificate)
                context.load_cert_chain(path, str(base / tls.key) if tls.key else None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificates for the registry cannot be used: {path}: {error}",
                code="E0425",
                step=self._step,
                help="name PEM files, from the workflow file's folder",
            ) from error
        return context


def _body(text: str, type_: str) -> dict[str, Any]:
    return {"schema": text} | ({} if type_ == "AVRO" else {"schemaType": type_})
