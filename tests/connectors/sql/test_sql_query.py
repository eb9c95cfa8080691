from __future__ import annotations

import pytest

from dataflare.errors import ConfigError, ExpressionError
from dataflare.model.text import SourceText, Variable
from dataflare.model.types import INT64
from dataflare.sdk.sql.query import bind_query

V = Variable("__00___", "${param:m}", 5, INT64)


def text(template: str) -> SourceText:
    return SourceText(template.replace(V.placeholder, "5"), template=template, variables=(V,))


def test_variables_become_bound_values():
    bound = bind_query(
        text("select a from t where b > __00___ and c < __00___ -- not __00___ here\n;")
    )
    assert bound.sql == "select a from t where b > ? and c < ? -- not __00___ here"
    assert bound.params == (5, 5)
    assert "${param:m}" in bound.shown


@pytest.mark.parametrize(
    ("template", "help_"),
    [
        ("select * from t where a = '__00___'", "write it without quotes: ${param:m}"),
        ("select 'x__00___y'", "write it without quotes: 'x' || ${param:m} || 'y'"),
        ('select "__00___"', "write it without quotes: ${param:m}"),
    ],
)
def test_a_variable_in_quotes_is_refused_with_the_unquoted_form(template, help_):
    with pytest.raises(ExpressionError) as caught:
        bind_query(text(template))
    assert caught.value.code == "E0207"
    assert caught.value.help == help_


@pytest.mark.parametrize(
    "query",
    ["delete from t", "select 1; select 2", "select 1; drop table t -- x", "", "-- only this", "select ?",
     "insert into t values (1)", "pragma user_version = 3", "attach 'x' as y", "select 1; 'x'"],
)  # fmt: skip
def test_what_is_not_one_select_is_refused(query):
    with pytest.raises(ConfigError) as caught:
        bind_query(query)
    assert caught.value.code == "E0412"


@pytest.mark.parametrize(
    "query",
    ["select ';' as a, '?' as b", "with x as (select 1) select * from x", "/* ; */ select 1 ; -- end",
     "values (1), (2)", "select 'it''s; ?'", "(select 1)"],
)  # fmt: skip
def test_one_select_passes(query):
    assert bind_query(query).params == ()
