"""Texts, comments and messages are in plain words: phrases that need a second reading do not come back.

The reader is an engineer whose third language may be English. Add a phrase to `PHRASES` when a
reader stumbles over it. Add a room to `PATHS` when its texts are clean; `python
tests/test_plain_words.py PATH ...` lists what a path still has.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

PATHS = (
    "README.md",
    "CONTRIBUTING.md",
    "changelog.d",
    "docs/*.md",
    "docs/design",
    "examples",
    "demo",
    "src/dataflare/__init__.py",
    "src/dataflare/__main__.py",
    "src/dataflare/checkpoint",
    "src/dataflare/cli",
    "src/dataflare/cluster",
    "src/dataflare/connectors",
    "src/dataflare/connectors/blackhole.py",
    "src/dataflare/connectors/duckdb",
    "src/dataflare/connectors/fields.py",
    "src/dataflare/connectors/file",
    "src/dataflare/connectors/generate",
    "src/dataflare/connectors/http",
    "src/dataflare/connectors/inline",
    "src/dataflare/connectors/memory.py",
    "src/dataflare/sdk/sql",
    "src/dataflare/connectors/sqlite",
    "src/dataflare/connectors/stdout",
    "src/dataflare/errors.py",
    "src/dataflare/expr",
    "src/dataflare/formats",
    "src/dataflare/jobs",
    "src/dataflare/model",
    "src/dataflare/planner",
    "src/dataflare/observability",
    "src/dataflare/resilience",
    "src/dataflare/security",
    "src/dataflare/engine",
    "src/dataflare/operators",
    "src/dataflare/sdk",
    "src/dataflare/state",
    "src/dataflare/testing",
    "src/dataflare/workflow",
    "tests/bad_input",
    "tests/checkpoint",
    "tests/cli",
    "tests/cluster",
    "tests/connectors",
    "tests/docs",
    "tests/engine",
    "tests/expr",
    "tests/formats",
    "tests/jobs",
    "tests/model",
    "tests/operators",
    "tests/planner",
    "tests/recovery",
    "tests/resilience",
    "tests/security",
    "tests/servers",
    "tests/state",
    "tests/testing",
    "tests/test_plain_words.py",
    "tests/workflow",
)
"""What is clean: files and folders, or globs. Pages under docs/connectors and docs/reference are made
from the texts of src. Add rooms such as "src/dataflare/planner" and "tests/planner" when they are."""


class Phrase(NamedTuple):
    """A pattern that must not appear, why, and what to write instead."""

    pattern: str
    why: str
    instead: str


PHRASES = (
    Phrase(
        r"(?<!\bthere )\b(is|are|was|were) no (?!longer\b|more than\b|less than\b|such\b)\w+",
        "reads like a riddle",
        "'is not a ...'",
    ),
    Phrase(r"\bbut for\b", "old English", "'except'"),
    Phrase(r"\bmend(s|ed|ing)?\b", "rare word", "'fix'"),
    Phrase(r"\bof (ours|theirs|its own kind)\b", "unclear owner", "'internal', or DataFlare's"),
    Phrase(r"\bone'?s own\b", "unclear owner", "'your own'"),
    Phrase(r"\bwho(m|so)?ever\b", "nobody is meant", "name the task, the caller or the user"),
    Phrase(r"\b(nobody|somebody|everybody|no one)\b", "nobody is meant", "name who it is, or use the passive"),
    Phrase(r"\b(nothing|none) but\b", "old English", "'only'"),
    Phrase(r"\b(not|none|nothing) \w+ nor\b|, nor\b", "old English", "'and not'"),
    Phrase(r"\bshall\b", "old English", "'must' or the present tense"),
    Phrase(r"\bby (its|their|our|your) like\b|\band (its|their) like\b", "unclear", "name them, or 'and similar ones'"),
    Phrase(r"\b(is|are|was|were|be) (dealt with|looked at|looked for)\b", "vague verb", "'handle', 'read', 'check', 'search'"),
    Phrase(r"\bhears? of\b", "a component does not hear", "'receives', 'is told'"),
    Phrase(r"\bgood for\b.*\bnothing\b", "riddle", "say what does not work"),
    Phrase(r"\bless the \w+ing\b", "old English", "'without'"),
    Phrase(r"\bthat is (?-i:none)\b", "riddle", "'unknown', 'not a ...'"),
    Phrase(r"\b(the )?(task|step|source|destination|reader|writer|table|file|row|database|server|thread) who\b", "a component is not a person", "'that'"),
    Phrase(r"\b(therein|thereof|hereby|whence|hence|thus|lest|albeit|ere)\b", "old English", "'so', 'in it', 'because'"),
    Phrase(r"\bas good as\b", "unclear", "'almost', or the fact"),
    Phrase(r"\bwhat did not come by\b|\bcome by now\b", "riddle", "say what was not read, and when"),
    Phrase(r"\bfor want of\b|\bin want of\b", "old English", "'because there is no'"),
    Phrase(r"\b(an?|the) \w+ of (ones?|their|its) own kind\b|\bof users' own\b", "unclear owner", "'of users'"),
    Phrase(r"\bfor people\b", "unclear", "'to show to the user'"),
    Phrase(r"\bif need be\b", "old English", "'if needed'"),
    Phrase(r"\bin our words\b", "unclear", "'as DataFlare's errors'"),
    Phrase(r"\bleans on\b", "music", "'depends on'"),
    Phrase(r"\bwhat stands (there|in the way|before|behind|between|after)\b", "riddle", "name the thing"),
    Phrase(r"\bwithout a word\b", "idiom", "'without an error'"),
    Phrase(r"\bdraws? itself\b|\bspeaks? for itself\b", "music", "say what happens"),
)  # fmt: skip


class Found(NamedTuple):
    place: str
    phrase: Phrase
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text!r} ({self.phrase.why}); write {self.phrase.instead}"


PATTERNS = [(phrase, re.compile(phrase.pattern, re.IGNORECASE)) for phrase in PHRASES]
ANY = re.compile("|".join(f"(?:{phrase.pattern})" for phrase in PHRASES), re.IGNORECASE)
CODE = re.compile(
    r"^```(?:yaml|python|json|csv|toml|ini|dockerfile).*?^```", re.MULTILINE | re.DOTALL
)
COMMENT = re.compile(r"(?:^[ ]*|  )#[# ]*(.*)$", re.MULTILINE)
INLINE = re.compile(r"`[^`\n]*`")


def files(paths: tuple[str, ...]) -> Iterator[Path]:
    for path in paths:
        for match in sorted(ROOT.glob(path)):
            inside = match.rglob("*") if match.is_dir() else [match]
            yield from (each for each in sorted(inside) if each.suffix in READERS)


def blank(match: re.Match[str]) -> str:
    """The same number of lines, without the text."""
    return "\n" * match[0].count("\n") or " "


def markdown(text: str) -> Iterator[tuple[int, str]]:
    """(line, paragraph): lines are joined, because a phrase may be broken over two of them."""
    yield from paragraphs(INLINE.sub(blank, CODE.sub(blank, text)), 1)


def paragraphs(text: str, first: int) -> Iterator[tuple[int, str]]:
    start, lines = first, list[str]()
    for at, line in enumerate([*text.splitlines(), ""], first):
        if line.strip():
            lines.append(line.strip())
        else:
            if lines:
                yield start, "\n".join(lines)
            start, lines = at + 1, []


def python(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each comment block, docstring and other text."""
    comments: list[tuple[int, str]] = []
    # A text that looks like a comment is taken for one too, which does no harm, and no tokens are needed.
    for match in COMMENT.finditer(text):
        at = text.count("\n", 0, match.start()) + 1
        if comments and at > comments[-1][0] + 1:
            yield from block(comments)
            comments = []
        comments.append((at, match[1]))
    yield from block(comments)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, INLINE.sub(blank, node.value)


