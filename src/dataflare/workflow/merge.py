"""Merge several files into one: includes, overlays and `--set`.

Always true: maps are merged key by key, unless the later one is of another type or is written
`!replace`; any other value is replaced by the later one; a file wins over its includes; without other
files the tree does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dataflare.errors import DataFlareError, Spot, WorkflowError, did_you_mean
from dataflare.workflow.form import short
from dataflare.workflow.lines import Lines, read_file
from dataflare.workflow.nodes import SpotList, SpotMap, key_spot_of, kind_of, spot_of
from dataflare.workflow.parse import DEPTH_MAX, parse

INCLUDES_MAX = 100
STEP_SECTIONS = ("sources", "transformations", "destinations")
TYPED = ("source", "auth", "pagination", "dead_letter")
"""Options whose value is a mapping with a `type`, on which its other keys depend."""
Substitute = Callable[[Any], Any]


def merged(low: SpotMap, high: SpotMap, path: tuple[str, ...] = ()) -> SpotMap:
    """Merge two maps; `high` wins. Keys keep the order of `low`, and new ones follow.

    A map written `!replace` replaces the one below it. If `high` gives a step another type, the old
    `config` is dropped. If it gives a table, a pagination, an authentication or a dead letter place
    another type, the old map is dropped. path: the keys that lead here.
    """
    if high.replaces:
        return high
    low, high = _of_one_type(low, high, path)
    result = SpotMap(spot=high.spot or low.spot)
    result.replaces = low.replaces
    for key, value in low.items():
        result.take(low, key, value)
    for key, value in high.items():
        below = result.get(key)
        if isinstance(below, SpotMap) and isinstance(value, SpotMap):
            value = merged(below, value, (*path, key))
        result.take(high, key, value)
    return result


def _of_one_type(low: SpotMap, high: SpotMap, path: tuple[str, ...]) -> tuple[SpotMap, SpotMap]:
    """Both maps without the keys of the type that `high` replaces."""
    step = len(path) == 2 and path[0] in STEP_SECTIONS
    if not step and (len(path) < 3 or path[-1] not in TYPED):
        return low, high
    if path[-1] == "dead_letter" and "path" in high:
        return low.without("type", "config"), high
    if high.get("type") is None or high["type"] == low.get("type"):
        return low, high
    if not step:
        return SpotMap(spot=low.spot), high
    config = high.get("config")
    if isinstance(config, SpotMap):
        # A null removes a key of the old type, which is dropped already.
        nulls = [key for key, value in config.items() if value is None]
        without_nulls = high.without()
        without_nulls.take(high, "config", config.without(*nulls))
        high = without_nulls
    return low.without("config"), high


def with_environment(tree: SpotMap, name: str | None) -> SpotMap:
    """The tree with an environment of the file merged over it, without the section
    `environments`. name: None merges none. Raises WorkflowError (E0127) for a name that the file
    does not have."""
    section = tree.get("environments")
    file_tree = tree.without("environments")
    if name is None:
        return file_tree
    names = list(section) if isinstance(section, SpotMap) else []
    environment = section.get(name) if isinstance(section, SpotMap) else None
    if name not in names:
        raise WorkflowError(
            f"there is no environment '{name}' in the file",
            code="E0127",
            spot=key_spot_of(tree, "environments"),
            notes=[f"its environments: {', '.join(names)}"] if names else [],
            help=did_you_mean(name, names)
            or ("name one of these" if names else f"add it: environments: {{{name}: {{...}}}}"),
        )
    if not isinstance(environment, SpotMap):
        return file_tree
    merged_tree = merged(file_tree, environment)
    merged_tree.spot = tree.spot
    return merged_tree


def check_environments(tree: SpotMap, known: Iterable[str], errors: list[DataFlareError]) -> None:
    """Add the errors of the section `environments`: it must map names to mappings with keys of the
    workflow."""
    section = tree.get("environments")
    if section is None:
        return
    environments = section if isinstance(section, SpotMap) else SpotMap()
    if not isinstance(section, SpotMap):
        errors.append(_not_a_mapping("'environments'", spot_of(tree, "environments"), section))
    allowed = [key for key in known if key not in ("environments", "include", "version")]
    for name, environment in environments.items():
        if environment is None:
            continue
        if not isinstance(environment, SpotMap):
            owner = f"the environment '{short(name)}'"
            errors.append(_not_a_mapping(owner, spot_of(environments, name), environment))
            continue
        errors.extend(
            WorkflowError(
                f"unknown key '{short(key)}' in the environment '{short(name)}'",
                code="E0103",
                spot=key_spot_of(environment, key),
                notes=[f"known keys: {', '.join(allowed)}"],
                help=did_you_mean(key, allowed) or "take it out",
            )
            for key in environment
            if key not in allowed and not key.startswith("x-")
        )


def _not_a_mapping(subject: str, spot: Spot | None, value: Any) -> WorkflowError:
    return WorkflowError(
        f"{subject} must be a mapping",
        code="E0105",
        spot=spot,
        notes=[f"found: {kind_of(value)}"],
        help="write it as: environments: {prod: {settings: {parallelism: 4}}}",
    )


class FileReader:
    """Reads a file with its includes. An error after which reading can continue is added to `errors`.
    substitute: replaces variables in the paths of includes."""

    def __init__(self, errors: list[DataFlareError], substitute: Substitute) -> None:
        self.errors = errors
        self.substitute = substitute
        self.files = 0

    def read(self, path: Path, *, shown: str | None = None) -> SpotMap:
        """Read a file of the command line."""
        shown = str(path) if shown is None else shown
        return self.tree(read_file(path, shown=shown), shown, path.parent, (path.resolve(),))

    def tree(self, text: str, file: str, folder: Path, within: tuple[Path, ...] = ()) -> SpotMap:
        """The text's mapping over the mappings of its includes. within: the files being read."""
        root, spot = parse(text, file, self.errors)
        if not isinstance(root, SpotMap):
            empty = root is None
            raise WorkflowError(
                f"'{file}' is empty"
                if empty
                else "a workflow file must be a mapping of keys to values",
                code="E0104" if empty else "E0105",
                spot=None if empty else spot,
                notes=[] if empty else [f"found: {kind_of(root)}"],
                help="a workflow begins with: name: my_workflow",
            )
        below = SpotMap()
        for path, place in self._includes(root):
            below = merged(below, self._included(path, place, folder, within))
        return merged(below, root.without("include")) if below else root.without("include")

    def _includes(self, root: SpotMap) -> list[tuple[str, Spot | None]]:
        value = root.get("include")
        if value is None:
            return []
        whole = root.value_spots.get("include")
        listed = value if isinstance(value, SpotList) else SpotList([value])
        includes = []
        for i, item in enumerate(listed):
            place = listed.spots[i] if i < len(listed.spots) else whole
            if not isinstance(item, str) or not item:
                self.errors.append(
                    WorkflowError(
                        "'include' must be a list of file names",
                        code="E0111",
                        spot=place,
                        notes=[f"found: {kind_of(item)}"],
                        help="write it as: include: [common.yaml]",
                    )
                )
                continue
            includes.append((str(self.substitute(item)), place))
        return includes

    def _included(
        self, file_name: str, place: Spot | None, folder: Path, within: tuple[Path, ...]
    ) -> SpotMap:
        path = folder / Path(file_name).expanduser()
        try:
            real = path.resolve()
            if real in within:
                names = [each.name for each in (*within[within.index(real) :], real)]
                raise WorkflowError(
                    "files include one another in a circle",
                    code="E0111",
                    spot=place,
                    notes=[" -> ".join(names)],
                    help="remove the include from one of them",
                )
            self.files += 1
            if self.files > INCLUDES_MAX:
                raise WorkflowError(
                    f"more than {INCLUDES_MAX} files are included",
                    code="E0111",
                    spot=place,
                    help="include fewer files, or join some",
                )
            shown = str(path)
            text = read_file(path, shown=shown, spot=place or Spot(file_name, 1, 1))
            return self.tree(text, shown, path.parent, (*within, real))
        except (OSError, ValueError) as error:
            self.errors.append(
                WorkflowError(
                    f"cannot read '{short(file_name)}': {error}",
                    code="E0111",
                    spot=place,
                    help="see whether the file is there and may be read",
                )
            )
        except WorkflowError as error:
            self.errors.append(error)
        return SpotMap()


