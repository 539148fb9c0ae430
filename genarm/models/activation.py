"""Adapters that sleep on the prompt: from which of its tokens on they are awake.

Up to there the prompt's keys and values are the base's, so that one reading and one cache of it serve the base and every
such reward model on it. Source: Greenewald et al. 2025 (activated LoRA, arXiv 2504.12397).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class Activation:
    """From where on an adapter is awake: the prompt's last token, or, as PEFT's aLoRA has it, the first token of the
    last place where the prompt holds ``tokens``."""

    tokens: tuple[int, ...] = ()

    def awake(self, prompt: Sequence[int]) -> int:
        """How many tokens at the end of a prompt, of at least one id, the adapter is awake on: 1 or more.

        Raises:
            InvalidArgumentError: for a prompt without ``tokens``, on which the adapter would sleep for good.
        """
        if not self.tokens:
            return 1
        width = len(self.tokens)
        for start in range(len(prompt) - width, -1, -1):
            if tuple(prompt[start : start + width]) == self.tokens:
                return len(prompt) - start
        raise InvalidArgumentError(
            f"a prompt does not hold the tokens {list(self.tokens)} that wake an activated adapter, which would sleep "
            "for good: pass chat messages, whose template writes them, or an adapter that wakes at the prompt's end"
        )
