"""Mail of alerts, by SMTP (RFC 5321).

Always true: who has the mail is not sent it again where the try failed for others; all tries of one mail have one
`Message-ID`.
"""

from __future__ import annotations

import base64
import hashlib
import smtplib
import ssl
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, parseaddr
from typing import TYPE_CHECKING

from dataflare.observability.notifiers import answer_text, hang_up, not_told

if TYPE_CHECKING:
    from dataflare.observability.notifiers import Notice, Smtp
    from dataflare.observability.tries import Try

_LOGINS, _LOGINS_UTF8 = ("CRAM-MD5", "PLAIN", "LOGIN"), ("PLAIN", "LOGIN")


def send_mail(options: Smtp, notice: Notice, limit: Try) -> None:
    """Send it to those who do not have it yet. Raises SystemError_, and Overdue."""
    left = [address for _, address in getaddresses(options.addresses)]
    left = [address for address in left if address not in notice.has_it]
    if not left:  # it was taken, and then the connection was lost
        return
    port = options.port or {"starttls": 587, "tls": 465, "none": 25}[options.tls]
    if options.tls == "tls":
        context = ssl.create_default_context()
        server: smtplib.SMTP = smtplib.SMTP_SSL(timeout=options.timeout, context=context)
    else:
        server = smtplib.SMTP(timeout=options.timeout)
    server._host = options.host  # type: ignore[attr-defined]  # the name in its certificate
    try:
        with limit.limited(lambda: hang_up(server.sock)), server:
            code, said = server.connect(options.host, port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, said)
            if options.tls == "starttls":
                server.starttls(context=ssl.create_default_context())
            if options.username is not None and options.password is not None:
                _log_in(server, options.username, options.password)
            try:
                refused = server.send_message(_mail(options, notice), to_addrs=left)
            except smtplib.SMTPRecipientsRefused as error:
                refused = error.recipients
            else:
                notice.has_it.update(each for each in left if each not in refused)
    except smtplib.SMTPResponseException as error:
        # Answers from 500 on are final.
        text = f"{error.smtp_code} {answer_text(error.smtp_error)}"
        raise not_told(f"the mail server refuses: {text}", later=error.smtp_code < 500) from None
    except smtplib.SMTPNotSupportedError as error:
        raise not_told(f"the mail server cannot do this: {error}", later=False) from None
    except ssl.SSLCertVerificationError as error:
        raise not_told(f"the mail server's certificate: {error.verify_message}", later=False) from None  # fmt: skip
    except (OSError, smtplib.SMTPException) as error:
        raise not_told(f"no connection to the mail server: {answer_text(error)}") from None
    if refused:
        answers = (f"{address}: {code} {answer_text(said)}" for address, (code, said) in refused.items())  # fmt: skip
        later = any(code < 500 for code, _ in refused.values())
        raise not_told(f"the mail server refuses the mail to {'; to '.join(answers)}", later=later)


def _log_in(server: smtplib.SMTP, user: str, password: str) -> None:
    """By RFC 4954. `smtplib` sends only ASCII; PLAIN is UTF-8 (RFC 4616), and LOGIN takes it too."""
    server.ehlo_or_helo_if_needed()
    offered = server.esmtp_features.get("auth", "").split()
    if not offered:
        tls = " without 'tls'" if not isinstance(server.sock, ssl.SSLSocket) else ""
        raise not_told(f"the mail server offers no login{tls}", later=False)
    is_ascii = user.isascii() and password.isascii()
    needed = _LOGINS if is_ascii else _LOGINS_UTF8
    if not {*needed} & {*offered}:
        why = "" if is_ascii else " for a user or a password outside ASCII"
        raise not_told(
            f"the mail server offers no login that is known here: one of {', '.join(needed)} is needed{why}, "
            f"and it offers {answer_text(', '.join(offered))}",
            later=False,
        )
    if is_ascii:
        server.login(user, password)
        return
    if "PLAIN" in offered:
        code, said = server.docmd("AUTH", f"PLAIN {_base64(f'{chr(0)}{user}{chr(0)}{password}')}")
    else:
        code, said = server.docmd("AUTH", "LOGIN")
        for text in (user, password):
            if code == 334:
                code, said = server.docmd(_base64(text))
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, said)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _mail(options: Smtp, notice: Notice) -> EmailMessage:
    message, event = EmailMessage(), notice.event
    message["Subject"] = _one_line(f"[{event.rule.severity}] {notice.title}")
    message["From"], message["To"] = options.from_, ", ".join(options.addresses)
    message["Date"] = format_datetime(datetime.now(UTC))
    facts = notice.to_json()
    told = f"{notice.key} {notice.run_id} {event.status} {event.at!r}"
    domain = parseaddr(options.from_)[1].rpartition("@")[2]
    domain = domain if domain and domain.isascii() else "dataflare.invalid"
    message["Message-ID"] = f"<{hashlib.sha256(told.encode()).hexdigest()[:32]}@{domain}>"
    message["X-Dataflare-Alert"] = _one_line(notice.key)
    lines = (f"{name}: {facts[name]}" for name in facts if facts[name] is not None)
    message.set_content(f"{event.message}\n\n" + "\n".join(lines) + "\n")
    return message


def _one_line(text: str) -> str:
    """A text as a header of a mail may have it."""
    return " ".join(text.split())
