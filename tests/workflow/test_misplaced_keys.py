"""A key in the wrong place: the help says where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflare.errors import DataFlareError
from dataflare.planner import check
from dataflare.workflow import load

HEAD = "name: w\n"
SOURCE = "sources:\n  a: {{type: file, {}}}\n"
STEP = "transformations:\n  f: {{type: filter, inputs: [a], {}}}\n"
END = "destinations:\n  z: {type: blackhole, inputs: [a]}\n"


def refused(text: str, folder: Path) -> DataFlareError:
    file = folder / "w.yaml"
    file.write_text(text)
    (folder / "in.csv").write_text("id\n1\n")
    with pytest.raises(DataFlareError) as caught:
        check(load(file))
    return caught.value


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("schema: {id: int64}", "'schema' belongs to the source: write it beside 'config', not in it"),
        ("event_time: {column: at}", "'event_time' belongs to the source: write it beside 'config', not in it"),
        ("description: the rows", "'description' belongs to the step: write it beside 'config', not in it"),
        ("error_handling: {on_error: skip}", "'error_handling' belongs to the step: write it beside 'config', not in it"),
        ("on_error: skip", "'on_error' belongs in 'error_handling', beside 'config': error_handling: {on_error: ...}"),
        ("retry_count: 3", "'retry_count' belongs in 'error_handling', beside 'config': error_handling: {retry_count: ...}"),
        ("parallelism: 2", "'parallelism' is a setting of the whole workflow: write it in 'settings'"),
        ("pth: b.csv", "did you mean 'path'?"),
    ],
)  # fmt: skip
def test_a_key_of_the_step_in_its_config(config: str, said: str, tmp_path: Path):
    body = SOURCE.format(f"config: {{path: in.csv, {config}}}")
    error = refused(HEAD + body + END, tmp_path)
    assert (error.code, error.help) == ("E0403", said)
    assert error.spot is not None
    assert error.spot.line == 3


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("delimiter: ';'", "'delimiter' is an option of 'file': write it in 'config'"),
        ("delimeter: ';'", "did you mean 'delimiter'? It is an option of 'file': write it in 'config'"),
        ("on_error: skip", "'on_error' belongs in 'error_handling': error_handling: {on_error: ...}"),
        ("parallelism: 2", "'parallelism' is a setting of the whole workflow: write it in 'settings'"),
        ("descripton: rows", "did you mean 'description'?"),
        ("quite_unknown: 1", "take it out"),
    ],
)  # fmt: skip
def test_a_key_of_the_config_beside_it(beside: str, said: str | None, tmp_path: Path):
    body = SOURCE.format(f"config: {{path: in.csv}}, {beside}")
    error = refused(HEAD + body + END, tmp_path)
    assert (error.code, error.help) == ("E0103", said)


def test_it_is_said_of_transformations_destinations_and_the_workflow_too(tmp_path: Path):
    source = SOURCE.format("config: {path: in.csv}")
    step = STEP.format("condition: id > 1")
    error = refused(HEAD + source + step + END.replace("[a]", "[f]"), tmp_path)
    assert error.help == "'condition' is an option of 'filter': write it in 'config'"
    end = END.replace("blackhole", "file, path: out.csv")
    error = refused(HEAD + source + end, tmp_path)
    assert error.help == "'path' is an option of 'file': write it in 'config'"
    error = refused(HEAD + "parallelism: 2\n" + source + END, tmp_path)
    assert error.help == "'parallelism' belongs in 'settings'"
    error = refused(HEAD + "on_error: skip\n" + source + END, tmp_path)
    assert error.help == "'on_error' belongs in 'settings': error_handling: {on_error: ...}"
    # An unknown type has no options. The unknown type is reported separately.
    odd = "sources:\n  a: {type: filo, path: in.csv}\n"
    assert refused(HEAD + odd + END, tmp_path).help == "take it out"
