"""What a guided server and its requests may say, and what is made of it; none of this needs vLLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genarm.errors import InvalidArgumentError, UnsupportedModelError
from genarm.serving import versions
from genarm.serving.combine import combine, mark, reason
from genarm.serving.settings import ServedGuidance, ServedReward, hf_overrides

GUIDANCE = ServedGuidance((ServedReward("art", "a", 1.0), ServedReward("risk.low", "b", 0.5)), beta=0.5)


@pytest.mark.parametrize(
    ("said", "row"),
    [
        (None, [1.0, 2.0, 1.0]),
        ({"beta": 2, "kv_transfer_params": {}}, [1.0, 0.5, 0.25]),
        ({"weights.risk.low": -1.0}, [1.0, 0.0, -2.0]),
        ({"weights.art": 3, "weights.risk.low": 1, "beta": 1.0, "base_weight": 0}, [0.0, 3.0, 1.0]),
    ],
)
def test_a_request_has_its_own_numbers_or_the_servers(said: Any, row: list[float]) -> None:
    assert GUIDANCE.row(said) == row
    assert ServedGuidance.from_dict(hf_overrides(GUIDANCE)["genarm"]).row(said) == row


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"weights.tree": 1.0}, "no reward model has this name; there are art, risk.low"),
        ({"weight.art": 1.0}, "did you mean 'weights.art'"),
        ({"art": 1.0}, "did you mean 'weights.art'"),
        ({"temperature": 1.0}, "no setting of guided decoding: use weights.art"),
        ({"weights.art": "1"}, "use a finite number"),
        ({"weights.art": True}, "use a finite number"),
        ({"weights.art": float("inf")}, "use a finite number"),
        ({"weights.art": 1e9}, "at most 1e\\+06"),
        ({"beta": 0}, "above 0"),
        ({"weights.art": 0, "base_weight": 0}, "every weight is 0"),
    ],
)
def test_what_a_request_cannot_say_is_named(said: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        GUIDANCE.row(said)


@pytest.mark.parametrize("names", [(), ("base",), ("a", "a"), ("",), tuple("abcdefgh")])
def test_reward_models_have_names_of_their_own(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgumentError):
        ServedGuidance(tuple(ServedReward(name, "path") for name in names))


@pytest.mark.parametrize("found", ["0.31.0", "0.32.0+cpu", "0.32.1.post2"])
def test_a_supported_vllm_is_taken(found: str) -> None:
    versions.check(found)


@pytest.mark.parametrize("found", ["0.30.2", "0.33.0", "1.0", "dev"])
def test_another_vllm_is_refused_by_name(found: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"vLLM {found} is installed.*from 0.31 to below 0.33"):
        versions.check(found)


def test_scores_are_weighted_sums_over_what_every_model_with_a_weight_knows() -> None:
    inf = float("inf")
    base = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3)
    narrow = torch.tensor([[1.0, -inf, 1.0], [1.0, -inf, 1.0], [1.0, float("nan"), 1.0]])
    wide = torch.tensor([[1.0, 0.0, 0.0, 0.0, 9.0]] * 3, dtype=torch.bfloat16)
    weights = torch.tensor([[1.0, 2.0, 1.0], [2.0, -1.0, 0.0], [1.0, 0.0, 1.0]])
    scores, status = combine({0: base, 1: narrow, 2: wide}, weights, 4)
    expected = [[4.0, -inf, 5.0, -inf], [1.0, -inf, 5.0, -inf], [2.0, 2.0, 3.0, 4.0]]
    assert scores.dtype == torch.float32 and scores.tolist() == expected and not status.any()


def test_a_row_that_cannot_be_decoded_says_why_and_leaves_the_others_alone() -> None:
    inf, nan = float("inf"), float("nan")
    fine = torch.arange(8.0).expand(6, 8)
    broken, other = fine.clone(), fine.clone()
    broken[1, 5], broken[2, 7], broken[3, 0] = nan, inf, nan
    broken[4, ::2], other[4, 1::2] = -inf, -inf
    other[3, 1] = inf
    weights = torch.tensor([[1.0, 1.0, 1.0]] * 5 + [[1.0, 0.0, 1.0]])
    broken[5] = nan
    scores, found = combine({0: fine, 1: broken, 2: other}, weights, 8)
    status = found.tolist()
    assert status == [0, 2, 2, 6, 8, 0]
    assert torch.equal(scores[0], 3 * fine[0]) and torch.equal(scores[5], 2 * fine[5])
    assert not scores[1:5].any(), "there is something to draw from"
    scores[:, 1] = -inf  # as where a token is banned
    mark(scores, found)
    assert scores.isnan().sum(1).tolist() == status and scores[0, 1] == -inf
    names = ["base", "broken", "other"]
    assert "row 1: the logits of 'broken' hold NaN or +inf" in reason("row 1", status[1], names)
    assert "'broken' and 'other' hold" in reason("row 3", status[3], names)
    assert "exclude every token" in reason("row 4", status[4], names)
