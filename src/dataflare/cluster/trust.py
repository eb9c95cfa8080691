"""How two processes prove to each other that they know the same token, before anything else is read.

    connecting to accepting   greeting, 32 random bytes
    accepting to connecting   greeting, 32 random bytes
    connecting to accepting   length of its name, its name, proof
    accepting to connecting   length of its name, its name, proof

A proof is the HMAC (SHA-256) by the token of the side, all random bytes and the names. So the token is never sent, a proof
holds for one connection only, and neither side's proof can be sent back to it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import NoReturn, Protocol

from dataflare.errors import RunError

REFUSED = "E0831"
_GREETING = b"DFL\x01"
_RANDOM_BYTES = 32
_PROOF_BYTES = 32
_NAME_MAX = 255
_HELP = "start all workers of a job by the same command, with the same version of DataFlare"


class Bytes(Protocol):
    async def exactly(self, count: int) -> bytes: ...
    def write(self, data: bytes) -> None: ...


async def proved(wire: Bytes, token: bytes, me: str, *, connects: bool, other: str) -> str:
    """Prove the token, and check the proof of the other side. Gives the name of the other side. other: what an error calls
    it. Raises RunError (E0831) where it does not know the token, and ConnectionError where it closes the connection."""
    own_random = secrets.token_bytes(_RANDOM_BYTES)
    wire.write(_GREETING + own_random)
    greeting = await wire.exactly(len(_GREETING))
    if greeting[:3] != _GREETING[:3]:
        _refuse(f"{other} is not a worker of DataFlare: it answers in another protocol")
    if greeting != _GREETING:
        _refuse(f"{other} has another version of the links: {greeting[3]}, not {_GREETING[3]}")
    its_random = await wire.exactly(_RANDOM_BYTES)
    randoms = own_random + its_random if connects else its_random + own_random
    name = me.encode()[:_NAME_MAX]
    if connects:
        wire.write(bytes((len(name),)) + name + _proof(token, b"connects", randoms, name))
        return await _checked(wire, token, b"accepts", randoms, other, name)
    its_name = await _checked(wire, token, b"connects", randoms, other, b"")
    both = its_name.encode() + b"\0" + name
    wire.write(bytes((len(name),)) + name + _proof(token, b"accepts", randoms, both))
    return its_name


async def _checked(
    wire: Bytes, token: bytes, side: bytes, randoms: bytes, other: str, own_name: bytes
) -> str:
    length = (await wire.exactly(1))[0]
    its_name = await wire.exactly(length)
    proof = await wire.exactly(_PROOF_BYTES)
    names = its_name if side == b"connects" else own_name + b"\0" + its_name
    if not hmac.compare_digest(proof, _proof(token, side, randoms, names)):
        _refuse(f"{other} does not know the token of the job")
    try:
        return its_name.decode()
    except UnicodeDecodeError:
        _refuse(f"{other} has a name that is not text")


def _proof(token: bytes, side: bytes, randoms: bytes, names: bytes) -> bytes:
    return hmac.digest(token, side + b"\0" + randoms + names, hashlib.sha256)


def _refuse(message: str) -> NoReturn:
    raise RunError(message, code=REFUSED, help=_HELP)
