"""Turn an `Ast` into a `Node`: resolve columns and types, by the registry's signatures.

Always true: a node's type is the type of its lowering in Polars; implicit conversions are nodes too, so
that lowering never guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.errors import ExpressionError
from dataflare.expr import problems, registry, sqltypes
from dataflare.expr.conversions import castable, convert, is_text_literal, meeting_type
from dataflare.expr.folding import literal_as
from dataflare.expr.problems import problem
from dataflare.expr.signatures import Signature, cost, result_type, wanted_type
from dataflare.expr.tree import CAST, COLUMN, LITERAL, STAR, Ast, Node
from dataflare.model import types as t
from dataflare.model.text import SourceText
from dataflare.model.types import DataType, Schema


class Call(Struct):
    """A call that is being typed, for a function's `resolve`."""

    function: registry.Function
    ast: Ast
    args: list[Node]
    checker: Checker

    def fail(
        self,
        message: str,
        *,
        arg: int | None = None,
        code: str = problems.TYPE_MISMATCH,
        notes: Iterable[str] = (),
        help: str | None = None,
    ) -> ExpressionError:
        """The error, with the place of an argument or of the function's name."""
        span = (
            self.ast.point if arg is None or arg >= len(self.ast.args) else self.ast.args[arg].span
        )
        return self.checker.fail(span, message, code=code, notes=notes, help=help)

    def arity(self, least: int, most: int | None = None) -> None:
        count = len(self.args)
        if count < least or (most is not None and count > most):
            raise self.wrong_count(least, most)

    def wrong_count(self, least: int, most: int | None) -> ExpressionError:
        many = (
            f"{least}"
            if most == least
            else (f"{least} or more" if most is None else f"{least} to {most}")
        )
        plural = "argument" if many == "1" else "arguments"
        return self.fail(
            f"{self.function.name}() takes {many} {plural}, {len(self.args)} given",
            code=problems.ARGUMENTS,
            notes=self.function.signature.splitlines(),
        )

    def cast(self, place: int, to: DataType) -> Node:
        """The argument as that type, by an implicit conversion."""
        return convert(self.args[place], to)

    def const(self, place: int, subject: str) -> Any:
        """The argument's literal value. Raises ExpressionError if it is not a literal."""
        node = self.args[place]
        if not node.is_literal:
            raise self.fail(f"{subject} of {self.function.name}() must be a literal", arg=place)
        return node.value

    def node(self, type_: DataType, args: Sequence[Node], value: Any = None) -> Node:
        return Node(self.function.name, type_, tuple(args), value)


class Checker:
    """Types one expression against one schema. aggregate: types an aggregate call; None refuses it."""

    def __init__(
        self,
        source: SourceText,
        schema: Schema,
        step: str | None,
        aggregate: Callable[[Checker, Ast], Node] | None = None,
        name: str = "",
    ) -> None:
        self.source, self.schema, self.step = source, schema, step
        self.types = {field.name: field.type for field in schema}
        self.aggregate = aggregate
        self.name = name
        self.salts = 0
        self.subjects: dict[int, Node] = {}

    def salt(self) -> str:
        """A text that is different for each uuid() of a step, and the same in a replay."""
        self.salts += 1
        return f"{self.step or ''}/{self.name}/{self.salts}"

    def fail(self, span: tuple[int, int], message: str, *, code: str = problems.TYPE_MISMATCH,
             notes: Iterable[str] = (), help: str | None = None) -> ExpressionError:  # fmt: skip
        return problem(self.source, span, code, message, notes=notes, help=help, step=self.step)

    def node(self, ast: Ast) -> Node:
        if ast.op == COLUMN:
            if ast.value not in self.types:
                raise problems.unknown_column(
                    self.source, ast.span, ast.value, self.types, self.step
                )
            return Node(COLUMN, self.types[ast.value], value=ast.value)
        if ast.op == LITERAL:
            return self._literal(ast)
        if ast.op == CAST:
            return self._cast(ast)
        if ast.op == STAR:
            raise self.fail(ast.span, "'*' is not allowed here", code=problems.NOT_ALLOWED)
        function = registry.row(ast.op)
        if function.group == "aggregate":
            if self.aggregate is None:
                raise self.fail(
                    ast.point,
                    f"the aggregate function {function.name}() is not allowed here",
                    code=problems.NOT_ALLOWED,
                    notes=["aggregates belong in the measures of 'aggregate' and 'window'"],
                )
            return self.aggregate(self, ast)
        call = Call(function, ast, [self._arg(arg) for arg in ast.args], self)
        return resolve_call(call)

    def _arg(self, ast: Ast) -> Node:
        """Type an argument. The subject of a CASE is in each branch and is typed once."""
        if not ast.args:
            return self.node(ast)
        node = self.subjects.get(id(ast))
        if node is None:
            node = self.subjects[id(ast)] = self.node(ast)
        return node

    def _literal(self, ast: Ast) -> Node:
        type_ = ast.type or t.NULL
        value = ast.value
        if type_.name in ("timestamp", "date") and isinstance(value, str):
            constant = literal_as(value, type_)
            if constant is None:
                raise self.fail(
                    ast.span, f"{ast.shown or 'this'} is not a {type_}", code=problems.BAD_LITERAL
                )
            value = constant.value
        if type_.name == "json" and not isinstance(value, str):
            raise self.fail(ast.span, f"{ast.shown or 'this'} cannot stand in an expression")
        return Node(LITERAL, type_, value=value, shown=ast.shown)

    def _cast(self, ast: Ast) -> Node:
        assert ast.type is not None
        arg = self.node(ast.args[0])
        if ast.shown == "literal" or (
            ast.value is False and is_text_literal(arg) and ast.type.is_temporal
        ):
            constant = literal_as(arg.value, ast.type)
            if constant is not None:
                return replace(constant, shown=arg.shown)
            if ast.shown == "literal":
                raise self.fail(
                    ast.args[0].span,
                    f"{self._shown(arg)} is not a {ast.type}",
                    code=problems.BAD_LITERAL,
                    help="write it as '2024-12-31' or '2024-12-31 23:59:59'",
                )
        if not castable(arg.type, ast.type):
            raise self.fail(ast.point, f"cannot cast {arg.type} to {ast.type}")
        return Node(CAST, ast.type, (arg,), value=bool(ast.value))

    def _shown(self, node: Node) -> str:
        return node.shown or f"'{node.value}'"


