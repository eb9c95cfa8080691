"""Notifiers, each against a real receiver on this machine."""

from __future__ import annotations

import html
import json
import os
import re
import select
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from msgspec.structs import replace
from pydantic import ValidationError
from servers.certificates import make_certificate
from servers.process import free_port
from servers.web import Answer, Asked, http_server

from dataflare.errors import DataFlareError, Retry, SystemError_
from dataflare.observability.alerts import Event, Rule
from dataflare.observability.conditions import parse_condition
from dataflare.observability.notifiers import KINDS, Notice, Notifier, check_allowed
from dataflare.observability.own_notifiers import secrets_of
from dataflare.observability.tries import Try

RULE = Rule("behind", parse_condition("lag > 5m for 2m"), severity="page")


def notice(status: Any = "firing") -> Notice:
    event = Event(
        status, RULE, "lag of <orders> is 7 min", "orders", 420.0, 1_700_000_000, 1_700_000_060
    )
    return Notice(event, "load", "01RUN", "here")


def send(kind: str, status: str = "firing", base: Path = Path(), **options: Any) -> None:
    made(kind, **options).send(notice(status), base)


def made(kind: str, **options: Any) -> Notifier:
    return KINDS[kind].model_validate({"type": kind, **options})


def test_a_webhook_gets_json() -> None:
    with http_server(lambda _: Answer(status=204)) as server:
        send("webhook", url=f"{server.url}/hook?x=1", headers={"Authorization": "Bearer t0ken"})
        send("webhook", "resolved", url=f"{server.url}/hook")
    first, second = server.asked
    assert (first.method, first.path, first.headers["Authorization"]) == (
        "POST",
        "/hook",
        "Bearer t0ken",
    )
    assert first.json() == {
        "status": "firing", "alert": "behind", "severity": "page", "workflow": "load", "run": "01RUN",
        "step": "orders", "when": "lag > 5m for 2m", "value": 420.0,
        "message": "lag of <orders> is 7 min", "since": "2023-11-14T22:13:20Z",
        "at": "2023-11-14T22:14:20Z", "host": "here", "key": "dataflare/load/behind",
    }  # fmt: skip
    assert second.json()["status"] == "resolved"
    assert second.json()["key"] == first.json()["key"]


def test_slack_gets_a_text_that_cannot_name_people_or_links() -> None:
    with http_server(lambda _: Answer(b"ok")) as server:
        send("slack", url=f"{server.url}/services/T0/B0/x", channel="#ops")
    assert server.asked[0].json() == {
        "text": ":red_circle: *firing: behind of workflow load*\nlag of &lt;orders&gt; is 7 min",
        "channel": "#ops",
    }


def test_an_incident_of_pagerduty_is_opened_and_resolved_by_one_key() -> None:
    def answer(asked: Asked) -> Answer:
        return Answer({"status": "success"}, 202)

    with http_server(answer) as server:
        for status in ("firing", "resolved"):
            send("pagerduty", status, routing_key="k" * 32, url=f"{server.url}/v2/enqueue")
    opened, closed = (asked.json() for asked in server.asked)
    payload = opened.pop("payload")
    assert opened == {"routing_key": "k" * 32, "event_action": "trigger", "dedup_key": "dataflare/load/behind"}  # fmt: skip
    assert closed == {**opened, "event_action": "resolve"}
    assert {**payload, "custom_details": None} == {
        "summary": "load: lag of <orders> is 7 min", "source": "here", "severity": "critical",
        "timestamp": "2023-11-14T22:14:20Z", "component": "load", "group": "orders", "class": "behind",
        "custom_details": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "retry", "after_s"),
    [
        (Answer({"error": "no such channel"}, 404), Retry.NEVER, None),
        (Answer({}, 302, {"Location": "/elsewhere"}), Retry.NEVER, None),
        (Answer({}, 503), Retry.LATER, None),
        (Answer({}, 429, {"Retry-After": "7"}), Retry.LATER, 7.0),
        (Answer({}, 429, {"Retry-After": "9" * 400}), Retry.LATER, 300.0),
    ],
)
def test_an_answer_says_whether_to_try_again(
    answer: Answer, retry: Retry, after_s: float | None
) -> None:
    with http_server(lambda _: answer) as server:
        with pytest.raises(SystemError_, match=f"it answers {answer.status}") as error:
            send("webhook", url=f"{server.url}/hook")
        assert len(server.asked) == 1
    assert (error.value.retry, error.value.retry_after_s) == (retry, after_s)


