"""Broken variants of prompt lookup: its kernels."""

import ngram_cases as cases
import pytest
from mutations import edited, proofs

from genarm_kernels.step import ngram

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter]

which = cases.check_which_match
ends = cases.check_where_a_copy_ends
short = cases.check_short_texts
several = cases.check_several_programs

match, copy = ngram.match_kernel, ngram.copy_kernel
MUTANTS = {
    "a text matches itself": (edited(match, "columns < end - 1", "columns < end"), which),
    "the place before the last is lost": (edited(match, "columns < end - 1", "columns < end - 2"), ends),
    "what is behind the end matches":
        (edited(match, "is_earlier = columns < end - 1", "is_earlier = columns < T"), short),
    "only the first token": (edited(match, "agrees & (token == last)", "agrees"), which),
    "tokens with gaps":
        (edited(match, "agrees = agrees & (token == last)", "agrees = is_earlier & (token == last)"), which),
    "the last token again": (edited(match, "text + end - 1 - back", "text + end - 1"), which),
    "three tokens at most": (edited(match, "static_range(_MOST)", "static_range(_MOST - 1)"), which),
    "five tokens at most": (edited(match, "static_range(_MOST)", "static_range(_MOST + 1)"), which),
    "the latest of any length":
        (edited(match, "length * (1 << 32) + columns", "(length >= 2) * (2 << 32) + columns"), which),
    "the first of the longest":
        (edited(match, "length * (1 << 32) + columns", "length * (1 << 32) + (length > 0) * (T - columns)"), which),
    "every program the first columns": (edited(match, "part * COLUMNS", "part * 0"), several),
    # These two stay within what was written: a place out of memory nobody wrote would end the process.
    "the later programs find nothing":
        (edited(match, "tl.max(length * (1 << 32) + columns, 0)",
                "tl.max(length * (1 << 32) + columns, 0) * (part == 0)"), several),
    "the first program's best": (edited(copy, "mask=each < parts", "mask=each < 1"), several),
    "the next row's best":
        (edited(copy, "mask=each < parts", "mask=(each < parts) | (row < tl.num_programs(0) - 1)"), several),
    "every row the first's best": (edited(copy, "best + row * parts", "best + row * 0"), several),
    "every row the first's text": (edited(match, "texts + row * T", "texts"), ends),
    "copies of the first row": (edited(copy, "texts + row * T", "texts"), ends),
    "one token is enough": (edited(copy, "_LEAST * (1 << 32)", "1 * (1 << 32)"), which),
    "two tokens are none": (edited(copy, "key >= _LEAST", "key > 2147483648 + _LEAST"), which),
    "what matched is drafted": (edited(copy, "place + 1 + ahead", "place + ahead"), which),
    "a copy goes on behind the end": (edited(copy, "ahead % period", "ahead"), ends),
    "a period too long": (edited(copy, "end - 1 - place", "end - place"), ends),
    "nothing is proposed": (edited(copy, "tl.where(found, gamma, 0)", "tl.where(found, 0, 0)"), which),
    "all is proposed": (edited(copy, "tl.where(found, gamma, 0)", "gamma"), which),
    "drafts of what was not found": (edited(copy, "found, other=0", "found, other=1"), which),
    "drafts over the next row's":
        (edited(copy, "ahead, token, mask=is_draft", "ahead, token, mask=ahead < gamma - 1"), ends),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
