"""Who is told of alerts: a webhook, mail, Slack, PagerDuty, a command. Options, and what is sent.

`send` blocks, and raises SystemError_: worth retrying, or not. Nothing secret is in an error or a repr.
"""

from __future__ import annotations

import contextlib
import html
import json
import shlex
import socket
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Struct, field
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dataflare.errors import ConfigError, Retry, SystemError_
from dataflare.model.units import Duration
from dataflare.observability.measures import utc
from dataflare.observability.tries import Overdue, Try, run_program
from dataflare.resilience.policy import AFTER_MAX_S

if TYPE_CHECKING:
    from email.message import Message

    from dataflare.observability.alerts import Event

_ANSWER_MAX, _READ_MAX = 300, 4096
_SECRET_MIN = 5
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})


class Notice(Struct, frozen=True):
    """What is told. key: the same for all events of one alert, by which receivers know it again. has_it: those of several
    receivers that a try has told, so that the next try tells the others."""

    event: Event
    workflow: str
    run_id: str
    host: str
    has_it: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        return f"dataflare/{self.workflow}/{self.event.rule.name}"

    @property
    def title(self) -> str:
        """`firing: behind of workflow orders`."""
        return f"{self.event.status}: {self.event.rule.name} of workflow {self.workflow}"

    def to_json(self) -> dict[str, Any]:
        event, rule = self.event, self.event.rule
        return {
            "status": event.status,
            "alert": rule.name,
            "severity": rule.severity,
            "workflow": self.workflow,
            "run": self.run_id,
            "step": event.step or None,
            "when": rule.condition.text,
            "value": event.value,
            "message": event.message,
            "since": utc(event.since),
            "at": utc(event.at),
            "host": self.host,
            "key": self.key,
        }


class Notifier(BaseModel):
    """Options of one notifier, and how it tells."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True
    )
    secret_options: ClassVar[tuple[str, ...]] = ()
    """Options whose whole text is a secret, whatever their name."""

    _waited_for: ClassVar[str] = "it did not answer"

    timeout: Duration = Field(default=10.0, gt=0, le=60, description="for the whole of one try")

    @property
    def kind(self) -> str:
        return str(getattr(self, "type"))  # noqa: B009 - each subclass has its own Literal

    def send(self, notice: Notice, base: Path, limit: Try | None = None) -> None:
        """Tell it once. base: the folder that relative paths of it start from. limit: by which another thread can end it;
        None: `timeout` alone does."""
        try:
            self._send(notice, base, limit or Try(self.timeout))
        except Overdue:
            raise not_told(f"{self._waited_for} within {self.timeout:g} s") from None

    @abstractmethod
    def _send(self, notice: Notice, base: Path, limit: Try) -> None: ...


def _web(url: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_web = False
    if not is_web:
        raise ValueError("expected an address that begins with http:// or https://")
    return url


Url = Annotated[str, AfterValidator(_web)]


class Webhook(Notifier):
    """Sends JSON to an address."""

    type: Literal["webhook"]
    url: Url = Field(repr=False, description="where a POST with the JSON of the alert goes")
    headers: dict[str, str] = Field(default_factory=dict, repr=False, description="sent with it")

    def _send(self, notice: Notice, base: Path, limit: Try) -> None:
        _post(self.url, notice.to_json(), self.headers, limit)


class Slack(Notifier):
    """Sends a text to an incoming webhook of Slack, or of what takes the same (Mattermost, Rocket.Chat)."""

    secret_options: ClassVar[tuple[str, ...]] = ("url",)
    type: Literal["slack"]
    url: Url = Field(repr=False, description="the incoming webhook; it is a secret")
    channel: str | None = Field(
        default=None, description="where the receiver lets a message choose it"
    )

    def _send(self, notice: Notice, base: Path, limit: Try) -> None:
        sign = ":red_circle:" if notice.event.status == "firing" else ":large_green_circle:"
        lines = (f"{sign} *{_slack(notice.title)}*", _slack(notice.event.message))
        body = {"text": "\n".join(lines)}
        if self.channel is not None:
            body["channel"] = self.channel
        _post(self.url, body, {}, limit)


def _slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class PagerDuty(Notifier):
    """Opens an incident by version 2 of PagerDuty's Events API, and resolves it."""

    secret_options: ClassVar[tuple[str, ...]] = ("routing_key",)
    type: Literal["pagerduty"]
    routing_key: str = Field(repr=False, min_length=1, description="the integration key; a secret")
    url: Url = Field(
        default="https://events.pagerduty.com/v2/enqueue", description="where events go"
    )

    def _send(self, notice: Notice, base: Path, limit: Try) -> None:
        event = notice.event
        body: dict[str, Any] = {
            "routing_key": self.routing_key,
            "event_action": "trigger" if event.status == "firing" else "resolve",
            "dedup_key": notice.key,
        }
        if event.status == "firing":
            body["payload"] = {
                "summary": f"{notice.workflow}: {event.message}"[:1024],
                "source": notice.host,
                "severity": _PAGERDUTY.get(event.rule.severity, "warning"),
                "timestamp": utc(event.at),
                "component": notice.workflow,
                "group": event.step or notice.workflow,
                "class": event.rule.name,
                "custom_details": notice.to_json(),
            }
        _post(self.url, body, {}, limit)


