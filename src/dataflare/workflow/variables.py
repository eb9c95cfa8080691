"""`${NAME}`, `${NAME:-default}`, `${param:NAME}`, `${secret:NAME}` and `$${` in the file's strings.

Always true: substitution happens once, on parsed values, so a value can never add structure, and
variables in a value are not replaced; keys have no variables; all missing variables are reported
together.
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
"""The most variables in one string."""

_OPENING = re.compile(r"\$\$\{|\$\{")
_ENVIRONMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-)(.*))?", re.DOTALL)
_KIND_AND_NAME = re.compile(r"(param|secret):([A-Za-z_][A-Za-z0-9_./\-]*)")
_KINDS = ("param", "secret")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class _Piece(Struct, frozen=True):
    """A `${...}` or `$${` of a string. body: the text in the braces; None for `$${`."""

    start: int
    end: int
    body: str | None


class Substitution:
    """Replaces variables by their values. Collects `errors`, and the values of secrets in `secrets`."""

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
        self._secret_values: dict[str, str | None] = {}
        self._missing: dict[str, WorkflowError] = {}

    def __call__(self, value: Any) -> Any:
        """The value with all its variables replaced. Containers are copied; other values are the same."""
        match value:
            case SourceText():
                return self._text(value) if "${" in value else value
            case SpotMap():
                copied_map = SpotMap(spot=value.spot)
                for key, item in value.items():
                    copied_map.take(value, key, self(item))
                return copied_map
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
            resolved = self._look_up(raw, piece)
            if resolved is None:
                unresolved = True
                continue
            variable, text = resolved
            builder.variable(piece, variable, text)
            if piece.end - piece.start == len(raw):
                whole = variable
        if unresolved or len(pieces) != builder.pieces:
            return Unresolved(raw, starts=raw.starts)
        if whole is not None:
            if whole.value is None or isinstance(whole.value, bool | list | dict):
                return whole.value
            if isinstance(whole.value, int | float):
                return bound(whole.value, builder.source_text())
        return builder.source_text()

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
        if (named_match := _KIND_AND_NAME.fullmatch(body)) is not None:
            if named_match.group(1) == "param":
                return self._parameter(raw, piece, named_match.group(2), shown)
            return self._secret(raw, piece, named_match.group(2), shown)
        if (environment_match := _ENVIRONMENT.fullmatch(body)) is not None:
            return self._environment(raw, piece, environment_match, shown)
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
            names = list(self.params)
            note = (
                f"declared parameters: {', '.join(names)}"
                if names
                else "no parameters are declared"
            )
            near = did_you_mean(name, names)
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
        variable = Variable("", shown, parameter.value, parameter.type, parameter.secret)
        return variable, parameter.text

    def _secret(
        self, raw: SourceText, piece: _Piece, name: str, shown: str
    ) -> tuple[Variable, str] | None:
        if name not in self._secret_values:
            try:
                self._secret_values[name] = self.provider.get(name)
            except WorkflowError as error:
                self.errors.append(error.at(spot=raw.spot_of(piece.start, piece.end)))
                return None
        value = self._secret_values[name]
        if value is None:
            return self._lacking(
                raw,
                piece,
                f"the secret '{name}' was not found",
                notes=[f"looked in: {self.provider.place}"],
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
        earlier_error = self._missing.get(message)
        if earlier_error is not None:
            if spot is not None and spot != earlier_error.spot:
                earlier_error.notes.append(f"also at {spot}")
                earlier_error.more_spots.append(spot)
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
                help=help or "write $${ for the characters ${",
            )
        )
        return None


def _better(body: str) -> str | None:
    """A help for an invalid `${...}`, from the text in its braces."""
    kind, colon, name = body.partition(":")
    if not colon:
        return None
    if kind == "param" and ":-" in name:
        return "give the default where the parameter is declared"
    return None if kind in _KINDS else did_you_mean(kind, _KINDS)


class _Builder:
    """Builds the text, the template and its places, piece by piece."""

    def __init__(self, raw: SourceText) -> None:
        self.raw = raw
        self.text: list[str] = []
        self.template: list[str] = []
        self.length = self.at = self.pieces = 0
        self.variables: list[Variable] = []
        self.moved: list[tuple[int, int]] = []
        """Where the distance of template and raw text changes: (raw offset, template offset)."""

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

    def source_text(self) -> SourceText:
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
            in_use = mark in self.raw or any(v.placeholder.startswith(mark) for v in self.variables)
            if not in_use or number >= 36 * 36:
                return mark.ljust(length, "_")
            number += 1

    def _starts(self) -> Iterator[tuple[int, Spot]]:
        """The places of the raw text, moved to the offsets of their characters in the template."""
        moved = [(0, 0), *self.moved]
        places: dict[int, Spot] = {}
        for offset, spot in self.raw.starts:
            raw_from, template_from = [each for each in moved if each[0] <= offset][-1]
            places[offset - raw_from + template_from] = spot
        for raw_from, template_from in self.moved:
            spot_here = self.raw.spot_of(raw_from, raw_from + 1)
            if spot_here is not None:
                places.setdefault(template_from, spot_here)
        yield from sorted(places.items(), key=lambda each: each[0])
