"""How long a text may be: the end of a table of positions, and the length that a model's configuration names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from .causal import CausalModel


class Positions:
    """Of M models. Where positions are computed, a text may be longer than the configuration says, as in transformers'
    ``generate``; that is said once per model."""

    def __init__(self, models: Sequence[CausalModel]) -> None:
        self._models = models
        self._told: set[str] = set()

    def limit(self, wanted: int) -> int:
        """At most so many tokens: what is wanted, and what every table of positions has."""
        tables = [model.max_positions for model in self._models if model.max_positions and model.has_position_table]
        return min([wanted, *tables])

    def usual(self, limit: int) -> int:
        """The same where the configurations' lengths count for all models, to reckon with."""
        return min([limit, *(model.max_positions for model in self._models if model.max_positions)])

    def tell(self, lengths: Sequence[int]) -> None:
        """Warn of the longest texts, [M] tokens, where they went beyond what a model was made for."""
        for model, length in zip(self._models, lengths, strict=True):
            usual = model.max_positions
            if usual is not None and length > usual and model.name not in self._told:
                self._told.add(model.name)
                warnings.warn(
                    f"a text came to {length} tokens, beyond the {usual} that {model.name}'s configuration names "
                    "(max_position_embeddings): what the model says there may be worse, or not sensible at all",
                    stacklevel=6,
                )
