"""Do two models speak of the same tokens? Guidance adds their log-probabilities id by id, so they must."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from ..errors import VocabularyMismatchError
from .causal import CausalModel

CURE = (
    "guidance needs one vocabulary; use a reward model trained with the base's tokenizer (or, where you know that ids "
    "mean the same, check_vocabulary=False or --no-check-vocabulary)"
)


def check_vocabularies(
    base_size: int, reward_size: int, base_tokenizer: Any, reward_tokenizer: Any, reward_name: str
) -> None:
    """Raise unless both models share one vocabulary; padded sizes may differ.

    With both tokenizers at hand the tokens themselves are compared, but for special ones, which may go by other names.
    Without, only the sizes can be: they must be equal up to padding or a few added tokens.
    """
    if base_tokenizer is not None and reward_tokenizer is not None:
        _compare_tokens(base_tokenizer, reward_tokenizer, min(base_size, reward_size), reward_name)
    elif not same_up_to_padding(base_size, reward_size):
        raise VocabularyMismatchError(
            f"reward model {reward_name!r} has {reward_size} tokens, the base {base_size}, which is more than padding: "
            f"{CURE}"
        )


def same_up_to_padding(first: int, second: int) -> bool:
    """Whether two head sizes can be one vocabulary padded differently: the larger is a multiple of 8 that the smaller
    rounds up to (without doubling) or comes within a third and 512 ids of, or they differ by at most one id in a
    thousand."""
    small, large = sorted((first, second))
    extra = large - small
    rounded = extra < small and any(-(-small // block) * block == large for block in (8, 16, 32, 64, 128, 256, 512))
    padded = large % 8 == 0 and extra <= 512 and extra * 3 <= small
    return rounded or padded or extra * 1000 <= large


def _compare_tokens(base_tokenizer: Any, reward_tokenizer: Any, size: int, reward_name: str) -> None:
    base, reward = _by_id(base_tokenizer), _by_id(reward_tokenizer)
    base_special, reward_special = _special_ids(base_tokenizer), _special_ids(reward_tokenizer)
    for token in sorted((set(base) & set(reward)) - (base_special & reward_special)):
        if token < size and base[token] != reward[token]:
            raise VocabularyMismatchError(
                f"reward model {reward_name!r} and the base differ at id {token}: {reward[token]!r} against "
                f"{base[token]!r}: {CURE}"
            )
    if not same_up_to_padding(len(set(base) - base_special), len(set(reward) - reward_special)):
        raise VocabularyMismatchError(
            f"reward model {reward_name!r} has {len(reward)} tokens, the base {len(base)}: {CURE}"
        )


def _special_ids(tokenizer: Any) -> set[int]:
    """Those of its roles (BOS and the like), and every added token that is marked special: reserved ones are renamed by
    whoever puts them to use."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(index for index, token in added.items() if getattr(token, "special", False))}


def _by_id(tokenizer: Any) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}


class ExcludedIds:
    """Says, once per decoder, which of the base's ids are never drawn because a model with a weight lacks them."""

    def __init__(self, models: Sequence[CausalModel], tokenizer: Any) -> None:
        self._models = models
        self._tokenizer = tokenizer
        self._told = False
        self._named: tuple[int, int] | None = None  # tokens of the tokenizer, and the first id behind them

    def tell(self, weights: Tensor, eos_ids: Collection[int]) -> None:
        """Warn where it is so under a call's weights [B, M]; the models are as wide as they are now."""
        sizes = [model.vocab_size for model in self._models]
        if self._told or min(sizes) >= sizes[0]:
            return
        used = (weights != 0).any(0).tolist()
        narrow = [(size, model) for size, model, on in zip(sizes, self._models, used, strict=True) if on]
        size, model = min(narrow, key=lambda pair: pair[0], default=(sizes[0], self._models[0]))
        known = sizes[0]
        if self._tokenizer is not None:  # rows of the head beyond it are padding, which nobody misses
            known = min(known, self._first_unnamed())
        if size >= known:
            return
        self._told = True
        span = f"ids {size} to {known - 1}" if known - size > 1 else f"id {size}"
        ends = [token for token in sorted(eos_ids) if size <= token < known]
        lost = f" (among them {ends[0]}, which ends a text)" if ends else ""
        warnings.warn(
            f"the base's {span} cannot be drawn{lost}: reward model {model.name!r} has a weight, and {size} ids. Give "
            "it the base's vocabulary (resize_token_embeddings), or weight 0",
            stacklevel=4,
        )

    def _first_unnamed(self) -> int:
        """The first id behind those of the tokenizer, which lists them anew only where it has got more."""
        count = len(self._tokenizer)
        if self._named is None or self._named[0] != count:
            self._named = count, max(_by_id(self._tokenizer), default=-1) + 1
        return self._named[1]