def test_a_receiver_that_hangs_or_is_away_is_tried_again() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        for kind, options in (
            ("webhook", {"url": f"http://127.0.0.1:{port}/"}),
            ("smtp", {"host": "127.0.0.1", "port": port, "from": "a@x.de", "to": "b@x.de"}),
        ):
            with pytest.raises(SystemError_, match=r"did not answer|no connection") as error:
                send(kind, timeout="200ms", **options)
            assert error.value.retry is Retry.LATER
    with pytest.raises(SystemError_, match="no connection") as error:
        send("webhook", url=f"http://127.0.0.1:{port}/")
    assert error.value.retry is Retry.LATER


@contextmanager
def dripping(first: bytes, each: bytes) -> Iterator[int]:
    """The port of a server that says a little again and again, and never ends."""
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(first)
            while not over.wait(0.02):
                connection.sendall(each)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            drip(connection)

        serving = threading.Thread(target=serve)
        serving.start()
        yield server.getsockname()[1]
        over.set()
        serving.join()


@pytest.mark.parametrize(
    ("kind", "first", "each"),
    [
        ("webhook", b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        ("slack", b"HTTP/1.1 500 No\r\nContent-Length: 4000\r\n\r\n", b"x"),
        ("pagerduty", b"", b"H"),
        ("smtp", b"220 hi\r\n", b"250-x\r\n"),
        ("smtp", b"", b"220-x\r\n"),
    ],
)
def test_a_try_ends_when_its_time_is_over(kind: str, first: bytes, each: bytes) -> None:
    with dripping(first, each) as port:
        options: dict[str, Any] = {"url": f"http://127.0.0.1:{port}/"}
        if kind == "smtp":
            options = {"host": "127.0.0.1", "port": port, "from": "a@x.de", "to": "b@x.de"}
        if kind == "pagerduty":
            options["routing_key"] = "key"
        with pytest.raises(SystemError_, match=r"it did not answer within 0.3 s") as error:
            send(kind, timeout="300ms", **options)
    assert error.value.retry is Retry.LATER


def test_a_try_ends_when_it_is_given_up() -> None:
    with dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n") as port:
        limit = Try(60.0)
        limit.give_up()
        with pytest.raises(SystemError_, match="did not answer"):
            made("webhook", url=f"http://127.0.0.1:{port}/").send(notice(), Path(), limit)


@pytest.mark.parametrize(
    "said",
    ["Cannot POST {path}", '{{"path": "{json}"}}', "no hook for {key} and {token}", "{html}"],
)
def test_an_answer_that_repeats_the_address_tells_nothing_of_it(said: str) -> None:
    path = "/services/T000/S3CRETPART?key=k3yOfQuery&b=2"
    text = said.format(
        path=path,
        json=path.replace("/", "\\/"),
        key="k3yOfQuery",
        token="t0ken",
        html=html.escape(path),
    )
    with (
        http_server(lambda _: Answer(text.encode(), 403)) as server,
        pytest.raises(SystemError_, match=r"it answers 403: .*\*\*\*") as error,
    ):
        send("webhook", url=server.url + path, headers={"Authorization": "Bearer t0ken"})
    shown = str(error.value)
    assert not {s for s in ("T000", "S3CRETPART", "k3yOfQuery", "t0ken") if s in shown}, shown


def assert_ends(pid: int) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([process], [], [], 30.0)[0], "it runs on"
    finally:
        os.close(process)


@pytest.mark.parametrize("end", ["exit 0", "wait"])
def test_what_a_command_starts_ends_with_it(tmp_path: Path, end: str) -> None:
    command = ["sh", "-c", f"sleep 300 & echo $! > pid; {end}"]
    if end == "wait":
        with pytest.raises(SystemError_, match=r"did not end within 0.3 s"):
            send("command", command=command, timeout="300ms", base=tmp_path)
    else:
        send("command", command=command, timeout="60s", base=tmp_path)
    assert_ends(int((tmp_path / "pid").read_text()))


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[Envelope] = []
        self.seen: set[str] = set()

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        if address.startswith("nobody"):
            return "550 no such user"
        if address.startswith("grey") and address not in self.seen:
            self.seen.add(address)
            return "450 4.2.0 greylisted"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.mails.append(envelope)
        return "250 OK"


def login(server, session, envelope, mechanism, data) -> AuthResult:
    known = (
        LoginPassword(b"flows", b"s3cret"),
        LoginPassword("jürgen".encode(), "gehörtmir€".encode()),
    )
    right = isinstance(data, LoginPassword) and data in known
    return AuthResult(success=right, handled=False)


@contextmanager
def mail_server(
    folder: Path, *, tls: bool, mailbox: Mailbox | None = None, **more: Any
) -> Iterator[tuple[Mailbox, int, Path]]:
    make_certificate(folder / "server.crt", folder / "server.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    mailbox = mailbox or Mailbox()
    options = {"tls_context": context, "require_starttls": True, "authenticator": login, "auth_required": True}  # fmt: skip
    port = free_port()
    server = Controller(
        mailbox, hostname="127.0.0.1", port=port, **(options if tls else {}), **more
    )
    server.start()
    try:
        yield mailbox, port, folder / "server.crt"
    finally:
        server.stop()


def test_mail_is_sent(tmp_path: Path) -> None:
    with mail_server(tmp_path, tls=False) as (mailbox, port, _):
        options = {"host": "127.0.0.1", "port": port, "tls": "none", "from": "flows@x.de"}
        send("smtp", to=["ops@x.de", "boss@x.de"], **options)
        with pytest.raises(
            SystemError_, match=r"refuses the mail to nobody@x.de: 550 no such user$"
        ) as error:
            send("smtp", to="nobody@x.de", **options)
        assert error.value.retry is Retry.NEVER
    (envelope,) = mailbox.mails
    assert envelope.rcpt_tos == ["ops@x.de", "boss@x.de"]
    assert isinstance(envelope.content, bytes)
    mail = message_from_bytes(envelope.content, policy=policy.default)
    assert mail["Subject"] == "[page] firing: behind of workflow load"
    assert mail["X-Dataflare-Alert"] == "dataflare/load/behind"
    assert abs(mail["Date"].datetime.timestamp() - time.time()) < 600
    assert re.fullmatch(r"<[0-9a-f]{32}@x\.de>", mail["Message-ID"])
    text = mail.get_content()
    assert text.startswith("lag of <orders> is 7 min")
    assert "run: 01RUN" in text


def test_a_name_with_a_line_break_is_one_line_of_a_mail(tmp_path: Path) -> None:
    rule = replace(RULE, name="bad\nBcc: else@x.de\r\nX: y")
    told = replace(notice(), event=replace(notice().event, rule=rule))
    with mail_server(tmp_path, tls=False) as (mailbox, port, _):
        options = {"host": "127.0.0.1", "port": port, "tls": "none", "from": "flows@x.de"}
        made("smtp", to="ops@x.de", **options).send(told, tmp_path)
    (envelope,) = mailbox.mails
    assert envelope.rcpt_tos == ["ops@x.de"]
    mail = message_from_bytes(envelope.content, policy=policy.default)
    assert mail["Subject"] == "[page] firing: bad Bcc: else@x.de X: y of workflow load"
    assert mail["Bcc"] is None


def test_mail_is_sent_with_tls_and_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(tmp_path, tls=True) as (mailbox, port, certificate):
        options = {"host": "localhost", "port": port, "from": "flows@x.de", "to": "ops@x.de", "username": "flows"}  # fmt: skip
        with pytest.raises(SystemError_, match="certificate") as error:
            send("smtp", password="s3cret", **options)
        assert error.value.retry is Retry.NEVER
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        send("smtp", password="s3cret", **options)
        with pytest.raises(SystemError_, match="535") as error:
            send("smtp", password="wrong-one", **options)
        assert "wrong-one" not in str(error.value)
        assert error.value.retry is Retry.NEVER
    assert len(mailbox.mails) == 1


def test_who_is_refused_for_now_is_tried_again_alone(tmp_path: Path) -> None:
    to = ["ops@x.de", "grey@x.de", "nobody@x.de"]
    with mail_server(tmp_path, tls=False) as (mailbox, port, _):
        options = {"host": "127.0.0.1", "port": port, "tls": "none", "from": "flows@x.de"}
        notifier, told = made("smtp", to=to, **options), notice()
        said = r"mail to grey@x.de: 450 4.2.0 greylisted; to nobody@x.de: 550 no such user$"
        with pytest.raises(SystemError_, match=said) as error:
            notifier.send(told, tmp_path)
        assert error.value.retry is Retry.LATER
        with pytest.raises(SystemError_, match=r"mail to nobody@x.de: 550 no such user$") as error:
            notifier.send(told, tmp_path)
        assert error.value.retry is Retry.NEVER
    assert [mail.rcpt_tos for mail in mailbox.mails] == [["ops@x.de"], ["grey@x.de"]]
    first, second = (message_from_bytes(mail.content or b"") for mail in mailbox.mails)  # type: ignore[arg-type]
    assert first["Message-ID"] == second["Message-ID"]


@pytest.mark.parametrize("without", [[], ["PLAIN"]])
def test_a_login_outside_ascii_is_sent_as_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: list[str]
) -> None:
    with mail_server(tmp_path, tls=True, auth_exclude_mechanism=without) as (
        mailbox,
        port,
        trusted,
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        options = {"host": "localhost", "port": port, "from": "flows@x.de", "to": "ops@x.de", "username": "jürgen"}  # fmt: skip
        send("smtp", password="gehörtmir€", **options)
        with pytest.raises(SystemError_, match="refuses: 535") as error:
            send("smtp", password="gehörtdir€", **options)
        assert error.value.retry is Retry.NEVER
    assert len(mailbox.mails) == 1


class OtherLogin(Mailbox):
    async def auth_XOAUTH2(self, server, args):  # noqa: N802
        raise AssertionError


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("s3cret", "one of CRAM-MD5, PLAIN, LOGIN is needed, and it offers XOAUTH2$"),
        ("gehört", "one of PLAIN, LOGIN is needed for a user or a password outside ASCII, and it offers XOAUTH2$"),
    ],
)  # fmt: skip
def test_a_server_without_a_known_login_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str, said: str
) -> None:
    options = {"host": "localhost", "from": "flows@x.de", "to": "ops@x.de", "username": "flows", "password": password}  # fmt: skip
    more = {"auth_exclude_mechanism": ["PLAIN", "LOGIN"], "mailbox": OtherLogin()}
    with mail_server(tmp_path, tls=True, **more) as (_, port, trusted):
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        with pytest.raises(SystemError_, match=said) as error:
            send("smtp", port=port, **options)
        assert error.value.retry is Retry.NEVER
    with mail_server(tmp_path, tls=False) as (_, port, _trusted):
        more = {"host": "127.0.0.1", "tls": "none", "port": port}
        with pytest.raises(SystemError_, match=r"offers no login without 'tls'$") as error:
            send("smtp", **{**options, **more})
        assert error.value.retry is Retry.NEVER


