"""What answers are like, apart from any model: how much they repeat within themselves and one another."""

from __future__ import annotations

from collections.abc import Sequence

ORDERS = (2, 3, 4)


def repetition(text: str, order: int) -> float:
    """rep_n of one text: 1 − (distinct n-grams) / (n-grams), over words between white space; 0 where it has fewer than
    n words, since nothing is repeated.

    Source: Su et al., "A Contrastive Framework for Neural Text Generation" (NeurIPS 2022), which has it in percent.
    """
    words = text.split()
    found = [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
    return 1 - len(set(found)) / len(found) if found else 0.0


def diversity(text: str) -> float:
    """Π_{n=2..4} (1 − rep_n) of one text, between 0 and 1; 1 where no two words in a row come twice.

    Source: Su et al. (2022), and Li et al., "Contrastive Decoding" (ACL 2023).
    """
    product = 1.0
    for order in ORDERS:
        product *= 1 - repetition(text, order)
    return product


def distinct_answers(answers: Sequence[tuple[str, str]]) -> float:
    """The share of distinct (prompt, answer) among all of them: below 1 where a method gives one prompt the same answer
    under several seeds.

    Raises:
        ValueError: there are none.
    """
    if not answers:
        raise ValueError("there are no answers: a share takes one at least")
    return len(set(answers)) / len(answers)
