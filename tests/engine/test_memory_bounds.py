"""What is too long for the budget is refused or left out by name, and memory keeps its bound meanwhile."""

import gzip
import json
import os
import subprocess
import sys

MEMORY = 32 << 20
RSS_MAX = MEMORY * 13 // 10 + (150 << 20)
LONG = 48 << 20

WORKFLOW = """\
name: bounds
version: "1.0"
settings:
  resources: {{memory: 32MiB, threads: 2}}
  error_handling: {{on_error: {on_error}, dead_letter: {{path: dead}}}}
sources:
  rows: {{type: file, config: {{path: {name}}}}}
destinations:
  out: {{type: file, inputs: [rows], config: {{path: out.ndjson}}}}
"""

MEASURED = """\
import resource, subprocess, sys
ended = subprocess.run([sys.executable, "-m", "dataflare", "run", "w.yaml", "--json"], capture_output=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(ended.returncode, peak * (1 if sys.platform == "darwin" else 1024))
sys.stdout.flush()
sys.stdout.buffer.write(ended.stdout)
"""
"""Each run has a parent of its own, whose children are this run alone."""


class Ended:
    def __init__(self, output: bytes) -> None:
        first, _, rest = output.partition(b"\n")
        self.status, self.peak = map(int, first.split())
        self.result = json.loads(rest)


def run(folder, name, on_error="fail"):
    (folder / "w.yaml").write_text(WORKFLOW.format(name=name, on_error=on_error))
    env = {**os.environ, "DATAFLARE_HOME": str(folder / "home")}
    made = subprocess.run(
        [sys.executable, "-c", MEASURED], cwd=folder, env=env, capture_output=True, check=True
    )
    ended = Ended(made.stdout)
    assert ended.peak <= RSS_MAX, f"{ended.peak >> 20} MB of {RSS_MAX >> 20}"
    return ended


def ids(folder):
    lines = (folder / "out.ndjson").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


def letters(folder):
    lines = [line for file in folder.glob("dead/*.ndjson") for line in file.open()]
    return [json.loads(line) for line in lines]


def csv_line(opened, quote=b""):
    with opened as file:
        file.write(b"id,v\n1,a\n2," + quote)
        for _ in range(LONG >> 20):
            file.write(b"x" * (1 << 20))
        file.write(quote + b"\n3,c\n")


def test_a_long_line_of_json_becomes_a_letter_that_says_it_is_cut(tmp_path):
    text = b'{"id":1,"v":"a"}\n{"id":2,"v":"' + b"x" * LONG + b'"}\n{"id":3,"v":"c"}\n'
    (tmp_path / "a.ndjson").write_bytes(text)
    assert run(tmp_path, "a.ndjson", "dead_letter").status == 0
    assert ids(tmp_path) == [1, 3]
    (letter,) = letters(tmp_path)
    assert (letter["code"], letter["position"]) == ("E0560", "a.ndjson line 2")
    raw = json.loads(letter["row"])["raw"]
    assert raw.startswith('{"id":2,"v":"xxx')
    assert raw.endswith(f"xxx… (cut: the first 1,048,576 of {LONG + 15:,} bytes)")


def test_one_long_field_in_quotes_is_one_bad_row(tmp_path):
    csv_line((tmp_path / "a.csv").open("wb"), b'"')
    assert run(tmp_path, "a.csv", "dead_letter").status == 0
    assert ids(tmp_path) == [1, 3]
    assert [letter["position"] for letter in letters(tmp_path)] == ["a.csv line 3"]


def test_a_line_that_a_packed_file_inflates_to_ends_the_run_with_its_bound(tmp_path):
    csv_line(gzip.GzipFile(tmp_path / "a.csv.gz", "wb", compresslevel=1))
    ended = run(tmp_path, "a.csv.gz")
    assert ended.status == 1
    error = ended.result["error"]
    assert error["code"] == "E0560"
    for words in (f"{LONG + 2:,} bytes", "line 3", "resources.memory", f"{4 << 20:,}"):
        assert words in error["message"]
    assert "memory" in error["help"]


def test_a_packed_file_of_many_rows_is_read_piece_by_piece(tmp_path):
    rows = b"1,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n" * 16_384
    with gzip.open(tmp_path / "a.csv.gz", "wb", compresslevel=1) as file:
        file.write(b"id,v\n" + rows * 64)
    ended = run(tmp_path, "a.csv.gz")
    assert (ended.status, ended.result["steps"]["rows"]["rows_out"]) == (0, 16_384 * 64)


def test_a_json_file_larger_than_its_bound_is_read_piece_by_piece(tmp_path):
    rows = ",".join(f'{{"id":{i}}}' for i in range(1 << 19))
    (tmp_path / "a.json").write_text(f"[{rows}]")
    assert run(tmp_path, "a.json").status == 0
    assert ids(tmp_path) == list(range(1 << 19))


def test_a_deep_item_of_a_json_file_is_one_bad_row(tmp_path):
    deep = '{"id":2,"v":' + "[" * 10_000 + "]" * 10_000 + "}"
    (tmp_path / "a.json").write_text('[{"id":1,"v":[1]}, ' + deep + ', {"id":3,"v":[2]}]')
    assert run(tmp_path, "a.json", "dead_letter").status == 0
    assert ids(tmp_path) == [1, 3]
    (letter,) = letters(tmp_path)
    assert letter["position"] == "a.json row 2"
    assert json.loads(letter["row"])["raw"] == deep


def test_a_deep_line_of_json_is_one_bad_row(tmp_path):
    nested = b"[" * 10_000 + b"]" * 10_000
    text = b'{"id":1,"v":[1]}\n{"id":2,"v":' + nested + b'}\n{"id":3,"v":[2]}\n'
    (tmp_path / "a.ndjson").write_bytes(text)
    assert run(tmp_path, "a.ndjson", "dead_letter").status == 0
    assert ids(tmp_path) == [1, 3]
    (letter,) = letters(tmp_path)
    assert json.loads(letter["row"])["raw"].encode() == text.split(b"\n")[1]
