"""Parse YAML text to maps, lists and scalars with their places. Variables are replaced later.

Always true: the result has only maps, lists, text, numbers, booleans and null; the parser is not
recursive, and depth, number of nodes and expanded aliases are bounded; keys are text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from msgspec import Struct, field

from dataflare.errors import DataFlareError, Spot, WorkflowError
from dataflare.model.text import SourceText
from dataflare.workflow.lines import Lines, check_lines
from dataflare.workflow.nodes import SpotList, SpotMap
from dataflare.workflow.scalars import located, plain_value

NODES_MAX = 500_000
ALIASED_MAX = 100_000
DEPTH_MAX = 100
REPLACE = "!replace"
"""The only tag of a mapping: the mapping replaces the one below it and is not merged."""

_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Open(Struct):
    """A collection that is being read. size, height: of the tree below it, with aliases expanded."""

    node: SpotMap | SpotList
    spot: Spot
    anchor: str | None
    begin: tuple[int, int]
    key: str | None = None
    key_spot: Spot | None = None
    skip: bool = False
    size: int = 1
    height: int = 1
    merges: list[tuple[Any, Spot]] = field(default_factory=list)


class _Anchored(Struct):
    value: Any
    size: int
    height: int


def parse(
    text: str, file: str, errors: list[DataFlareError], *, lines: Lines | None = None
) -> tuple[Any, Spot]:
    """The file's value and its place. An error for a duplicate key is added to `errors`, and its first
    value is kept. Raises WorkflowError (E0101, E0113) if parsing cannot continue."""
    check_lines(text, file)
    return _Parser(text.removeprefix("\ufeff"), file, errors, lines).run()


class _Parser:
    def __init__(
        self, text: str, file: str, errors: list[DataFlareError], lines: Lines | None
    ) -> None:
        self.text, self.file, self.errors = text, file, errors
        self.lines = lines or Lines(file, text)
        self.stack: list[_Open] = []
        self.anchors: dict[str, _Anchored] = {}
        self.nodes = self.aliased = self.documents = 0
        self.root: Any = None
        self.root_spot = self.lines.spot(0, 0)

    def run(self) -> tuple[Any, Spot]:
        for event in self._events():
            match event:
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._open(event)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._close(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.DocumentStartEvent():
                    self.documents += 1
                    if self.documents > 1:
                        raise self._error(
                            "E0101",
                            "a workflow file has one document, and a second begins here",
                            event,
                        )
        return self.root, self.root_spot

    def _events(self) -> Iterator[Any]:
        try:
            yield from yaml.parse(self.text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from error
        except yaml.reader.ReaderError as error:
            raise self._unreadable(error) from error
        except yaml.YAMLError as error:
            raise WorkflowError(
                f"not valid YAML: {error}", code="E0101", help="fix the text there"
            ) from error

    # -- nodes

    def _scalar(self, event: Any) -> None:
        top = self.stack[-1] if self.stack else None
        start, end = event.start_mark, event.end_mark
        style = event.style or ""
        spot = self.lines.token((start.line, start.column), (end.line, end.column))
        if top is not None and top.key is None and isinstance(top.node, SpotMap):
            self._key(top, event, spot)
            return
        text: str = event.value
        value: Any
        if event.tag is not None and event.tag != "!":
            value = self._tagged(event, text, spot)
        elif style == "" and event.tag is None:
            value = plain_value(text)
        else:
            value = text
        if isinstance(value, str):
            bare = event.tag is None and event.anchor is None
            value = located(text, style, self.lines, start, end, bare)
        self._place(value, spot, event.anchor, 1, 1, event)

    def _tagged(self, event: Any, text: str, spot: Spot) -> Any:
        tag: str = event.tag.removeprefix(_CORE)
        tag_type = _SCALAR_TAGS.get(tag)
        if tag_type is None or not event.tag.startswith(_CORE):
            raise self._foreign_tag(event)
        if tag_type is str:
            return text
        value = plain_value(text)
        if tag_type is float and type(value) is int:
            value = float(value)
        if not isinstance(value, tag_type) or (tag_type is int and isinstance(value, bool)):
            self.errors.append(
                WorkflowError(
                    f"'{text}' is not a value of the tag !!{tag}",
                    code="E0105",
                    spot=spot,
                    help="leave the tag out, or fix the value",
                )
            )
        return value

    def _open(self, event: Any) -> None:
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        replaces = event.tag == REPLACE and kind == "map"
        if event.tag is not None and event.tag not in ("!", _CORE + kind) and not replaces:
            raise self._foreign_tag(event)
        top = self.stack[-1] if self.stack else None
        if top is not None and top.key is None and isinstance(top.node, SpotMap):
            raise self._error("E0101", "a key must be text, not a mapping or a list", event)
        if len(self.stack) >= DEPTH_MAX:
            raise self._error(
                "E0113", f"maps and lists are nested more than {DEPTH_MAX} deep", event
            )
        begin = event.start_mark.line, event.start_mark.column
        spot = self.lines.spot(*begin)
        node: SpotMap | SpotList = SpotMap(spot=spot) if kind == "map" else SpotList(spot=spot)
        if isinstance(node, SpotMap):
            node.replaces = replaces
        self.stack.append(_Open(node, spot, event.anchor, begin))

    def _close(self, event: Any) -> None:
        collection = self.stack.pop()
        end = event.end_mark.line, event.end_mark.column
        flow = end[1] > 0 and self.lines.raw[end[0]][end[1] - 1 : end[1]] in ("}", "]")
        if flow and collection.node.spot is not None:
            collection.spot = self.lines.token(collection.begin, end)
        else:
            width = len(self.lines.raw[collection.begin[0]].rstrip()) if self.lines.raw else 1
            collection.spot = self.lines.spot(*collection.begin, width - collection.begin[1])
        if isinstance(collection.node, SpotMap):
            for merged, spot in collection.merges:
                self._merge(collection.node, merged, spot)
        self._place(
            collection.node,
            collection.spot,
            collection.anchor,
            collection.size,
            collection.height,
            event,
        )

    def _alias(self, event: Any) -> None:
        top = self.stack[-1] if self.stack else None
        anchored = self.anchors.get(event.anchor)
        if anchored is None:
            inside = any(each.anchor == event.anchor for each in self.stack)
            problem = "is inside its own anchor" if inside else "has no anchor before it"
            raise self._error(
                "E0113" if inside else "E0101", f"the alias '*{event.anchor}' {problem}", event
            )
        self.aliased += anchored.size
        if self.aliased > ALIASED_MAX or len(self.stack) + anchored.height > DEPTH_MAX:
            raise self._error(
                "E0113",
                f"the aliases of this file expand to more than {ALIASED_MAX:,} values"
                if self.aliased > ALIASED_MAX
                else f"maps and lists are nested more than {DEPTH_MAX} deep",
                event,
            )
        start, end = event.start_mark, event.end_mark
        spot = self.lines.token((start.line, start.column), (end.line, end.column))
        if top is not None and top.key is None and isinstance(top.node, SpotMap):
            if not isinstance(anchored.value, str):
                raise self._error("E0101", "a key must be text", event)
            self._set_key(top, str(anchored.value), spot)
            return
        self._place(anchored.value, spot, None, anchored.size, anchored.height, event)

    # -- putting them together

    def _key(self, top: _Open, event: Any, spot: Spot) -> None:
        if event.tag is not None and event.tag not in ("!", _CORE + "str"):
            raise self._foreign_tag(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchored(SourceText(event.value), 1, 1)
        self._set_key(top, event.value, spot)
        if event.value == "<<" and not event.style and event.tag is None:
            top.skip = True

    def _set_key(self, top: _Open, key: str, spot: Spot) -> None:
        top.key, top.key_spot, top.skip = key, spot, False
        if key in top.node:
            assert isinstance(top.node, SpotMap)
            top.skip = True
            first = top.node.key_spots.get(key)
            self.errors.append(
                WorkflowError(
                    f"the key '{key}' is given twice",
                    code="E0102",
                    spot=spot,
                    notes=[f"first in line {first.line}"] if first else [],
                    help="remove one of the two, or rename it",
                )
            )

    def _place(
        self, value: Any, spot: Spot, anchor: str | None, size: int, height: int, event: Any
    ) -> None:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise self._error("E0113", f"the file holds more than {NODES_MAX:,} values", event)
        if anchor is not None:
            self.anchors[anchor] = _Anchored(value, size, height)
        if not self.stack:
            self.root, self.root_spot = value, spot
            return
        top = self.stack[-1]
        top.size += size
        top.height = max(top.height, height + 1)
        if isinstance(top.node, SpotList):
            top.node.put(value, spot)
            return
        assert top.key is not None
        if top.key == "<<" and top.skip and "<<" not in top.node:
            top.merges.append((value, spot))
        elif not top.skip:
            if isinstance(value, SpotMap | SpotList) and value.spot is not None and anchor is None:
                # The place of a collection is its key. With an anchor it has several keys.
                value.spot = top.key_spot
            top.node.put(top.key, value, top.key_spot, spot)
        top.key = None

    def _merge(self, into: SpotMap, value: Any, spot: Spot) -> None:
        for each in value if isinstance(value, SpotList) else [value]:
            if not isinstance(each, SpotMap):
                self.errors.append(
                    WorkflowError(
                        "'<<' merges a mapping, or a list of mappings",
                        code="E0105",
                        spot=spot,
                        help="write an alias of a mapping: <<: *name",
                    )
                )
                return
            for key, item in each.items():
                if key not in into:
                    into.take(each, key, item)

    # -- errors

    def _error(self, code: str, message: str, event: Any) -> WorkflowError:
        start, end = event.start_mark, event.end_mark
        spot = self.lines.token((start.line, start.column), (end.line, end.column))
        help = "fix the text there"
        if code == "E0113":
            help = "keep data out of the file, or split it with 'include'"
        return WorkflowError(message, code=code, spot=spot, help=help)

    def _foreign_tag(self, event: Any) -> WorkflowError:
        start = event.start_mark
        line = self.lines.raw[start.line][start.column :]
        tag_text = next((word for word in line.split() if word.startswith("!")), event.tag)
        column = start.column + max(0, line.find(tag_text))
        return WorkflowError(
            f"the tag '{tag_text}' is not allowed",
            code="E0113",
            spot=self.lines.spot(start.line, column, len(tag_text)),
            notes=[
                "a workflow holds plain data: text, numbers, true, false, null, lists, mappings"
            ],
            help="remove the tag, and quote the value if it is text",
        )

    def _syntax(self, error: yaml.MarkedYAMLError) -> WorkflowError:
        problem = error.problem or error.context or "it cannot be read"
        mark, context_mark = error.problem_mark or error.context_mark, error.context_mark
        place = self._place_in_text(mark.line, mark.column) if mark is not None else None
        notes = []
        if context_mark is not None and error.context and error.problem:
            context_place = self._place_in_text(context_mark.line, context_mark.column)
            if "end of stream" in problem:
                place, problem = context_place, f"the file ends {error.context} that begins here"
            elif context_place != place:
                notes.append(f"{error.context} that begins in line {context_place[0] + 1}")
        spot = self.lines.spot(*place) if place is not None else None
        return WorkflowError(
            f"not valid YAML: {problem}",
            code="E0101",
            spot=spot,
            notes=notes,
            help=self._syntax_help(problem, spot),
        )

    def _place_in_text(self, line: int, column: int) -> tuple[int, int]:
        """The place of a mark. For a mark after the text, the place after the last character."""
        raw = self.lines.raw
        last_line = max((i for i, each in enumerate(raw) if each.strip()), default=0)
        if line > last_line:
            return last_line, len(raw[last_line].rstrip())
        return line, min(column, len(raw[line]))

    def _syntax_help(self, problem: str, spot: Spot | None) -> str | None:
        line = self.lines.raw[spot.line - 1] if spot else ""
        if "cannot start any token" in problem and spot and line[spot.column - 1 :][:1] == "\t":
            return "indent with spaces, not with tabs"
        if line.startswith("\t"):
            return "indent with spaces, not with tabs"
        if "mapping values are not allowed" in problem:
            return "put text with ': ' in quotes"
        if "cannot start any token" in problem:
            return "put text that begins with this character in quotes"
        return None

    def _unreadable(self, error: Any) -> WorkflowError:
        code_point = error.character if isinstance(error.character, int) else ord(error.character)
        offset = self.text.find(chr(code_point))
        spot = None
        if offset >= 0:
            before = Lines(self.file, self.text[:offset]).raw
            spot = self.lines.spot(len(before) - 1, len(before[-1]))
        return WorkflowError(
            f"not valid YAML: the character U+{code_point:04X} is not allowed in a file",
            code="E0101",
            spot=spot,
            help=f'write it as an escape in double quotes: "\\u{code_point:04x}"',
        )
