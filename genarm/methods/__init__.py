"""Decoding methods of the field on one engine: ``genarm.methods[name].generate(decoder, prompts, …)``.

Every method is one module of this folder, or of another package that names it under the entry point group
``genarm.methods``, with a function

    generate(decoder, input_ids, attention_mask=None, *, <its settings>, **options) -> GenerationOutput

``options`` are those of ``GuidedDecoder.generate`` that make sense for it; its settings default to its paper's. The
module's docstring gives the equation and the citation.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from ..errors import InvalidArgumentError

GROUP = "genarm.methods"
BUILT_IN = (
    "genarm",
    "multi_objective",
    "particles",
    "best_of_n",
    "args",
    "transfer_q",
    "cards",
    "vas",
    "search",
    "dpo",
    "proxy_tuning",
    "dexperts",
    "eft",
    "dera",
    "mod",
    "contrastive",
    "cfg",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A keyword of a method's own. ``is_needed``: it has no default."""

    name: str
    annotation: str
    default: Any = None
    is_needed: bool = False


def names() -> list[str]:
    """Every method there is, those of this library first."""
    return list(dict.fromkeys([*BUILT_IN, *sorted(entry_points(group=GROUP).names)]))


def get(name: str) -> Any:
    """The method of this name: a module, or whatever else an entry point names that has ``generate``.

    Raises:
        InvalidArgumentError: there is none.
    """
    if name in BUILT_IN:
        return import_module(f"{__name__}.{name}")
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    close = get_close_matches(str(name), names(), n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise InvalidArgumentError(f"there is no decoding method {name!r}: {meant}the methods are {', '.join(names())}")


def settings(name: str) -> list[Setting]:
    """A method's own keywords, in their order."""
    parameters = list(inspect.signature(get(name).generate).parameters.values())
    own = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    return [
        Setting(one.name, str(one.annotation), None if (empty := one.default is one.empty) else one.default, empty)
        for one in own
    ]


def summary(name: str) -> str:
    """The first line of a method's documentation."""
    return (inspect.getdoc(get(name)) or "").partition("\n")[0]


class _Registry(ModuleType):
    """This module as a mapping from names to methods."""

    def __getitem__(self, name: str) -> Any:
        return get(name)

    def __contains__(self, name: object) -> bool:
        return name in names()

    def __iter__(self) -> Iterator[str]:
        return iter(names())

    def __len__(self) -> int:
        return len(names())


sys.modules[__name__].__class__ = _Registry
