"""No option is accepted that nothing reads: it has an effect, or it is refused by name."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

import dataflare
from dataflare.errors import DataFlareError
from dataflare.operators import registry as operators
from dataflare.planner import check
from dataflare.sdk import registry
from dataflare.workflow.load import load_text
from dataflare.workflow.settings import EventTime, Settings

SOURCE = Path(dataflare.__file__).parent
OTHER_ROLE = {
    "source": ("destination", "store", "writing", "merge", "redo", "folder", "growing"),
    "destination": ("source", "reader", "reading", "incremental", "shards", "pages", "lookup"),
    "lookup": ("destination", "source", "paging"),
}
"""Files of a connector's folder that do not read the config of this role."""
SHARED_CODE = (
    "dataflare.connectors",
    "dataflare.sdk.sql",
    "dataflare.sdk.lakes",
    "dataflare.sdk.brokers",
    "dataflare.sdk.push",
)
"""Where the classes of connectors and what they inherit are."""
SHARED = (
    "dataflare.sdk.stores",
    "dataflare.sdk.messages",
    "dataflare.sdk.aws",
    "dataflare.sdk.push",
)
_IMPORT = re.compile(
    r"^from dataflare\.(connectors\.[\w.]+|sdk\.json_pages|sdk\.messages\.build) import",
    re.MULTILINE,
)
ELSEWHERE = {"retry_policy", "tables", "per_table"}
"""Read where the workflow file is, and where it becomes one step for each table."""


def nested(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model and those in it."""
    yield model
    for info in model.model_fields.values():
        waiting = [info.annotation]
        while waiting:
            each = waiting.pop()
            waiting.extend(typing.get_args(each))
            if isinstance(each, type) and issubclass(each, BaseModel) and each is not model:
                yield from nested(each)


def is_read(name: str, texts: list[str]) -> bool:
    """Whether some code reads an attribute of that name, or names it as text."""
    return any(
        re.search(rf"\w\)?\.{name}\b(?! ?=[^=])|\"{name}\"|\b{name}={name}\b", text)
        for text in texts
    )


def files_of(class_: type, role: str) -> list[str]:
    """The code that a connector of this role runs: its folder, the shared one, without its models."""
    found = []
    for base in class_.__mro__:
        if not base.__module__.startswith(SHARED_CODE):
            continue
        path = Path(str(__import__(base.__module__, fromlist=["x"]).__file__))
        folder = path.parent if path.parent.name != "connectors" else None
        listed = [path] if folder is None else sorted(folder.rglob("*.py"))
        found += [f for f in listed if not f.stem.startswith(OTHER_ROLE[role])]
    for model in nested(class_.Config):
        for base in model.__mro__:
            # Options that several connectors share are read beside them.
            if base.__module__.startswith(SHARED):
                path = Path(str(__import__(base.__module__, fromlist=["x"]).__file__))
                found += sorted(path.parent.rglob("*.py"))
    # What a connector takes from another one, or from code that reads the options of several.
    used = [name for path in found for name in _IMPORT.findall(path.read_text())]
    found += [SOURCE / f"{name.replace('.', '/')}.py" for name in used]
    return [without_fields(p.read_text()) for p in dict.fromkeys(found) if p.is_file()]


def without_fields(text: str) -> str:
    """Code without the declarations of fields and what their descriptions name."""
    return re.sub(r"^    \w+: [^\n]*Field\((?:[^\n]*\n(?=        ))*", "", text, flags=re.MULTILINE)


ROLES = [
    (role, type_)
    for role in ("source", "destination", "lookup")
    for type_ in getattr(registry, f"{role}_types")()
]


@pytest.mark.parametrize(("role", "type_"), ROLES)
def test_each_option_of_a_connector_is_read(role: str, type_: str) -> None:
    class_ = getattr(registry, role)(type_)
    texts = files_of(class_, role)
    unread = [
        name
        for model in nested(class_.Config)
        for name in model.model_fields
        if name not in ELSEWHERE and not is_read(name, texts)
    ]
    assert not unread


def test_each_option_of_a_step_is_read() -> None:
    rooms = ("operators", "engine")
    texts = [p.read_text() for room in rooms for p in (SOURCE / room).rglob("*.py")]
    unread = [
        f"{type_}.{name}"
        for type_ in operators.step_types()
        for model in nested(operators.step(type_).Config)
        for name in model.model_fields
        if not is_read(name, texts)
    ]
    assert not unread


REFUSED = {
    "checkpoint: {incremental: false}": "checkpoint.incremental",
    'checkpoint: {storage: "ftp://server/x"}': "checkpoint.storage",
}
ALONE = {"incremental"}
"""Settings with only one value that is not refused."""


def test_each_setting_is_read() -> None:
    rooms = ("engine", "cluster", "jobs", "planner", "resilience", "cli", "checkpoint")
    texts = [p.read_text() for room in rooms for p in (SOURCE / room).rglob("*.py")]
    texts.append((SOURCE / "workflow" / "settings.py").read_text())
    unread = [
        f"{model.__name__}.{name}"
        for model in nested(Settings)
        if model is not EventTime
        for name in model.model_fields
        if name not in ALONE and not is_read(name, texts)
    ]
    assert not unread


@pytest.mark.parametrize("written", REFUSED)
def test_a_setting_without_effect_is_refused_at_its_place(written: str) -> None:
    text = f"""\
name: w
settings: {{{written}}}
sources: {{s: {{type: inline, config: {{rows: [{{a: 1}}]}}}}}}
destinations: {{d: {{type: blackhole, inputs: [s]}}}}
"""
    with pytest.raises(DataFlareError) as caught:
        check(load_text(text))
    assert caught.value.code == "E0314"
    assert REFUSED[written] in caught.value.message
    assert caught.value.spot is not None
    assert caught.value.spot.line == 2