def test_a_command_gets_json_and_words(tmp_path: Path) -> None:
    script = tmp_path / "tell"
    script.write_text('#!/bin/sh\ncat > "$1"\necho "$DATAFLARE_ALERT_STATUS $DATAFLARE_ALERT_NAME" >> "$1"\n')  # fmt: skip
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    send("command", command="./tell 'a file; ls'", base=tmp_path)
    got = (tmp_path / "a file; ls").read_text()
    assert json.loads(got.removesuffix("firing behind\n"))["message"] == "lag of <orders> is 7 min"


@pytest.mark.parametrize(
    ("command", "words", "retry"),
    [
        ("sh -c 'echo it broke >&2; exit 3'", "ended with 3: it broke", Retry.LATER),
        ("sleep 10", "did not end within 0.2 s", Retry.LATER),
        ("there-is-no-such-program", "cannot be started", Retry.NEVER),
    ],
)
def test_a_command_that_fails(command: str, words: str, retry: Retry) -> None:
    with pytest.raises(SystemError_, match=words) as error:
        send("command", command=command, timeout="200ms")
    assert error.value.retry is retry


def test_where_workflows_may_not_run_code_they_start_no_program() -> None:
    with pytest.raises(DataFlareError, match="may not start a program") as error:
        check_allowed(made("command", command="ls"), "ops", python=False)
    assert error.value.code == "E0410"
    check_allowed(made("webhook", url="http://x/"), "ops", python=False)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("webhook", {"url": "ftp://x"}, "http://"),
        ("webhook", {"url": "https://"}, "http://"),
        ("smtp", {"host": "h", "from": "a", "to": "b@x"}, "'from' needs an address"),
        ("smtp", {"host": "h", "from": "a@x", "to": []}, "'to' needs an address"),
        ("smtp", {"host": "h", "from": "a@x", "to": "b@x\nBcc: c@x"}, "'to' needs an address"),
        ("smtp", {"host": "h", "from": "a@x", "to": "b@x", "username": "u"}, "belong together"),
        ("smtp", {"host": "h", "tls": "none", "from": "a@x", "to": "b@x", "username": "u", "password": "p"}, "open text"),
        ("command", {"command": "a 'b"}, "split into words"),
        ("command", {"command": []}, "needs a program"),
    ],
)  # fmt: skip
def test_wrong_options(kind: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        made(kind, **options)


def test_secrets_are_known_and_in_no_repr() -> None:
    declared = {
        "a": {"type": "slack", "url": "https://hooks/T/B/s3cret"},
        "b": {"type": "pagerduty", "routing_key": "s3cretkey"},
        "c": {"type": "webhook", "url": "https://x/"},
        "d": "wrong",
    }
    assert secrets_of(declared) == ["https://hooks/T/B/s3cret", "s3cretkey"]
    for name in ("a", "b"):
        options = {k: v for k, v in declared[name].items() if k != "type"}  # type: ignore[attr-defined]
        assert "s3cret" not in repr(made(declared[name]["type"], **options))  # type: ignore[index]
