"""Whether a request was signed by someone who has the secret. Pure.

Always true: signatures are compared in a time that does not depend on where they differ; a time that is part of what
was signed must be near the clock, so a recorded request is refused later.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataflare.model.units import Duration


class Signature(BaseModel):
    """How requests are signed."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    type: Literal["hmac", "github", "stripe", "slack", "standard"] = Field(
        "hmac",
        description="hmac: of the body, in `header`; github, stripe, slack: as these sign; standard: as "
        "standardwebhooks.com says",
    )
    secret: str | list[str] = Field(
        min_length=1, repr=False, description="the secret, or several while it is being changed"
    )
    header: str | None = Field(None, min_length=1, description="for hmac: where the signature is")
    prefix: str = Field("", description="for hmac: the text before it, such as sha256=")
    algorithm: Literal["sha1", "sha256", "sha512"] = Field("sha256", description="for hmac")
    encoding: Literal["hex", "base64"] = Field("hex", description="for hmac")
    tolerance: Duration = Field(
        300.0,
        gt=0,
        description="for stripe, slack and standard: how far the time of a request may be from the clock",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.header is None) == (self.type == "hmac"):
            verb = "needs" if self.type == "hmac" else "takes no"
            raise ValueError(f"signature of type {self.type} {verb} 'header'")
        if not all(self.secrets):
            raise ValueError("a secret is empty")
        if self.type == "standard" and any(_standard_key(each) is None for each in self.secrets):
            raise ValueError("a secret of type standard is base64, behind whsec_")
        return self

    @property
    def secrets(self) -> list[str]:
        return [self.secret] if isinstance(self.secret, str) else self.secret


def is_signed(how: Signature, headers: Mapping[str, str], body: bytes, now_s: float) -> bool:
    """Whether one of the secrets gives one of the request's signatures. headers: whatever the case of names."""
    match how.type:
        case "github":
            return _any(
                how, "sha256", body, [headers.get("x-hub-signature-256", "")], prefix="sha256="
            )
        case "stripe":
            pairs = [
                p.strip().partition("=") for p in headers.get("stripe-signature", "").split(",")
            ]
            time = next((value for name, _, value in pairs if name == "t"), "")
            found = [value for name, _, value in pairs if name == "v1"]
            return _is_near(how, time, now_s) and _any(
                how, "sha256", f"{time}.".encode() + body, found
            )
        case "slack":
            time = headers.get("x-slack-request-timestamp", "")
            found = [headers.get("x-slack-signature", "")]
            signed = f"v0:{time}:".encode() + body
            return _is_near(how, time, now_s) and _any(how, "sha256", signed, found, prefix="v0=")
        case "standard":
            return _is_standard(how, headers, body, now_s)
    found = [headers.get((how.header or "").lower(), "")]
    return _any(how, how.algorithm, body, found, prefix=how.prefix, encoding=how.encoding)


def _any(
    how: Signature,
    algorithm: str,
    signed: bytes,
    found: Sequence[str],
    *,
    prefix: str = "",
    encoding: str = "hex",
) -> bool:
    digests = [hmac.digest(each.encode(), signed, algorithm) for each in how.secrets]
    given = [
        _bytes(text.removeprefix(prefix), encoding) for text in found if text.startswith(prefix)
    ]
    return _one_equals(digests, given)


def _is_standard(how: Signature, headers: Mapping[str, str], body: bytes, now_s: float) -> bool:
    id_, time = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not id_ or not _is_near(how, time, now_s):
        return False
    signed = f"{id_}.{time}.".encode() + body
    keys = [_standard_key(each) or b"" for each in how.secrets]
    digests = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    found = [each.partition(",") for each in headers.get("webhook-signature", "").split()]
    given = [_bytes(text, "base64") for version, _, text in found if version == "v1"]
    return _one_equals(digests, given)


def _one_equals(digests: Sequence[bytes], given: Sequence[bytes]) -> bool:
    equal = [hmac.compare_digest(a, b) for a in digests for b in given]
    return any(equal)


def _is_near(how: Signature, time: str, now_s: float) -> bool:
    return time.isascii() and time.isdecimal() and abs(int(time[:15]) - now_s) <= how.tolerance


def _bytes(text: str, encoding: str) -> bytes:
    try:
        return bytes.fromhex(text) if encoding == "hex" else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _standard_key(secret: str) -> bytes | None:
    return _bytes(secret.removeprefix("whsec_"), "base64") or None
