"""Do two models speak of the same tokens? Guidance adds their log-probabilities id by id, so they must."""

from __future__ import annotations

from typing import Any

from ..errors import VocabularyMismatchError


def check_vocabularies(
    base_size: int, reward_size: int, base_tokenizer: Any, reward_tokenizer: Any, reward_name: str
) -> None:
    """Raise unless both models share one vocabulary; padded sizes may differ.

    With both tokenizers at hand the tokens themselves are compared. Without, only the sizes can be: they must be
    equal up to padding or a few added tokens.
    """
    if base_tokenizer is not None and reward_tokenizer is not None:
        _compare_tokens(base_tokenizer, reward_tokenizer, min(base_size, reward_size), reward_name)
    elif not same_up_to_padding(base_size, reward_size):
        raise VocabularyMismatchError(
            f"reward model {reward_name!r} has {reward_size} tokens, the base {base_size}, which is more than padding: "
            "guidance needs one vocabulary; use a reward model trained with the base's tokenizer"
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
    special = set(base_tokenizer.all_special_ids) & set(reward_tokenizer.all_special_ids)
    for token in sorted((set(base) & set(reward)) - special):
        if token < size and base[token] != reward[token]:
            raise VocabularyMismatchError(
                f"reward model {reward_name!r} and the base differ at id {token}: {reward[token]!r} against "
                f"{base[token]!r}: guidance needs one vocabulary; use a reward model trained with the base's tokenizer"
            )
    if not same_up_to_padding(len(base), len(reward)):
        raise VocabularyMismatchError(
            f"reward model {reward_name!r} has {len(reward)} tokens, the base {len(base)}: guidance needs one "
            "vocabulary; use a reward model trained with the base's tokenizer"
        )


def _by_id(tokenizer: Any) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}