def block(comments: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    if comments:
        yield comments[0][0], "\n".join(text for _, text in comments)


def yaml_comments(text: str) -> Iterator[tuple[int, str]]:
    for at, line in enumerate(text.splitlines(), 1):
        _, mark, comment = line.partition("# ")
        if mark:
            yield at, comment


READERS = {".md": markdown, ".py": python, ".yaml": yaml_comments}


def found(path: Path) -> Iterator[Found]:
    if path == Path(__file__):
        return
    for first, text in READERS[path.suffix](path.read_text()):
        joined = re.sub(r"\s", " ", text)
        if not ANY.search(joined):
            continue
        for phrase, pattern in PATTERNS:
            for match in pattern.finditer(joined):
                line = first + text.count("\n", 0, match.start())
                yield Found(f"{path.relative_to(ROOT)}:{line}", phrase, match[0])


def test_phrases_that_need_a_second_reading_do_not_come_back():
    all_found = [each for path in files(PATHS) for each in found(path)]
    assert not all_found, "\n" + "\n".join(map(str, all_found))


def test_every_path_of_the_list_exists():
    assert [path for path in PATHS if not list(files((path,)))] == []


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("page.md", "# Title\n\nIt waits,\nbut\nfor one.\n", 4),
        ("page.md", "A line that\nis no value.\n", 2),
        ("code.py", "x = 1  # once\n\n# All rows\n# but for one.\n", 4),
        ("code.py", 'raise ValueError("mend the data")\n', 1),
        ("flow.yaml", "name: a\nversion: b  # nobody reads it\n", 2),
    ],
)
def test_a_phrase_is_found_with_its_line(name: str, text: str, line: int, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    (each,) = found(tmp_path / name)
    assert each.place == f"{name}:{line}"
    assert each.phrase.instead in str(each)


@pytest.mark.parametrize(
    "text",
    [
        "There is no file.",
        "It is no longer there.",
        "`but for`",
        "```yaml\na: but for\n```",
        "amended",
    ],
)
def test_plain_text_passes(text: str, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "page.md").write_text(text + "\n")
    assert list(found(tmp_path / "page.md")) == []


if __name__ == "__main__":
    for each in (one for path in files(tuple(sys.argv[1:])) for one in found(path)):
        print(each)
