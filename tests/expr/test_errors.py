"""What is wrong with an expression is said with the exact place, the cause and a way out."""

from __future__ import annotations

import pickle

import pytest

from dataflare.errors import ExpressionError, Spot, render
from dataflare.expr import ExprText, check, check_condition, check_measures, parse
from dataflare.model import types as t
from dataflare.model.text import SourceText, Variable
from dataflare.model.types import Schema

SCHEMA = Schema.of(
    {
        "customer_id": "int64", "status": "string", "updated_at": "timestamp[us, UTC]", "local": "timestamp[us]",
        "amount": "float64", "tags": "list<string>", "who": "struct<name: string, age: int32>", "flag": "bool",
    }
)  # fmt: skip


def written(text: str) -> SourceText:
    line = f'    config: {{condition: "{text}"}}'
    return SourceText(text, starts=((0, Spot("customers.yaml", 28, 26, len(text), line)),))


def refused(text: str, step: str | None = "active") -> ExpressionError:
    with pytest.raises(ExpressionError) as caught:
        check(written(text), SCHEMA, step=step)
    return caught.value


def pointed(error: ExpressionError) -> str:
    """The characters under the carets."""
    assert error.spot is not None
    assert error.spot.text is not None
    start = error.spot.column - 1
    return error.spot.text[start : start + error.spot.length]


def test_an_unknown_column_is_the_block_of_the_format_page() -> None:
    schema = Schema.of({"customer_id": "int64", "status": "string", "updated_at": "timestamp[us]"})
    with pytest.raises(ExpressionError) as caught:
        check(written("statsu == 'active'"), schema, step="active")
    assert render(caught.value) == (
        "error[E0203]: unknown column 'statsu' in step 'active'\n"
        "  --> customers.yaml:28:26\n"
        "   |\n"
        "28 |     config: {condition: \"statsu == 'active'\"}\n"
        "   |                          ^^^^^^\n"
        "   = it receives: customer_id, status, updated_at\n"
        "   = help: did you mean 'status'?"
    )


