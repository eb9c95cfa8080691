"""The kinds of records: what is hidden stays hidden, what is abstract asks for its methods."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from abc import ABC, abstractmethod

import pytest
from msgspec.structs import replace
from rich.pretty import pretty_repr

import dataflare
from dataflare.model.record import Discreet, StructABC
from dataflare.model.text import Variable
from dataflare.model.types import STRING
from dataflare.workflow.params import Parameter


def discreet_classes() -> list[type[Discreet]]:
    for module in pkgutil.walk_packages(dataflare.__path__, "dataflare."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = [], Discreet.__subclasses__()
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].__subclasses__()
    return found


def test_every_hidden_field_exists():
    classes = discreet_classes()
    assert {"Server", "Parameter", "Workflow", "Variable"} <= {each.__name__ for each in classes}
    for each in classes:
        assert set(each.hidden) <= set(each.__struct_fields__), each


@pytest.mark.parametrize(
    "record",
    [
        Parameter("key", STRING, "s3cret", "s3cret", secret=True),
        Variable("__00_", "${env:KEY}", "s3cret", STRING, True),
    ],
)
@pytest.mark.parametrize("show", [repr, str, pretty_repr])
def test_a_hidden_value_is_in_no_repr(record, show):
    for each in (record, replace(record), copy.copy(record), pickle.loads(pickle.dumps(record))):
        assert each == record
        assert "s3cret" not in show(each)
        assert type(record).__name__ in show(each)


class Verb(ABC):
    @abstractmethod
    def say(self) -> str: ...


class Greet(Verb, StructABC, frozen=True):
    name: str
    often: int = 1

    def say(self) -> str:
        return f"hello {self.name}"


def test_a_record_can_be_abstract_too():
    greet = Greet("Ada")
    assert isinstance(greet, Verb)
    assert greet == Greet("Ada", often=1) != Greet("Grace")
    assert replace(greet, name="Grace").say() == "hello Grace"
    assert len({greet, Greet("Ada")}) == 1
    with pytest.raises(AttributeError):
        greet.name = "Grace"


def test_a_record_that_lacks_a_method_is_not_made():
    class Mute(Verb, StructABC, frozen=True):
        name: str

    with pytest.raises(TypeError, match="abstract"):
        Mute("Ada")
