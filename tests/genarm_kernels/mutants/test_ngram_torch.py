"""Broken variants of prompt lookup in torch."""

import ngram_cases as cases
import pytest
from mutations import edited, proofs

from genarm_kernels.step.cpu_ngram import ngram_draft

pytestmark = pytest.mark.mutants

which = cases.check_which_match
ends = cases.check_where_a_copy_ends

MUTANTS = {
    "a text matches itself": (edited(ngram_draft, "columns[:T] < ends - 1", "columns[:T] < ends"), which),
    "the place before the last is lost":
        (edited(ngram_draft, "columns[:T] < ends - 1", "columns[:T] < ends - 2"), ends),
    "tokens with gaps": (edited(ngram_draft, ".logical_and_(agrees.narrow(1, min(back, 1), T - back))", ""), which),
    "tokens of the next column":
        (edited(ngram_draft, "agrees.narrow(1, min(back, 1), T - back)", "agrees.narrow(1, 0, T - back)"), which),
    "a column too early":
        (edited(ngram_draft, "length.narrow(1, back, T - back)", "length.narrow(1, 0, T - back)"), which),
    "the last token again": (edited(ngram_draft, "(ends - 1 - back)", "(ends - 1)"), which),
    "three tokens at most": (edited(ngram_draft, "min(MOST_MATCH, T)", "min(MOST_MATCH - 1, T)"), which),
    "five tokens at most": (edited(ngram_draft, "min(MOST_MATCH, T)", "min(MOST_MATCH + 1, T)"), which),
    "the first of the longest": (edited(ngram_draft, ".add_(columns[:T])", ".sub_(columns[:T])"), which),
    "one token is enough": (edited(ngram_draft, "key < LEAST_MATCH * T", "key < T"), which),
    "two tokens are none": (edited(ngram_draft, "key < LEAST_MATCH * T", "key < 3 * T"), which),
    "what matched is drafted": (edited(ngram_draft, ".add_(place).add_(1)", ".add_(place)"), which),
    "a copy goes on behind the end": (edited(ngram_draft, "columns[:gamma] % (ends - 1 - place).clamp_(min=1)",
                                             "columns[:gamma] + place * 0"), ends),
    "drafts of what was not found": (edited(ngram_draft, ".masked_fill_(is_nothing, 0)", ""), which),
    "all is proposed": (edited(ngram_draft, ".masked_fill_(is_nothing.squeeze(1), 0)", ""), which),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
