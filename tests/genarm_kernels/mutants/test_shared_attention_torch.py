"""Broken variants of shared_attention on a CPU."""

from collections.abc import Callable

import pytest
import shared_attention_cases as cases
from mutations import Mutation, edited, proofs

from genarm_kernels.layer import cpu_shared as shared

pytestmark = [pytest.mark.mutants, pytest.mark.usefixtures("torch_path")]

attention, part_of, attend, pieces = shared.attention, shared.part_of, shared.attend, shared.pieces
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "scores not scaled":
        (edited(attention, "query.float() * scale", "query.float()"), cases.check_one_prefix_for_all),
    "more of a prefix than it holds":
        (edited(attention, "min(own, held[prefix])", "own + 1"), cases.check_rows_of_several_prefixes),
    "the last place of a cache left out":
        (edited(attention, "min(length, shared + keys.shape[1], longest)",
                "min(length, shared + keys.shape[1] - 1, longest)"), cases.check_lengths),
    "NaN that a token does not see kept":
        (edited(attention, "Q > 1 and", "Q > 9 and"), cases.check_nan_of_later_tokens),
    "tokens alone see all of a row":
        (edited(attention, "range(part.length - Q + 1, part.length + 1)", "[part.length] * Q"),
         cases.check_nan_of_later_tokens),
    "window from the last token":
        (edited(part_of, "length - tokens + 1 - window", "length - window"), cases.check_windows),
    "what is unseen counted": (edited(shared.soften, "at > place", "at > place + 1"), cases.check_windows),
    "window one too wide": (edited(shared.soften, "at <= place - window", "at < place - window"), cases.check_windows),
    "heads and tokens swapped":
        (edited(shared.by_token, ".view(H_kv, part.tokens, -1, D)", ".view(H_kv, -1, part.tokens, D).transpose(1, 2)"),
         cases.check_several_tiles),
    "one value left out": (edited(attend, "part.out.add_(", "part.out.copy_("), cases.check_long_prefixes),
    "pieces overlap":
        (edited(pieces, "piece[:, begin - start : end - start]", "piece[:, : end - begin]"), cases.check_windows),
    "tails from where caches begin":
        (edited(pieces, "begin - part.shared : part.length - part.shared", "0 : part.length - begin"),
         cases.check_windows),
    "the first prefix for all": (edited(pieces, "prefixes[prefix,", "prefixes[0,"), cases.check_regrouped),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
