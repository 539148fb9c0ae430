"""Where the search for a threshold begins: the subgroups' peaks, and the bound that they give, for any device."""

import torch
from filter_cases import assert_keeps_the_oracle_s_ids, hard_rows
from kernel_cases import make_logits
from torch import Tensor

from genarm_kernels import guided_sample
from genarm_kernels.sampling import bounds, combine, filters
from genarm_kernels.sampling.arguments import GROUP_SIZE, Inputs, prepare
from genarm_kernels.sampling.groups import LOWEST, Partials

SUBGROUPS, RUN = 8, 8
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "base_min_p": 0.0, "base_top_p": 1.0}


def ranks(V: int) -> list[int]:
    """top_k around what the peaks of groups and of subgroups bound."""
    G = -(-V // GROUP_SIZE)
    return [1, G, G + 1, 50, 200, 7 * G, 8 * G, 8 * G + 1]


# The interpreter takes a few of the larger ones.
RANKS = {V: ranks(V) for V in (1000, 32000, 50257, 128256)}
FEW_RANKS = {1000: ranks(1000), 32000: ranks(32000)[2:], 50257: [50], 128256: [7 * 126, 200]}


def call(logits: list[Tensor], **settings: object) -> Inputs:
    weights = torch.ones(len(logits), device=logits[0].device)
    return prepare(logits, weights, *{**OFF, **settings}.values(), None, 0, 0, None)


def whole_groups(scores: Tensor) -> Tensor:
    """Scores [B, V] -> [B, G·1024], −inf beyond V."""
    return torch.nn.functional.pad(scores, (0, -scores.shape[1] % GROUP_SIZE), value=-torch.inf)


def peaks_of_subgroups(scores: Tensor) -> Tensor:
    """[B, G·1024] -> [B, 8·G]: the largest of the ids whose number divided by 8 leaves the same remainder by 8."""
    runs = scores.view(len(scores), -1, GROUP_SIZE // (SUBGROUPS * RUN), SUBGROUPS, RUN)
    return runs.amax((2, 4)).flatten(1)


def reduced(scores: Tensor) -> Partials:
    """What the group pass leaves of scores [B, G·1024], as far as bounds read it."""
    groups = scores.unflatten(1, (-1, GROUP_SIZE))
    peaks = groups.amax(2)
    sums = (groups - peaks[:, :, None]).exp().sum(2)
    return Partials(peaks, sums, *(scores.new_empty(0) for _ in range(5)), peaks_of_subgroups(scores))


# Checks that a mutant is held against.


def the_bound_is_the_kth_largest_peak(device: str = "cpu") -> None:
    for V, top_k in (FEW_RANKS if device == "cpu" else RANKS).items():
        # Each row has scores of its own.
        scores = make_logits(len(top_k), V, 1, device=device)[0]
        scores[1:2, 100:] = -torch.inf
        inputs = call([scores], top_k=torch.tensor(top_k, device=device))
        lower = bounds.bound(inputs, reduced(whole_groups(scores))).lower
        counts = (scores >= lower[:, None]).sum(1).tolist()
        peaks = peaks_of_subgroups(whole_groups(scores)).sort(1, descending=True).values
        for b, k in enumerate(top_k):
            known = int((peaks[b] > -torch.inf).sum())
            assert float(lower[b]) == (float(peaks[b, k - 1]) if k <= known else LOWEST.value), (V, k)
            # Of random scores, so few that they are searched in registers.
            assert k > 7 * inputs.groups or b == 1 or min(k, V) <= counts[b] < min(4 * k + 20, filters.CAPACITY), (V, k)


def the_group_pass_leaves_the_peak_of_every_subgroup(device: str = "cpu") -> None:
    # A whole group, one with bad values, which goes id by id, and one of 44 ids: two of its subgroups have none.
    V = 2 * GROUP_SIZE + 44
    base = make_logits(3, V, 1, device=device)[0] - 9.0
    base[:, 1100:1120] = torch.nan
    base[0, 40:170] = base[0, 2 * GROUP_SIZE :] = -torch.inf
    base[1, 2 * GROUP_SIZE : 2 * GROUP_SIZE + 8] = -20.0
    on = {"top_k": torch.tensor([3, 5, 0], device=device), "top_p": torch.tensor([1.0, 0.9, 1.0], device=device)}
    inputs, lowest = call([base], **on), torch.tensor([-torch.inf, -10.0, -10.0], device=device)
    partials = combine.reduce_groups(inputs, False, False, lowest, filters.new_scores(inputs))
    scores = torch.where(base >= lowest[:, None], base, -torch.inf)
    assert torch.equal(partials.subgroup_peaks[:2], peaks_of_subgroups(whole_groups(scores))[:2])


def rows_with_a_bound_keep_the_oracle_s_ids(device: str = "cpu") -> None:
    V = 1100
    rows = hard_rows(V, device)[[4, 7]]
    # The third largest is no peak of a subgroup, and the largest is in another group.
    rows[1, [1030, 20, 21, 40]] = torch.tensor([100.0, 99.0, 98.0, 97.0], device=device)
    assert_keeps_the_oracle_s_ids(rows, top_k=torch.tensor([16, 3], device=device))


def a_greedy_row_keeps_to_its_argmax_among_filtered_ones(device: str = "cpu") -> None:
    logits = make_logits(2, 1100, 1, device=device)[0]
    logits[:, 1050] = 9.0
    sample = guided_sample([logits], [1.0], torch.tensor([0.0, 1.0], device=device), top_k=1)
    assert torch.equal(sample.tokens, logits.argmax(1)) and sample.status.tolist() == [0, 0]


# In every run; that of a greedy row is among the rows of test_sample.py there.
CHECKS = (
    the_bound_is_the_kth_largest_peak,
    the_group_pass_leaves_the_peak_of_every_subgroup,
    rows_with_a_bound_keep_the_oracle_s_ids,
)
