"""Protobuf schemas: `.proto` files compiled by protoc, descriptor sets, and the message types in them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataflare.errors import ConfigError, did_you_mean

_SECONDS_MAX = 60


def compiled(files: Mapping[str, str], includes: Sequence[Path], main: str) -> bytes:
    """The descriptor set of a `.proto` file and of all that it imports. files: their texts by the name that
    imports use; others are read from the folders `includes`. Raises ConfigError (E0426)
    with the lines of protoc."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "files")
        for name, text in files.items():
            path = root / name
            if not path.resolve().is_relative_to(root.resolve()):
                raise _refused(f"'{name}' is not a name that an import may have", "")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        out = Path(folder, "out")
        root.mkdir(exist_ok=True)
        paths = [f"-I{root}", *(f"-I{each}" for each in includes)]
        command = [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            *paths, f"-I{_well_known()}", "--include_imports", f"--descriptor_set_out={out}", main,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS_MAX, check=False
            )
        except subprocess.TimeoutExpired:
            raise _refused(f"{main} was not compiled within {_SECONDS_MAX} s", "") from None
        if done.returncode or not out.exists():
            raise _refused(f"{main} is not compiled", done.stderr.replace(f"{root}/", ""))
        return out.read_bytes()


def _well_known() -> str:
    import grpc_tools

    return str(Path(grpc_tools.__file__).parent / "_proto")


def _refused(
    problem: str,
    said: str,
    help: str = "fix the file, or name the folders of what it imports in `includes`",
) -> ConfigError:
    return ConfigError(
        f"the Protobuf schema cannot be used: {problem}",
        code="E0426",
        notes=[line for line in said.splitlines() if line.strip()][:10],
        help=help,
    )


class ProtobufSchema:
    """The types of a descriptor set. main: the file whose messages are meant where a message is not named,
    by default the last."""

    def __init__(self, descriptors: bytes, main: str | None = None) -> None:
        from google.protobuf import descriptor_pb2, descriptor_pool
        from google.protobuf.message import DecodeError

        self.pool = descriptor_pool.DescriptorPool()
        try:
            found = descriptor_pb2.FileDescriptorSet.FromString(descriptors)
            for file in found.file:
                self.pool.AddSerializedFile(file.SerializeToString())
        except (DecodeError, TypeError, ValueError) as error:
            raise _refused(f"it is not a descriptor set: {error}", "") from None
        if not found.file:
            raise _refused("it has no files", "")
        for file in found.file:
            if file.syntax == "editions":
                raise _refused(
                    f"{file.name} is written in an edition, and proto2 and proto3 are read",
                    "",
                    help='write it with syntax = "proto3" in place of the edition',
                )
        names = [file.name for file in found.file]
        self.file: Any = self.pool.FindFileByName(main if main in names else names[-1])

    def message(self, name: str | None = None) -> Any:
        """The descriptor of a message by its full name; without one that of the only message, or the first.
        Raises ConfigError (E0426)."""
        own = [*self.file.message_types_by_name.values()]
        if name is not None:
            try:
                return self.pool.FindMessageTypeByName(name)
            except KeyError:
                known = [each.full_name for each in own]
                raise ConfigError(
                    f"the Protobuf schema has no message '{name}'",
                    code="E0426",
                    notes=[f"it has {', '.join(known)}"] if known else [],
                    help=did_you_mean(name, known) or "write its full name, with the package",
                ) from None
        if len(own) != 1:
            names = ", ".join(each.full_name for each in own) or "none"
            raise ConfigError(
                f"the Protobuf schema has not exactly one message in {self.file.name}, so `message` has "
                "to name it",
                code="E0426",
                notes=[f"it has {names}"],
                help="set `message` to its full name",
            )
        return own[0]

    def at(self, path: Sequence[int]) -> Any:
        """The descriptor of the message at these indexes, as the bytes of a message name it. None if there
        is none."""
        types = [*self.file.message_types_by_name.values()]
        found = None
        for index in path:
            if not 0 <= index < len(types):
                return None
            found = types[index]
            types = [*found.nested_types]
        return found


def path_of(descriptor: Any) -> list[int]:
    """The indexes that name a message in its file, for `at`."""
    path: list[int] = []
    while descriptor is not None:
        parent = descriptor.containing_type
        among = (
            [*descriptor.file.message_types_by_name.values()]
            if parent is None
            else [*parent.nested_types]
        )
        path.insert(0, [each.full_name for each in among].index(descriptor.full_name))
        descriptor = parent
    return path


def differing_fields(old: Any, new: Any) -> list[str]:
    """The fields of one message that have the same number in the other and other bytes."""
    numbers = {field.number: field for field in new.fields}
    wrong = []
    for field in old.fields:
        other = numbers.get(field.number)
        if other is not None and _wire(field) != _wire(other):
            wrong.append(f"{old.full_name}.{field.name}")
    return wrong


_SAME = {5: "varint", 3: "varint", 13: "varint", 4: "varint", 8: "varint", 14: "varint"}
"""Types of fields whose bytes may be read as each other's: int32, int64, uint32, uint64, bool, enum."""


def _wire(field: Any) -> tuple[Any, bool]:
    return _SAME.get(field.type, field.type), field.is_repeated
