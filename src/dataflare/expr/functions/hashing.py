"""Digests, encodings and identifiers. Digests are computed in the polars-hash plug-in.

Always true: the digest of a text is that of its UTF-8 bytes; results never change between versions,
because users join on them.
"""

from __future__ import annotations

import polars as pl

from dataflare.expr import rowerrors
from dataflare.expr.check import Call
from dataflare.expr.conversions import convert
from dataflare.expr.lowered import Lowered, fail_where
from dataflare.expr.registry import Lowering, register
from dataflare.expr.tree import ROWKEY_COLUMN, Node
from dataflare.model import types as t
from dataflare.model.hashing import digest

_UTF8 = (
    r"^(?:[0-7][0-9a-f]|(?:c[2-9a-f]|d[0-9a-f])[89ab][0-9a-f]|e0[ab][0-9a-f][89ab][0-9a-f]"
    r"|e[1-9abcef](?:[89ab][0-9a-f]){2}|ed[89][0-9a-f][89ab][0-9a-f]"
    r"|f0[9ab][0-9a-f](?:[89ab][0-9a-f]){2}|f[1-3](?:[89ab][0-9a-f]){3}"
    r"|f48[0-9a-f](?:[89ab][0-9a-f]){2})*$"
)


def _digest(namespace: str, method: str) -> Lowering:
    return lambda node, x: digest(x, namespace, method)


def _checked(value: pl.Expr, result: pl.Expr) -> Lowered:
    return Lowered(result, fail_where(result.is_null() & value.is_not_null(), rowerrors.ENCODING))


def _unhex(node: Node, text: pl.Expr) -> Lowered:
    even = pl.when(text.str.len_bytes() % 2 == 1).then(pl.lit("0") + text).otherwise(text)
    return _checked(text, even.str.decode("hex", strict=False))


def _decode(node: Node, raw: pl.Expr) -> Lowered:
    """Polars refuses a whole column because of one invalid byte, even of a null row. So invalid values
    are found first and emptied."""
    valid = raw.bin.encode("hex").str.contains(_UTF8)
    text = pl.when(valid).then(raw).otherwise(pl.lit(b"")).cast(pl.String)
    return Lowered(pl.when(valid).then(text), fail_where(~valid, rowerrors.ENCODING))


def _base64(node: Node, x: pl.Expr) -> pl.Expr:
    return x.cast(pl.Binary).bin.encode("base64")


def _resolve_hmac(call: Call) -> Node:
    call.arity(2, 2)
    type_ = call.args[0].type
    if not (type_.is_text or type_.name in ("binary", "null")):
        raise call.fail(f"hmac() expects string or binary, not {type_}", arg=0,
                        help="write CAST(... AS string)")  # fmt: skip
    secret = call.const(1, "the secret")
    if not isinstance(secret, str) or not secret:
        raise call.fail("the secret of hmac() is a text that is not empty", arg=1)
    value = convert(call.args[0], t.STRING) if type_.name == "null" else call.args[0]
    return call.node(t.STRING, [value, call.args[1]])


def _hmac(node: Node, x: pl.Expr, secret: pl.Expr) -> pl.Expr:
    return digest(x, "chash", "hmac_sha256", key=node.args[1].value)


def _resolve_uuid(call: Call) -> Node:
    call.arity(0, 0)
    return call.node(t.STRING, [], call.checker.salt())


def _uuid(node: Node) -> pl.Expr:
    """A UUID of RFC 9562, version 8, from a digest of the row's key and of the call's salt."""
    seed = pl.col(ROWKEY_COLUMN).cast(pl.String) + pl.lit("/" + str(node.value))
    hexadecimal = digest(seed, "nchash", "md5")
    variant = hexadecimal.str.slice(16, 1).replace_strict(
        list("0123456789abcdef"), list("89ab" * 4), return_dtype=pl.String
    )
    parts = [
        hexadecimal.str.slice(0, 8), pl.lit("-"), hexadecimal.str.slice(8, 4), pl.lit("-8"),
        hexadecimal.str.slice(13, 3), pl.lit("-"), variant, hexadecimal.str.slice(17, 3), pl.lit("-"),
        hexadecimal.str.slice(20, 12),
    ]  # fmt: skip
    return pl.concat_str(parts)


