"""The bound that a search for a threshold begins with: there for up to eight ids per group, and never too high."""

from collections.abc import Callable

import bound_cases as cases
import pytest
import torch
from filter_cases import assert_keeps_the_oracle_s_ids
from kernel_cases import make_logits

pytestmark = pytest.mark.usefixtures("stale_memory")


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], kernel_device: str) -> None:
    check(kernel_device)


LARGE = [pytest.param(V, marks=pytest.mark.device) for V in (1000, 50257, 128256)]


@pytest.mark.parametrize("V", [32000, *LARGE])
def test_rows_of_real_vocabularies_keep_the_oracle_s_ids_around_every_rank_with_a_bound(
    V: int, fast_device: str
) -> None:
    top_k = torch.tensor(cases.RANKS[V], device=fast_device)
    rows = make_logits(len(top_k), V, 1, device=fast_device)[0]
    assert_keeps_the_oracle_s_ids(rows, top_k=top_k)
    assert_keeps_the_oracle_s_ids(rows, top_k=top_k, top_p=torch.full((len(top_k),), 0.9, device=fast_device))
