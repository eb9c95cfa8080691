"""`${NAME}`, `${NAME:-default}`, `${param:NAME}`, `${secret:NAME}` and `$${` in the file's strings.

Always true: substitution happens on parsed values, once, so a value can never add structure and is
never itself looked through for variables; keys hold no variables; what is missing is reported
all at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from dataflare.errors import DataFlareError, Spot, WorkflowError, did_you_mean
from dataflare.model.text import SourceText, Variable, bound
from dataflare.model.types import STRING
from dataflare.security.secrets import SecretProvider
from dataflare.workflow.nodes import SpotList, SpotMap, Unresolved
from dataflare.workflow.params import Parameter

VARIABLES_MAX = 1000
"""In one string."""

_OPENING = re.compile(r"\$\$\{|\$\{")
_ENVIRONMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-)(.*))?", re.DOTALL)
_NAMED = re.compile(r"(param|secret):([A-Za-z_][A-Za-z0-9_./\-]*)")
_KINDS = ("param", "secret")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class _Piece(Struct, frozen=True):
    """A `${...}` or `$${` of a string. body: None for the latter."""

    start: int
    end: int
    body: str | None


class Substitution:
    """Puts variables into values. Collects `errors`, and the `secrets` it has met."""

    def __init__(
        self,
        environ: Mapping[str, str],
        secrets: SecretProvider,
        errors: list[DataFlareError],
        params: Mapping[str, Parameter | None] | None = None,
    ) -> None:
        self.environ, self.provider, self.errors = environ, secrets, errors
        self.params = params
        self.secrets: set[str] = set()
        self._asked: dict[str, str | None] = {}
        self._missing: dict[str, WorkflowError] = {}

    def __call__(self, value: Any) -> Any:
        """The value with all variables in it replaced; containers are copied, the rest is kept."""
        match value:
            case SourceText():
                return self._text(value) if "${" in value else value
            case SpotMap():
                made = SpotMap(spot=value.spot)
                for key, item in value.items():
                    made.take(value, key, self(item))
                return made
            case SpotList():
                copied = SpotList([self(item) for item in value], spot=value.spot)
                copied.spots = list(value.spots)
                return copied
        return value

    def _text(self, raw: SourceText) -> Any:
        builder = _Builder(raw)
        whole: Any = None
        unresolved = False
        pieces = list(self._pieces(raw))
        if len(pieces) > VARIABLES_MAX:
            self._malformed(
                raw, pieces[0], f"more than {VARIABLES_MAX} variables in one text", None
            )
            return Unresolved(raw, starts=raw.starts)
        for piece in pieces:
            if piece.body is None:
                builder.literal(piece)
                continue
            found = self._look_up(raw, piece)
            if found is None:
                unresolved = True
                continue
            variable, text = found
            builder.variable(piece, variable, text)
            if piece.end - piece.start == len(raw):
                whole = variable
        if unresolved or len(pieces) != builder.pieces:
            return Unresolved(raw, starts=raw.starts)
        if whole is not None:
            if whole.value is None or isinstance(whole.value, bool | list | dict):
                return whole.value
            if isinstance(whole.value, int | float):
                return bound(whole.value, builder.done())
        return builder.done()

    def _pieces(self, raw: SourceText) -> Iterator[_Piece]:
        position = 0
        while (match := _OPENING.search(raw, position)) is not None:
            if match.group() == "$${":
                position = match.end()
                yield _Piece(match.start(), match.end(), None)
                continue
            depth, end = 1, match.end()
            while end < len(raw) and depth:
                depth += {"{": 1, "}": -1}.get(raw[end], 0)
                end += 1
            if depth:
                end = match.end()
            yield _Piece(match.start(), end, raw[match.end() : end - 1] if not depth else "")
            position = end

    def _look_up(self, raw: SourceText, piece: _Piece) -> tuple[Variable, str] | None:
        body = piece.body or ""
        shown = str(raw[piece.start : piece.end])
        if "${" in body:
            return self._malformed(raw, piece, "a variable inside a variable", None)
        if (named := _NAMED.fullmatch(body)) is not None:
            if named.group(1) == "param":
                return self._parameter(raw, piece, named.group(2), shown)
            return self._secret(raw, piece, named.group(2), shown)
        if (plain := _ENVIRONMENT.fullmatch(body)) is not None:
            return self._environment(raw, piece, plain, shown)
        return self._malformed(raw, piece, f"'{shown}' is not a variable", _better(body))

    def _environment(
        self, raw: SourceText, piece: _Piece, match: re.Match[str], shown: str
    ) -> tuple[Variable, str] | None:
        name, default = match.group(1), match.group(3)
        value = self.environ.get(name)
        if default is not None and not value:
            value = default
        if value is None:
            return self._lacking(
                raw,
                piece,
                f"the environment variable '{name}' is not set",
                help=f"set it, or give it a default: ${{{name}:-value}}",
            )
        return Variable("", shown, value, STRING), value

    def _parameter(
        self, raw: SourceText, piece: _Piece, name: str, shown: str
    ) -> tuple[Variable, str] | None:
        if self.params is None:
            return self._lacking(raw, piece, f"the parameter '{name}' cannot be used here")
        if name not in self.params:
            known = list(self.params)
            note = (
                f"declared parameters: {', '.join(known)}"
                if known
                else "no parameters are declared"
            )
            near = did_you_mean(name, known)
            return self._lacking(
                raw,
                piece,
                f"unknown parameter '{name}'",
                notes=[note],
                help=near or f"declare it: params: {{{name}: {{type: string}}}}",
            )
        parameter = self.params[name]
        if parameter is None:
            return None
        found = Variable("", shown, parameter.value, parameter.type, parameter.secret)
        return found, parameter.text

    def _secret(
        self, raw: SourceText, piece: _Piece, name: str, shown: str
    ) -> tuple[Variable, str] | None:
        if name not in self._asked:
            try:
                self._asked[name] = self.provider.get(name)
            except WorkflowError as error:
                self.errors.append(error.at(spot=raw.spot_of(piece.start, piece.end)))
                return None
        value = self._asked[name]
        if value is None:
            return self._lacking(
                raw,
                piece,
                f"the secret '{name}' was not found",
                notes=[f"looked in: {getattr(self.provider, 'place', 'the secret provider')}"],
            )
        if value:
            self.secrets.add(value)
        return Variable("", shown, value, STRING, secret=True), value

    def _lacking(
        self,
        raw: SourceText,
        piece: _Piece,
        message: str,
        *,
        notes: list[str] | None = None,
        help: str | None = None,
    ) -> tuple[Variable, str] | None:
        spot = raw.spot_of(piece.start, piece.end)
        known = self._missing.get(message)
        if known is not None:
            if spot is not None and spot != known.spot:
                known.notes.append(f"also at {spot}")
                known.more_spots.append(spot)
            return None
        error = WorkflowError(message, code="E0110", spot=spot, notes=notes or (), help=help)
        self._missing[message] = error
        self.errors.append(error)
        return None

    def _malformed(
        self, raw: SourceText, piece: _Piece, message: str, help: str | None
    ) -> tuple[Variable, str] | None:
        spot: Spot | None = raw.spot_of(piece.start, piece.end)
        self.errors.append(
            WorkflowError(
                message,
                code="E0110",
                spot=spot,
                notes=["variables are ${NAME}, ${NAME:-default}, ${param:NAME} and ${secret:NAME}"],
                help=help or "write $${ for the characters ${ themselves",
            )
        )
        return None


def _better(body: str) -> str | None:
    """What may have been meant by the inside of a `${...}` that is none."""
    kind, colon, rest = body.partition(":")
    if not colon:
        return None
    if kind == "param" and ":-" in rest:
        return "give the default where the parameter is declared"
    return None if kind in _KINDS else did_you_mean(kind, _KINDS)


class _Builder:
    """Makes the text, the template and its places, piece by piece."""

    def __init__(self, raw: SourceText) -> None:
        self.raw = raw
        self.text: list[str] = []
        self.template: list[str] = []
        self.length = self.at = self.pieces = 0
        self.variables: list[Variable] = []
        self.moved: list[tuple[int, int]] = []
        """Where template and raw text fall out of step: (raw offset, template offset)."""

    def literal(self, piece: _Piece) -> None:
        self._plain(piece.start)
        self.text.append("${")
        self._template("${")
        self.at = piece.end
        self.moved.append((self.at, self.length))
        self.pieces += 1

    def variable(self, piece: _Piece, variable: Variable, text: str) -> None:
        self._plain(piece.start)
        placeholder = self._placeholder(piece.end - piece.start)
        self.variables.append(
            Variable(placeholder, variable.shown, variable.value, variable.type, variable.secret)
        )
        self.text.append(text)
        self._template(placeholder)
        self.at = piece.end
        self.pieces += 1

    def done(self) -> SourceText:
        self._plain(len(self.raw))
        return SourceText(
            "".join(self.text),
            template="".join(self.template),
            variables=tuple(self.variables),
            starts=tuple(self._starts()),
        )

    def _plain(self, until: int) -> None:
        self.text.append(self.raw[self.at : until])
        self._template(self.raw[self.at : until])

    def _template(self, text: str) -> None:
        self.template.append(text)
        self.length += len(text)

    def _placeholder(self, length: int) -> str:
        number = len(self.variables)
        while True:
            mark = f"__{_DIGITS[number // 36 % 36]}{_DIGITS[number % 36]}"
            taken = mark in self.raw or any(v.placeholder.startswith(mark) for v in self.variables)
            if not taken or number >= 36 * 36:
                return mark.ljust(length, "_")
            number += 1

    def _starts(self) -> Iterator[tuple[int, Spot]]:
        """The places of the raw text, moved to where their characters are in the template."""
        moved = [(0, 0), *self.moved]
        found: dict[int, Spot] = {}
        for offset, spot in self.raw.starts:
            raw_from, template_from = [each for each in moved if each[0] <= offset][-1]
            found[offset - raw_from + template_from] = spot
        for raw_from, template_from in self.moved:
            spot_here = self.raw.spot_of(raw_from, raw_from + 1)
            if spot_here is not None:
                found.setdefault(template_from, spot_here)
        yield from sorted(found.items(), key=lambda each: each[0])