def apply_sets(
    tree: SpotMap, sets: Sequence[tuple[str, str] | str], errors: list[DataFlareError]
) -> SpotMap:
    """The tree with the value of each `--set PATH=VALUE`. The value is read as YAML."""
    for each in sets:
        path, _, text = each.partition("=") if isinstance(each, str) else (each[0], "=", each[1])
        try:
            tree = _with_set(tree, path, text, errors)
        except WorkflowError as error:
            errors.append(error)
    return tree


def _with_set(tree: SpotMap, path: str, text: str, errors: list[DataFlareError]) -> SpotMap:
    shown = f"{path}={text}"
    margin = " " * (len(path) + 1)
    lines = Lines("--set", margin + text, shown)
    keys = path.split(".")
    if not all(key.strip() for key in keys) or len(keys) > DEPTH_MAX:
        raise WorkflowError(
            f"'{path}' is not a path into the workflow",
            code="E0105",
            spot=lines.spot(0, 0, len(path)),
            help="write --set settings.parallelism=4",
        )
    value, place = parse(margin + text, "--set", errors, lines=lines)
    spots, column = [], 0
    for key in keys:
        spots.append(lines.spot(0, column, len(key)))
        column += len(key) + 1
    changed_tree: SpotMap = _put(tree, keys, spots, value, place)
    return changed_tree


def _put(node: Any, keys: list[str], spots: list[Spot], value: Any, place: Spot) -> Any:
    """A copy of `node` in which the path leads to `value`. Missing maps are created."""
    if not keys:
        if isinstance(value, SpotMap | SpotList):
            value.spot = place
        return value
    key, spot = keys[0], spots[0]
    if isinstance(node, SpotList):
        copied = SpotList(node, spot=node.spot)
        copied.spots = list(node.spots)
        if not key.isdigit() or int(key) >= len(node):
            raise WorkflowError(
                f"'{key}' is not an item of this list",
                code="E0105",
                spot=spot,
                notes=[f"it has {len(node)} items, counted from 0"],
                help="count the items from 0",
            )
        index = int(key)
        copied[index] = _put(node[index], keys[1:], spots[1:], value, place)
        if len(keys) == 1 and index < len(copied.spots):
            copied.spots[index] = place
        return copied
    if node is not None and not isinstance(node, SpotMap):
        raise WorkflowError(
            f"there is nothing below here to set '{key}' in",
            code="E0105",
            spot=spot,
            notes=[f"found: {kind_of(node)}"],
            help="set the whole value instead",
        )
    copied_map = SpotMap(spot=spot) if node is None else node.without()
    inner = _put(copied_map.get(key), keys[1:], spots[1:], value, place)
    fresh = key not in copied_map or len(keys) == 1
    copied_map.put(key, inner, spot if fresh else None, place if fresh else None)
    return copied_map
