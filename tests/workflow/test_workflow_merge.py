"""Includes, overlays and --set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.errors import DataFlareError, render
from dataflare.workflow import load
from dataflare.workflow.merge import merged
from dataflare.workflow.nodes import SpotMap

MAIN = """\
name: w
settings: {parallelism: 2, checkpoint: {retain: 5}}
sources:
  a: {type: inline, config: {rows: [], limit: 1}}
destinations:
  z: {type: blackhole, inputs: [a]}
"""


@pytest.fixture
def write(tmp_path):
    def write(**files):
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def refused(path, **more):
    with pytest.raises(DataFlareError) as caught:
        load(path, environ={}, **more)
    return caught.value


def spotted(value):
    if isinstance(value, dict):
        made = SpotMap()
        for key, item in value.items():
            made.put(key, spotted(item), None, None)
        return made
    return value


maps = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
).map(lambda value: spotted(value if isinstance(value, dict) else {"a": value}))


@given(maps, maps, maps)
def test_merging_is_associative_where_maps_meet_maps(a, b, c):
    # A scalar between two maps cuts the lower one off only when it comes second.
    left, right = merged(merged(a, b), c), merged(a, merged(b, c))
    assert left == right or _cut(a, b, c)


def _cut(a, b, c):
    for key in a.keys() & b.keys() & c.keys():
        kinds = [isinstance(each[key], dict) for each in (a, b, c)]
        if kinds == [True, False, True] or (all(kinds) and _cut(a[key], b[key], c[key])):
            return True
    return False


@given(maps)
def test_merging_nothing_or_itself_changes_nothing(a):
    assert merged(a, SpotMap()) == a
    assert merged(SpotMap(), a) == a
    assert merged(a, a) == a


@given(maps, maps)
def test_what_comes_later_wins_and_nothing_is_lost(a, b):
    result = merged(a, b)
    assert set(result) == set(a) | set(b)
    for key, value in b.items():
        if not isinstance(value, dict):
            assert result[key] == value


def test_the_file_wins_over_what_it_includes_and_later_includes_over_earlier(write):
    folder = write(
        main="include: [one.yaml, two.yaml]\n" + MAIN,
        one="version: '1.0'\nsettings: {parallelism: 7, mode: batch, checkpoint: {retain: 9, timeout: 5s}}\n",
        two="settings: {mode: streaming}\n",
    )
    settings = load(folder / "main.yaml", environ={}).settings
    assert (settings.parallelism, settings.mode) == (2, "streaming")
    assert (settings.checkpoint.retain, settings.checkpoint.timeout) == (5, 5.0)


def test_includes_are_found_from_the_file_that_names_them(write):
    folder = write(
        main="include: parts/one.yaml\n" + MAIN,
        parts__one="include: [deeper/two.yaml]\n",
        parts__deeper__two="description: from below\n",
    )
    workflow = load(folder / "main.yaml", environ={})
    assert workflow.description == "from below"
    assert workflow.base == folder


def test_the_same_file_may_be_included_twice(write):
    folder = write(
        main="include: [one.yaml, two.yaml]\n" + MAIN,
        one="include: [common.yaml]\n",
        two="include: [common.yaml]\n",
        common="description: common\n",
    )
    assert load(folder / "main.yaml", environ={}).description == "common"


def test_an_include_may_hold_a_variable_of_the_environment(write):
    folder = write(main="include: ['${STAGE:-dev}.yaml']\n" + MAIN, prod="description: prod\n")
    assert load(folder / "main.yaml", environ={"STAGE": "prod"}).description == "prod"


def test_a_circle_of_includes_is_drawn(write):
    folder = write(
        main="include: [one.yaml]\n" + MAIN,
        one="include: [two.yaml]\n",
        two="include: [main.yaml]\n",
    )
    error = refused(folder / "main.yaml")
    assert render(error).replace(f"{folder}/", "") == (
        "error[E0111]: files include one another in a circle\n"
        " --> two.yaml:1:11\n"
        "  |\n"
        "1 | include: [main.yaml]\n"
        "  |           ^^^^^^^^^\n"
        "   = main.yaml -> one.yaml -> two.yaml -> main.yaml\n"
        "   = help: remove the include from one of them"
    )


def test_what_is_wrong_in_an_included_file_is_shown_there(write):
    folder = write(main="include: [one.yaml]\n" + MAIN, one="settings:\n  mod: batch\n")
    error = refused(folder / "main.yaml")
    assert str(error.spot) == f"{folder / 'one.yaml'}:2:3"
    assert error.help == "did you mean 'mode'?"


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ("gone.yaml", "cannot read '{}/gone.yaml': there is no such file"),
        ("folder", "'{}/folder' is a folder, not a file"),
        ('"a\\0b.yaml"', r"cannot read 'a\x00b.yaml': embedded null byte"),
    ],
)
def test_an_include_that_cannot_be_read_is_shown_where_it_stands(write, include, message):
    folder = write(main=f"include: [{include}]\n" + MAIN, folder__x="")
    error = refused(folder / "main.yaml")
    assert (error.code, error.message) == ("E0111", message.format(folder))
    assert (error.spot.line, error.spot.column) == (1, 11)


def test_overlays_win_in_order_over_the_file_and_its_includes(write):
    folder = write(
        main="include: [one.yaml]\n" + MAIN,
        one="description: one\n",
        prod="settings: {parallelism: 8, mode: batch}\nsources: {a: {config: {limit: 2}}}\n",
        last="settings: {parallelism: 9}\n",
    )
    workflow = load(
        folder / "main.yaml", environ={}, overlays=[folder / "prod.yaml", folder / "last.yaml"]
    )
    assert (workflow.settings.parallelism, workflow.settings.mode) == (9, "batch")
    assert workflow.sources["a"].config == {"rows": [], "limit": 2}
    assert workflow.description == "one"
    assert workflow.name == "w"


def test_an_overlay_may_add_a_step_between(write):
    folder = write(
        main=MAIN,
        extra="transformations: {f: {type: filter, inputs: [a]}}\ndestinations: {z: {inputs: [f]}}\n",
    )
    workflow = load(folder / "main.yaml", environ={}, overlays=[folder / "extra.yaml"])
    assert [step.name for step in workflow.steps()] == ["a", "f", "z"]
    assert str(workflow.destinations["z"].inputs[0].spot) == f"{folder / 'extra.yaml'}:2:29"


def test_an_overlay_that_is_missing_is_the_command_lines_fault(write):
    folder = write(main=MAIN)
    assert refused(folder / "main.yaml", overlays=[folder / "gone.yaml"]).code == "E0114"


def test_sets_are_read_as_yaml_and_win_over_everything(write):
    folder = write(main=MAIN, prod="settings: {parallelism: 8}\n")
    workflow = load(
        folder / "main.yaml",
        environ={"R": "x"},
        overlays=[folder / "prod.yaml"],
        sets=[
            ("settings.parallelism", "4"),
            ("settings.batch", "{initial: 200, latency_target: 5ms}"),
            ("sources.a.config.rows", "[{k: '${R}'}, {k: null}]"),
            ("sources.a.config.rows.1.k", "two"),
            "description=a=b",
        ],
    )
    assert (workflow.settings.parallelism, workflow.settings.batch.initial) == (4, 200)
    assert workflow.sources["a"].config["rows"] == [{"k": "x"}, {"k": "two"}]
    assert workflow.description == "a=b"


@pytest.mark.parametrize(
    ("path", "text", "block"),
    [
        (
            "settings.paralelism",
            "4",
            "error[E0103]: unknown key 'paralelism' in 'settings'\n"
            " --> --set:1:10\n"
            "  |\n"
            "1 | settings.paralelism=4\n"
            "  |          ^^^^^^^^^^\n"
            "   = known keys: backpressure, batch, checkpoint, cluster, degrade, error_handling, guarantee, mode, "
            "parallelism, resources, restart, run_column, schema_change, state\n"
            "   = help: did you mean 'parallelism'?",
        ),
        (
            "settings.mode",
            "bach",
            "error[E0105]: wrong value for 'mode' in 'settings'\n"
            " --> --set:1:15\n"
            "  |\n"
            "1 | settings.mode=bach\n"
            "  |               ^^^^\n"
            "   = expected: one of 'auto', 'batch', 'streaming'\n"
            "   = found: text 'bach'\n"
            "   = help: did you mean 'batch'?",
        ),
        (
            "name.first",
            "x",
            "error[E0105]: there is nothing below here to set 'first' in\n"
            " --> --set:1:6\n"
            "  |\n"
            "1 | name.first=x\n"
            "  |      ^^^^^\n"
            "   = found: text\n"
            "   = help: set the whole value instead",
        ),
        (
            "destinations.z.inputs.1",
            "x",
            "error[E0105]: '1' is not an item of this list\n"
            " --> --set:1:23\n"
            "  |\n"
            "1 | destinations.z.inputs.1=x\n"
            "  |                       ^\n"
            "   = it has 1 items, counted from 0\n"
            "   = help: count the items from 0",
        ),
        (
            "settings..mode",
            "x",
            "error[E0105]: 'settings..mode' is not a path into the workflow\n"
            " --> --set:1:1\n"
            "  |\n"
            "1 | settings..mode=x\n"
            "  | ^^^^^^^^^^^^^^\n"
            "   = help: write --set settings.parallelism=4",
        ),
        (
            "description",
            "[a",
            "error[E0101]: not valid YAML: did not find expected ',' or ']'\n"
            " --> --set:1:15\n"
            "  |\n"
            "1 | description=[a\n"
            "  |               ^\n"
            "   = while parsing a flow sequence that begins in line 1",
        ),
    ],
)
def test_a_wrong_set_is_shown_like_a_file(write, path, text, block):
    assert render(refused(write(main=MAIN) / "main.yaml", sets=[(path, text)])) == block


def test_a_value_from_the_command_line_keeps_its_characters_in_place(write):
    workflow = load(
        write(main=MAIN) / "main.yaml",
        environ={"A": "b"},
        sets=[("sources.a.config.query", "\"x > 1 and '${A}'\"")],
    )
    query = workflow.sources["a"].config["query"]
    spot = query.spot_of(query.template.index("and"), query.template.index("and") + 3)
    assert spot.text[spot.column - 1 :][:3] == "and"