_PAGERDUTY = {"page": "critical", "critical": "critical", "error": "error", "info": "info"}


class Smtp(Notifier):
    """Sends mail."""

    type: Literal["smtp"]
    host: str = Field(description="the mail server")
    port: int | None = Field(default=None, ge=1, le=65535, description="by `tls`: 587, 465 or 25")
    tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="tls: from the first byte on; none: open text"
    )
    from_: str = Field(alias="from", description="the sender's address")
    to: str | list[str] = Field(description="an address, or several")
    username: str | None = Field(default=None, description="for a server that wants a login")
    password: str | None = Field(default=None, repr=False, description="of that user")

    @model_validator(mode="after")
    def _whole(self) -> Smtp:
        if (self.username is None) != (self.password is None):
            raise ValueError("'username' and 'password' belong together")
        if self.password is not None and self.tls == "none" and not _is_here(self.host):
            raise ValueError("'password' would be sent as open text: use 'tls: starttls' or 'tls'")
        for name, addresses in (("from", [self.from_]), ("to", self.addresses)):
            if not addresses or any("@" not in a or not a.isprintable() for a in addresses):
                raise ValueError(f"'{name}' needs an address such as ops@example.com")
        return self

    @property
    def addresses(self) -> list[str]:
        return [self.to] if isinstance(self.to, str) else self.to

    def _send(self, notice: Notice, base: Path, limit: Try) -> None:
        from dataflare.observability.mail import send_mail

        send_mail(self, notice, limit)