@pytest.mark.parametrize(
    ("text", "code", "place", "message"),
    [
        # E0201: syntax
        ("status = 'active", "E0201", "'active", "a string begins here and does not end"),
        ('"status = 1', "E0201", '"status = 1', "a name begins here and does not end"),
        ("amount +", "E0201", "+", "an operand is missing after '+'"),
        ("amount > 1 AND", "E0201", "AND", "an operand is missing after 'AND'"),
        ("AND flag", "E0201", "AND", "an operand is missing before 'AND'"),
        ("(amount > 1", "E0201", "1", "expected ')' after '1'"),
        ("amount)", "E0201", ")", "unexpected ')'"),
        ("amount customer_id", "E0201", "customer_id", "unexpected 'customer_id'"),
        ("amount, status", "E0201", ",", "unexpected ','"),
        ("customer_id IN ()", "E0201", "customer_id IN ()", "the list after IN is empty"),
        # E0202: functions
        ("uper(status)", "E0202", "uper", "unknown function 'uper'"),
        ("1 + lenght(status)", "E0202", "lenght", "unknown function 'lenght'"),
        # E0203: columns and fields
        ("amount > 1 AND statsu = 'x'", "E0203", "statsu", "unknown column 'statsu' in step 'active'"),
        ("upper(Status) = 'X'", "E0203", "Status", "unknown column 'Status' in step 'active'"),
        ("who.nam = 'x'", "E0203", "nam", "unknown field 'nam'"),
        # E0204: types
        ("amount + status", "E0204", "status", "cannot apply '+' to float64 and string"),
        ("customer_id = 'x'", "E0204", "customer_id = 'x'", "cannot compare int64 with string"),
        ("updated_at > local", "E0204", "updated_at > local", "cannot compare timestamp[us, UTC] with timestamp[us]"),
        ("upper(customer_id)", "E0204", "customer_id", "upper() expects string, not int64"),
        ("NOT amount", "E0204", "amount", "NOT expects conditions, this is float64"),
        ("CASE WHEN flag THEN 1 ELSE 'x' END", "E0204", "'x'", "the results do not fit together: int32 and string"),
        ("CAST(status AS itn)", "E0204", "itn", "unknown type 'itn'"),
        ("CAST(flag AS date)", "E0204", "date", "cannot cast bool to date"),
        ("INTERVAL '1 month'", "E0204", "INTERVAL '1 month'", "an interval with months is not a value"),
        # E0205: not allowed
        ("SELECT 1", "E0205", "SELECT", "a statement is not allowed here"),
        ("DROP TABLE x", "E0205", "DROP", "a statement is not allowed here"),
        ("flag; DROP TABLE x", "E0205", "; DROP TABLE x", "one expression is expected, here are several"),
        ("amount AS total", "E0205", "AS total", "an alias is not allowed here"),
        ("customer_id IN (SELECT 1)", "E0205", "SELECT 1", "a subquery is not allowed in an expression"),
        ("(SELECT 1)", "E0205", "SELECT 1", "a subquery is not allowed in an expression"),
        ("EXISTS (SELECT 1)", "E0205", "SELECT 1", "a subquery is not allowed in an expression"),
        ("sum(amount)", "E0205", "sum", "the aggregate function sum() is not allowed here"),
        ("sum(amount) OVER ()", "E0205", "sum(amount)", "a window clause (OVER) is not allowed in an expression"),
        ("*", "E0205", "*", "'*' is not allowed in an expression"),
        ("tags -> x + 1", "E0205", "tags -> x", "a lambda is not allowed in an expression"),
        ("amount = ?", "E0205", "?", "a placeholder is not allowed in an expression"),
        ("upper(DISTINCT status)", "E0205", "upper(DISTINCT status)", "DISTINCT is for aggregate functions"),
        # E0206: arguments
        ("upper()", "E0206", "upper", "upper() takes 1 argument, 0 given"),
        ("round(amount, 1, 2)", "E0206", "round", "round() takes 1 to 2 arguments, 3 given"),
        # E0208: literals
        ("DATE '2024-13-01'", "E0208", "'2024-13-01'", "'2024-13-01' is not a date"),
        ("updated_at > 'soon'", "E0208", "'soon'", "'soon' is not a timestamp[us, UTC]"),
        ("regexp_matches(status, '(?=a)')", "E0208", "'(?=a)'", "the pattern is not valid: look-around"),
        ("regexp_matches(status, '[a')", "E0208", "'[a'", "the pattern is not valid: unclosed character class"),
        ("strftime(local, '%Q')", "E0208", "'%Q'", "the directive '%Q' is not known"),
        ("date_trunc('mnth', local)", "E0208", "'mnth'", "unknown part 'mnth'"),
        ("local AT TIME ZONE 'Europe/Pari'", "E0208", "'Europe/Pari'", "unknown time zone 'Europe/Pari'"),
        ("status LIKE 'a!' ESCAPE '!'", "E0208", "'a!'", "the pattern ends with its escape character"),
        ("INTERVAL '3 moons'", "E0208", "INTERVAL '3 moons'", "cannot read the interval '3 moons'"),
        ("json_extract(status, '$.a[')", "E0208", "'$.a['", "'$.a[' is not a JSON path"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_pointed_to(text: str, code: str, place: str, message: str) -> None:
    error = refused(text)
    assert (error.code, pointed(error)) == (code, place)
    assert error.message.startswith(message)
    assert error.step == "active"
    assert error.exit_status == 2


@pytest.mark.parametrize(
    ("text", "help"),
    [
        ("uper(status)", "did you mean 'upper'?"),
        ("customer_id = '3'", "write 3 without quotes"),
        ("status = 3", "write '3', or CAST(status AS int32)"),
        ("updated_at > local", "say which zone the naive one is in: local AT TIME ZONE 'UTC'"),
        ("upper(customer_id)", "write CAST(customer_id AS string)"),
        ("Status = 'x'", "did you mean 'status'?"),
        ("status + 'x'", "texts are joined with ||, and read as numbers with CAST(... AS float64)"),
        ("NOT amount", "write amount <> 0"),
        ("date_trunc('mnth', local)", "did you mean 'month'?"),
        ("local AT TIME ZONE 'Europe/Pari'", "did you mean 'Europe/Paris'?"),
        ("who.nam", "did you mean 'name'?"),
        ("regexp_matches(status, '(?<!a)b')", "lookahead and lookbehind are not possible"),
        ("nvl(status, 'x')", "did you mean 'coalesce'?"),
        ("SELECT 1", 'a column of this name is written "SELECT"'),
    ],
)
def test_the_way_out_is_named(text: str, help: str) -> None:
    assert refused(text).help == help


@pytest.mark.parametrize("text", ["", "   ", "-- nothing"])
def test_an_empty_expression_is_refused(text: str) -> None:
    error = refused(text)
    assert (error.code, error.message) == ("E0201", "the expression is empty")


def test_a_condition_must_be_one() -> None:
    with pytest.raises(ExpressionError) as caught:
        check_condition(written("amount + 1"), SCHEMA, step="active")
    assert caught.value.code == "E0204"
    assert caught.value.message == "a condition is expected, this is float64"
    assert pointed(caught.value) == "amount + 1"
    assert check_condition("NULL", SCHEMA).type == t.BOOL


def test_syntax_and_functions_are_checked_without_a_schema() -> None:
    assert parse("upper(a.b) = c[1]").columns == {"a", "c"}
    with pytest.raises(ExpressionError, match="unknown function 'uper'"):
        parse("uper(x)")


def with_variable(
    text: str, value: object, type_: t.DataType, *, secret: bool = False
) -> SourceText:
    """`text` holds ${x}: as the workflow's loader makes it."""
    template = text.replace("${param:x}", "__00______")
    line = f'    config: {{condition: "{text}"}}'
    variable = Variable("__00______", "${param:x}", value, type_, secret)
    return SourceText(
        text.replace("${param:x}", str(value)), template=template, variables=(variable,),
        starts=((0, Spot("w.yaml", 3, 26, len(text), line)),),
    )  # fmt: skip


def test_a_variable_is_a_value_of_its_type() -> None:
    typed = check(with_variable("amount > ${param:x}", 2.5, t.FLOAT64), SCHEMA)
    assert typed.shown == "amount > ${param:x}"
    sql = typed.to_sql("duckdb")
    assert sql is not None
    assert (sql.text, sql.params) == ('("amount" > ?)', (2.5,))


def test_a_variable_cannot_be_injected() -> None:
    typed = check(with_variable("status = ${param:x}", "' OR 1=1 --", t.STRING), SCHEMA)
    sql = typed.to_sql("sqlite")
    assert sql is not None
    assert (sql.text, sql.params) == ('("status" = ?)', ("' OR 1=1 --",))


@pytest.mark.parametrize(
    ("text", "help"),
    [
        ("status = '${param:x}'", "write ${param:x}"),
        ("status = 'user-${param:x}'", "write 'user-' || ${param:x}"),
        ("status LIKE '${param:x}%'", "write ${param:x} || '%'"),
    ],
)
def test_a_variable_inside_quotes_shows_the_unquoted_form(text: str, help: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        check(with_variable(text, "hidden", t.STRING), SCHEMA)
    assert (caught.value.code, caught.value.help) == ("E0207", help)
    assert pointed(caught.value) == "${param:x}"


def test_a_secret_is_not_shown_by_an_error_or_a_print() -> None:
    text = with_variable("hmac(status, ${param:x}) = 3", "hunter2", t.STRING, secret=True)
    with pytest.raises(ExpressionError) as caught:
        check(text, SCHEMA)
    assert "hunter2" not in render(caught.value)
    typed = check(
        with_variable("hmac(status, ${param:x})", "hunter2", t.STRING, secret=True), SCHEMA
    )
    assert "hunter2" not in repr(typed)
    assert "hunter2" not in str(ExprText(text))


def test_a_wrong_value_of_a_variable_is_told_by_its_name() -> None:
    with pytest.raises(ExpressionError) as caught:
        check(with_variable("updated_at > ${param:x}", "hunter2", t.STRING, secret=True), SCHEMA)
    assert caught.value.message == "${param:x} is not a timestamp[us, UTC]"


def test_a_checked_expression_pickles_and_an_expression_text_too() -> None:
    typed = check(written("upper(status) = 'A' AND amount / 2 > 1"), SCHEMA, step="active")
    again = pickle.loads(pickle.dumps(typed))
    assert again == typed
    assert str(again.lower().value) == str(typed.lower().value)
    text = ExprText(written("status"))
    assert pickle.loads(pickle.dumps(text)) == text


@pytest.mark.parametrize(
    ("measure", "code", "place", "message"),
    [
        ("sum(sum(amount))", "E0205", "sum", "the aggregate function sum() cannot be inside of another"),
        ("amount", "E0205", "amount", "column 'amount' must be inside of an aggregate function"),
        ("sum(amout)", "E0203", "amout", "unknown column 'amout' in step 'totals'"),
        ("sum(status)", "E0204", "status", "sum() expects number, not string"),
        ("median(DISTINCT amount)", "E0205", "median", "DISTINCT is possible in avg, count, list, max, min, string_agg, sum, not in median()"),
        ("first(amount ORDER BY status)", "E0205", "first(amount ORDER BY status)", "ORDER BY is possible in list and string_agg"),
        ("list(DISTINCT amount ORDER BY status)", "E0205", "status", "after DISTINCT, ORDER BY is the value itself"),
        ("list(amount ORDER BY tags)", "E0204", "tags", "ORDER BY cannot order list<string>"),
        ("list(amount ORDER BY amout)", "E0203", "amout", "unknown column 'amout' in step 'totals'"),
        ("quantile(amount, 2)", "E0204", "2", "the fraction of quantile() is between 0 and 1"),
        ("sum(amount) FILTER (WHERE amount)", "E0204", "amount", "FILTER expects a condition, this is float64"),
        ("upper(status) FILTER (WHERE flag)", "E0205", "upper", "FILTER is for aggregate functions"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_measure_is_pointed_to(
    measure: str, code: str, place: str, message: str
) -> None:
    with pytest.raises(ExpressionError) as caught:
        check_measures({"m": written(measure)}, SCHEMA, step="totals")
    assert (caught.value.code, pointed(caught.value)) == (code, place)
    assert caught.value.message.startswith(message)
