"""Files that are too large, too deep, or no text at all are refused quickly and clearly."""

from __future__ import annotations

import pytest

from dataflare.errors import DataFlareError, WorkflowError, render
from dataflare.workflow import load, load_text
from dataflare.workflow.lines import BYTES_MAX, LINES_MAX
from dataflare.workflow.parse import ALIASED_MAX, DEPTH_MAX, parse


def refused(text):
    with pytest.raises(WorkflowError) as caught:
        parse(text, "f.yaml", [])
    return caught.value


def test_aliases_may_expand_up_to_the_limit():
    row = "[" + "1," * 98 + "1]"
    text = f"a: &a {row}\nb: [" + ",".join(["*a"] * (ALIASED_MAX // 100)) + "]\n"
    value, _ = parse(text, "f.yaml", [])
    assert len(value["b"]) == ALIASED_MAX // 100
    error = refused(text.replace("b: [", "b: [*a,"))
    assert error.code == "E0113"
    assert f"{ALIASED_MAX:,}" in error.message


def test_depth_is_counted_through_aliases():
    half = DEPTH_MAX // 2

    def nested(outer):
        return f"a: &a {'[' * half}{']' * half}\nb: {'[' * outer}*a{']' * outer}\n"

    parse(nested(half - 1), "f.yaml", [])
    assert refused(nested(half)).message == f"maps and lists are nested more than {DEPTH_MAX} deep"


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_a_hundred_thousand_levels_do_not_break_the_reader(opening):
    assert refused(opening * 100_000).code in ("E0101", "E0113")


def test_a_million_lines_are_refused_before_they_are_read():
    error = refused("a: 1\n" + "#\n" * 1_000_000)
    assert error.code == "E0113"
    assert error.notes == [f"the limit is {LINES_MAX:,} lines and 8 MiB"]


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.yaml"
    with path.open("wb") as stream:
        stream.truncate(BYTES_MAX * 100)
    with pytest.raises(WorkflowError, match="too large") as caught:
        load(path)
    assert caught.value.code == "E0113"


def test_a_line_nobody_could_read_is_not_drawn():
    block = render(refused("a: '" + "x" * 5000 + "' b\n"))
    assert len(block) < 500


def test_text_in_another_encoding_shows_the_first_wrong_byte(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: w\ndescription: café\n".encode("latin-1"))
    with pytest.raises(WorkflowError) as caught:
        load(path)
    assert render(caught.value).replace(str(path), "latin.yaml") == (
        "error[E0101]: 'latin.yaml' is not UTF-8 text\n"
        " --> latin.yaml:2:17\n"
        "  |\n"
        "2 | description: caf\ufffd\n"
        "  |                 ^\n"
        "   = byte 24 is 0xe9\n"
        "   = help: save the file in the encoding UTF-8"
    )


def test_bytes_that_are_no_text_at_all_are_refused(tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"name: a\x00b\n")
    with pytest.raises(WorkflowError, match=r"the character U\+0000 is not allowed"):
        load(path)


def test_a_control_character_is_not_sent_to_the_terminal():
    block = render(refused("name: w\ndescription: a\x1b[31mb\n"))
    assert "\x1b" not in block
    assert "2 | description: a\ufffd[31mb\n  |               ^" in block
    assert block.endswith(r'= help: write it as an escape in double quotes: "\u001b"')


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "is a folder, not a file"),
    ],
)
def test_a_file_that_cannot_be_read_is_the_command_lines_fault(tmp_path, make, message):
    path = tmp_path / "w.yaml"
    make(path)
    with pytest.raises(WorkflowError, match=message) as caught:
        load(path)
    assert (caught.value.code, caught.value.exit_status) == ("E0114", 2)


def test_an_empty_file_says_how_a_workflow_begins(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text("")
    with pytest.raises(WorkflowError) as caught:
        load(path)
    assert caught.value.message == f"'{path}' is empty"
    assert caught.value.help == "a workflow begins with: name: my_workflow"


def test_types_that_are_nested_or_spelt_like_an_attack_are_errors():
    for written in ("list<" * 5000 + "int64" + ">" * 5000, "decimal(a, b)", "[", ""):
        text = f"name: w\nparams: {{x: {{type: '{written}', default: 1}}}}\n"
        with pytest.raises(DataFlareError) as caught:
            load_text(text)
        errors = getattr(caught.value, "errors", [caught.value])
        missing = {"E0104"}  # sources and destinations
        assert {error.code for error in errors} - missing == {"E0112"}
