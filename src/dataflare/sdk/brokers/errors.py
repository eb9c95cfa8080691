"""Errors that all brokers have. place: the broker and its address, as errors show it. noun: what it is called."""

from __future__ import annotations

from dataflare.errors import Retry, SystemError_


def refused_login(
    place: str, options: str = "'connection'", step: str | None = None
) -> SystemError_:
    return SystemError_(
        f"{place} refuses the login",
        code="E0606",
        step=step,
        help=f"look at user and password in {options}",
    )


def no_tls(place: str, text: str, step: str | None = None) -> SystemError_:
    return SystemError_(
        f"no TLS connection to {place}: {text}",
        code="E0609",
        step=step,
        help="name the file of the certificates to trust: tls: {ca: ca.pem}",
    )


def no_answer(
    place: str, doing: str = "", noun: str = "server", step: str | None = None
) -> SystemError_:
    """doing: what it was asked for, as the end of the message."""
    return SystemError_(
        f"{place} did not answer in time{doing}",
        code="E0608",
        step=step,
        retry=Retry.LATER,
        help=f"check whether the {noun} works, or raise 'timeout'",
    )


def no_connection(
    place: str, text: str, noun: str = "server", step: str | None = None
) -> SystemError_:
    return SystemError_(
        f"no connection to {place}: {text}",
        code="E0607",
        step=step,
        retry=Retry.LATER,
        help=f"see whether the {noun} runs and the address is right",
    )