def resolve_call(call: Call) -> Node:
    """Type a call by its function's `resolve`, or by the signature that fits best."""
    if call.function.resolve is not None:
        return call.function.resolve(call)
    signatures = call.function.signatures
    counted = [s for s in signatures if s.takes(len(call.args))]
    if not counted:
        limits = [s.most for s in signatures]
        raise call.wrong_count(
            min(s.least for s in signatures),
            None if None in limits else max(m for m in limits if m is not None),
        )
    best: tuple[int, Signature, list[str]] | None = None
    for signature in counted:
        match = _match(signature, call.args)
        if match is not None and (best is None or match[0] < best[0]):
            best = (match[0], signature, match[1])
    if best is None:
        raise _mismatch(call, counted)
    return _apply(call, best[1], best[2])


def _match(signature: Signature, args: Sequence[Node]) -> tuple[int, list[str]] | None:
    total, kinds = 0, []
    for place, arg in enumerate(args):
        options = [
            (distance, kind)
            for kind in signature.parameter(place).alternatives
            if (distance := _cost_of(kind, arg)) is not None
        ]
        if not options:
            return None
        distance, kind = min(options, key=lambda option: option[0])
        total += distance
        kinds.append(kind)
    return total, kinds


def _cost_of(kind: str, arg: Node) -> int | None:
    distance = cost(kind, arg.type)
    if distance is None and is_text_literal(arg):
        target = {"date": t.DATE, "naive": t.TIMESTAMP, "timestamp": t.TIMESTAMP, "temporal": t.TIMESTAMP,
                  "timestamp[us]": t.TIMESTAMP, "timestamp[us, UTC]": t.TIMESTAMP_UTC, "time": t.TIME}.get(kind)  # fmt: skip
        if target is not None and literal_as(arg.value, target) is not None:
            return 5
    return distance


def _mismatch(call: Call, signatures: Sequence[Signature]) -> ExpressionError:
    signature = signatures[0]
    for place, arg in enumerate(call.args):
        if all(
            all(_cost_of(kind, arg) is None for kind in s.parameter(place).alternatives)
            for s in signatures
        ):
            expected = " or ".join(
                dict.fromkeys(kind for s in signatures for kind in s.parameter(place).alternatives)
            )
            return call.fail(
                f"{call.function.name}() expects {expected}, not {arg.type}",
                arg=place,
                notes=call.function.signature.splitlines(),
                help=_cast_help(call, place, expected),
            )
    type_names = ", ".join(str(arg.type) for arg in call.args)
    return call.fail(
        f"{call.function.name}() does not take ({type_names})",
        notes=[s.text for s in signatures] or [signature.text],
    )


def _cast_help(call: Call, place: int, expected: str) -> str | None:
    target = expected.split(" or ")[0]
    name = {"string": "string", "number": "float64", "int64": "int64", "float64": "float64",
            "timestamp": "timestamp", "temporal": "timestamp", "date": "date"}.get(target)  # fmt: skip
    if name is None or place >= len(call.ast.args):
        return None
    start, end = call.ast.args[place].span
    text = shown_text(call.checker.source, start, end)
    return (
        f"write CAST({text} AS {name})"
        if castable(call.args[place].type, sqltypes.type_named(name) or t.STRING)
        else None
    )


def shown_text(source: SourceText, start: int, end: int) -> str:
    """A part of the text as the user wrote it: variables by name."""
    text = source.template[start:end]
    for variable in source.variables:
        text = text.replace(variable.placeholder, variable.shown)
    return text


def _apply(call: Call, signature: Signature, kinds: Sequence[str]) -> Node:
    shared = [
        arg if kind == "T" else Node("item", arg.type.item or t.NULL)
        for arg, kind in zip(call.args, kinds, strict=True)
        if kind in ("T", "list<T>")
    ]
    bound = meeting_type(shared) if shared else None
    if shared and bound is None:
        type_names = " and ".join(dict.fromkeys(str(n.type) for n in shared))
        raise call.fail(f"the arguments of {call.function.name}() do not fit together: {type_names}",
                        help="write CAST(... AS ...) around one of them")  # fmt: skip
    args = []
    for place, (arg, kind) in enumerate(zip(call.args, kinds, strict=True)):
        if signature.parameter(place).const and not arg.is_literal:
            raise call.fail(
                f"the {signature.parameter(place).name} of {call.function.name}() must be a literal",
                arg=place,
            )
        target = wanted_type(kind, arg.type, bound)
        if (
            is_text_literal(arg)
            and not target.is_temporal
            and kind in ("naive", "timestamp", "temporal")
        ):
            target = t.TIMESTAMP
        args.append(convert(arg, target))
    first = args[0].type if args else t.NULL
    type_ = result_type(signature.result, bound, first)
    nulls = [a for p, a in enumerate(args) if signature.parameter(p).const and a.is_null]
    return Node(LITERAL, type_) if nulls else Node(call.function.name, type_, tuple(args))