for _name, _space, _method, _text, _value in (
    (
        "md5",
        "nchash",
        "md5",
        "The MD5 digest, as 32 hexadecimal digits.",
        "0cc175b9c0f1b6a831c399e269772661",
    ),
    (
        "sha1",
        "nchash",
        "sha1",
        "The SHA-1 digest, as 40 hexadecimal digits.",
        "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8",
    ),
    (
        "sha256",
        "chash",
        "sha2_256",
        "The SHA-256 digest, as 64 hexadecimal digits.",
        "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
    ),
):
    register(
        _name,
        f"{_name}(x: string | binary) -> string",
        _text,
        (f"{_name}('a')", _value),
        group="hash",
        lower=_digest(_space, _method),
    )
register("xxhash", "xxhash(x: string | binary) -> uint64", "The 64-bit xxHash (XXH64, seed 0).", ("xxhash('a')", 15154266338359012955),
         group="hash", lower=_digest("nchash", "xxhash64"), aliases=["xxhash64", "xxh64"])  # fmt: skip
register("xxh3", "xxh3(x: string | binary) -> uint64", "The 64-bit XXH3.", ("xxh3('a')", 16629034431890738719),
         group="hash", lower=_digest("nchash", "xxh3_64"), aliases=["xxh3_64"])  # fmt: skip
register("hmac", "hmac(x: string | binary, secret: const string) -> string", "HMAC-SHA256 with a secret, as 64 hexadecimal digits: the same value, not to be guessed.",
         ("hmac('a', 'key')", "780c3db4ce3de5b9e55816fba98f590631d96c075271b26976238d5f4444219b"),
         group="hash", resolve=_resolve_hmac, lower=_hmac, aliases=["hmac_sha256"])  # fmt: skip
register("hex", "hex(x: string | binary) -> string", "The bytes as hexadecimal digits.", ("hex('ab')", "6162"),
         group="hash", lower=lambda node, x: x.cast(pl.Binary).bin.encode("hex").str.to_uppercase(), aliases=["to_hex"])  # fmt: skip
register("unhex", "unhex(text: string) -> binary", "The bytes of hexadecimal digits.", ("decode(unhex('6162'))", "ab"),
         group="hash", lower=_unhex, aliases=["from_hex"])  # fmt: skip
register("base64", "base64(x: binary | string) -> string", "The bytes as base64.", ("base64('a')", "YQ=="),
         group="hash", lower=_base64, aliases=["to_base64"])  # fmt: skip
register("from_base64", "from_base64(text: string) -> binary", "The bytes of base64.", ("decode(from_base64('YQ=='))", "a"),
         group="hash", lower=lambda node, x: _checked(x, x.str.decode("base64", strict=False)))  # fmt: skip
register("encode", "encode(text: string) -> binary", "The text's bytes in UTF-8.", ("hex(encode('é'))", "C3A9"),
         group="hash", lower=lambda node, x: x.cast(pl.Binary))  # fmt: skip
register(
    "decode",
    "decode(x: binary) -> string",
    "The bytes as text in UTF-8.",
    ("decode(encode('é'))", "é"),
    group="hash",
    lower=_decode,
)
register("octet_length", "octet_length(x: binary) -> int64", "The number of bytes.", ("octet_length(encode('é'))", 2),
         group="hash", lower=lambda node, x: x.bin.size().cast(pl.Int64))  # fmt: skip
register("uuid", "uuid() -> string", "A UUID that follows from run, split and row: a replay gives the same.",
         group="hash", resolve=_resolve_uuid, lower=_uuid, needs=[ROWKEY_COLUMN], aliases=["gen_random_uuid"])  # fmt: skip