def _is_here(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


class Command(Notifier):
    """Starts a program. It gets the JSON of the alert on standard input, and DATAFLARE_ALERT_STATUS, _NAME, _SEVERITY,
    _WORKFLOW and _MESSAGE in its environment. There is no shell."""

    _waited_for: ClassVar[str] = "the command did not end"
    type: Literal["command"]
    command: str | list[str] = Field(description="the program and its arguments")

    @model_validator(mode="after")
    def _program(self) -> Command:
        if not self.words:
            raise ValueError("'command' needs a program")
        return self

    @property
    def words(self) -> list[str]:
        if not isinstance(self.command, str):
            return self.command
        try:
            return shlex.split(self.command)
        except ValueError as error:
            raise ValueError(f"'command' cannot be split into words: {error}") from None

    def _send(self, notice: Notice, base: Path, limit: Try) -> None:
        import os

        facts = notice.to_json()
        told = {
            f"DATAFLARE_ALERT_{name.upper()}": str(facts[key])
            for name, key in (
                *((key, key) for key in ("status", "severity", "workflow", "message")),
                ("name", "alert"),
            )
        }
        try:
            env = {**os.environ, **told}
            done = run_program(self.words, json.dumps(facts).encode(), env, base, limit)
        except OSError as error:
            raise not_told(
                f"the command cannot be started: {error.strerror}", later=False
            ) from None
        if done.status:
            said = answer_text(done.said)
            raise not_told(f"the command ended with {done.status}{': ' if said else ''}{said}")


KINDS: dict[str, type[Notifier]] = {
    "webhook": Webhook,
    "smtp": Smtp,
    "slack": Slack,
    "pagerduty": PagerDuty,
    "command": Command,
}


def check_allowed(notifier: Notifier, name: str, *, python: bool) -> None:
    """python: whether workflows may run code of their own here. Raises ConfigError (E0410)."""
    if isinstance(notifier, Command) and not python:
        raise ConfigError(
            f"the notifier '{name}' may not start a program here",
            code="E0410",
            help="use another type of notifier",
        )


def _post(url: str, body: object, headers: Mapping[str, str], limit: Try) -> None:
    from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
    from urllib.error import HTTPError
    from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

    class NoRedirect(HTTPRedirectHandler):
        """A POST that is sent elsewhere would become a GET."""

        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    made: list[HTTPConnection] = []

    def connection(kind: type[HTTPConnection]) -> Any:
        def make(*args: Any, **options: Any) -> HTTPConnection:
            made.append(kind(*args, **options))
            return made[-1]

        return make

    class Plain(HTTPHandler):
        def http_open(self, request: Request) -> HTTPResponse:
            return self.do_open(connection(HTTPConnection), request)

    class Secure(HTTPSHandler):
        def https_open(self, request: Request) -> HTTPResponse:
            return self.do_open(connection(HTTPSConnection), request)

    sent = {"Content-Type": "application/json", "User-Agent": "dataflare", **headers}
    request = Request(url, json.dumps(body).encode(), sent, method="POST")
    hidden = _secret_parts(url, headers)
    sockets: list[Any] = []

    def cut() -> None:
        for each in [*sockets, *(c.sock for c in made)]:
            hang_up(each)

    try:
        with limit.limited(cut):
            try:
                with build_opener(NoRedirect, Plain, Secure).open(request, timeout=limit.timeout_s):
                    pass  # what it says with a status of success is not needed
            except HTTPError as error:
                # Its connection knows the socket no more.
                raw = getattr(getattr(error.fp, "fp", None), "raw", None)
                sockets.append(getattr(raw, "_sock", None))
                with error:
                    try:
                        said = answer_text(error.read(_READ_MAX), hidden)
                    except (OSError, HTTPException):
                        said = ""
                message = f"it answers {error.code}{': ' if said else ''}{said}"
                after_s = _after_s(error.headers)
                raise not_told(message, later=error.code in _LATER, after_s=after_s) from None
    except TimeoutError:
        raise not_told(f"it did not answer within {limit.timeout_s:g} s") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise not_told(f"no connection: {answer_text(reason, hidden)}") from None


def hang_up(connected: Any) -> None:
    """End what waits for a socket, in any thread; `socket`'s method, since that of TLS changes what is being read."""
    if connected is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _secret_parts(url: str, headers: Mapping[str, str]) -> list[str]:
    """What an answer may repeat and no log may show: the path and the query of the address, and the headers; the longest
    first."""
    from urllib.parse import unquote, unquote_plus, urlsplit

    parts = urlsplit(url)
    texts = {parts.path, parts.query, parts.path.strip("/"), *headers.values()}
    texts |= {each for each in parts.path.split("/") if len(each) >= _SECRET_MIN}
    values = [pair.partition("=")[2] for pair in parts.query.split("&")]
    texts |= {each for each in values if len(each) >= _SECRET_MIN}
    texts |= {
        word for text in headers.values() for word in text.split() if len(word) >= _SECRET_MIN
    }
    if parts.username or parts.password:
        texts |= {parts.username or "", parts.password or ""}
    texts |= {unquote(text) for text in texts} | {unquote_plus(text) for text in texts}
    texts |= {html.escape(text) for text in texts}
    return sorted((text for text in texts if len(text) > 1), key=len, reverse=True)


def _after_s(headers: Message) -> float | None:
    """A receiver that names a long time is called again after the longest that calls wait for a system."""
    told = headers.get("Retry-After", "").strip()
    return min(float(told), AFTER_MAX_S) if told.isascii() and told.isdecimal() else None


def answer_text(said: object, hidden: Sequence[str] = ()) -> str:
    """What a receiver said, in one line, cut where it is long. hidden: what no log may show."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    if hidden:
        text = text.replace("\\/", "/")  # as some write it in JSON
    for secret in hidden:
        text = text.replace(secret, "***")
    return " ".join(text.split())[:_ANSWER_MAX]


def not_told(message: str, *, later: bool = True, after_s: float | None = None) -> SystemError_:
    """The error of a try. later: another one may succeed. after_s: not before."""
    return SystemError_(
        message,
        code="E0607" if later else "E0606",
        retry=Retry.LATER if later else Retry.NEVER,
        retry_after_s=after_s,
        help="look at the options of the notifier, and at what it tells",
    )
