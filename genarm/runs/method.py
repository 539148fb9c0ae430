"""A decoding method named on a command line: its settings as text, and the calls that are made by it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError
from ..request.output import GenerationOutput


@dataclass(frozen=True, slots=True)
class NamedMethod:
    """A method by name and its settings."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise InvalidArgumentError for a method or a setting that there is not, and for one that is missing."""
        from .. import methods

        known = methods.settings(self.name)
        names = [one.name for one in known]
        unknown = next((name for name in self.settings if name not in names), None)
        if unknown is not None:
            raise InvalidArgumentError(
                f"{self.name} has no setting {unknown!r}: it has {', '.join(names) or 'none'} (see genarm methods)"
            )
        missing = next((one.name for one in known if one.is_needed and one.name not in self.settings), None)
        if missing is not None:
            raise InvalidArgumentError(f"{self.name} needs {missing}: give it with --set {missing}=…")

    def generate(
        self, decoder: GuidedDecoder, prompts: Sequence[Sequence[int]], options: Mapping[str, Any]
    ) -> GenerationOutput:
        """Decode by the method, which may refuse some of the options."""
        from .. import methods

        found: GenerationOutput = methods.get(self.name).generate(decoder, prompts, **self.settings, **options)
        return found


def parse_settings(entries: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` each -> values: JSON where it is any (numbers, true, null, lists, objects), else text.

    Raises:
        InvalidArgumentError: an entry of another form, or a name given twice.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidArgumentError(f"--set {entry!r}: write NAME=VALUE, such as --set candidates=10")
        if name in found:
            raise InvalidArgumentError(f"--set names {name!r} twice: give it once")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found
