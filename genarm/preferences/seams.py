"""Where prompts in text meet their responses: joined as they are, so that a space has to be in one of them."""

from __future__ import annotations

import string
from dataclasses import dataclass

# Before and after a seam that looks as if something were missing: "prime?" and "A number".
ENDS = frozenset(string.ascii_letters + string.digits + ".?!,:;)\"'")
BEGINS = frozenset(string.ascii_letters + string.digits)


@dataclass(slots=True)
class Seams:
    """A count of the pairs in text, and of those whose response follows its prompt without anything between."""

    pairs: int = 0
    bare: int = 0
    first: str = ""

    def count(self, prompt: str, response: str) -> None:
        """Take up one pair."""
        if not prompt or not response:
            return
        self.pairs += 1
        if prompt[-1] in ENDS and response[0] in BEGINS:
            self.bare += 1
            self.first = self.first or prompt[-12:] + response[:12]

    def notes(self) -> list[str]:
        """One line where most pairs are so."""
        if 2 * self.bare <= self.pairs:
            return []
        return [
            f"in {self.bare} of {self.pairs} pairs the response follows the prompt without a space or a line break "
            f"({self.first!r}): write one into the texts or with --prompt-template, or read them as turns with --chat"
        ]
