"""Numbers that travel beside vLLM's log-probabilities: written into its rows and taken out again; without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genarm.errors import InvalidArgumentError
from genarm.serving.model_logprobs import extra_columns, own_columns, put, raised, split, token_logprobs
from genarm.serving.settings import ASK, asks

REWARDS = ("art", "risk")
MODELS = 1 + len(REWARDS)


def front_end(ids: torch.Tensor, logprobs: torch.Tensor, asked: int) -> dict[int, Any]:
    """What vLLM makes of a row for a request with so many ``logprobs``."""
    pairs = zip(ids.tolist()[: 1 + asked], logprobs.tolist(), strict=False)
    return {token: SimpleNamespace(logprob=value) for token, value in pairs}


def params(logprobs: int | None, **others: Any) -> Any:
    return SimpleNamespace(**{"logprobs": logprobs, "extra_args": {ASK: True}, "logprob_token_ids": None, **others})


def test_rows_that_ask_get_theirs_and_others_stay_as_they_are() -> None:
    """Rows with 2, 0, 0 and 1 log-probabilities of their own, of which the first, the third and the last ask."""
    width = 1 + 2 + extra_columns(MODELS)
    ids = torch.tensor([[1, 0, 1], [5, 5, 2], [3, 2, 3], [2, 2, 0]], dtype=torch.int32)
    ids = torch.cat([ids, torch.arange(10, 10 + width - 3, dtype=torch.int32).expand(4, -1)], 1)
    logprobs = torch.arange(4.0 * width).reshape(4, width) * -0.01
    values = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -torch.inf, -6.0], [-7.0, torch.nan, -9.0]])
    rows = torch.tensor([0, 2, 3])
    own = torch.tensor([3, 1, 2])
    found_ids, found = put(ids, logprobs, rows, own, 3, values)
    assert found_ids.dtype == torch.int32
    assert torch.equal(found_ids[1], ids[1]) and torch.equal(found[1], logprobs[1])
    for row, one, expected in zip(rows.tolist(), own.tolist(), values, strict=True):
        step = front_end(found_ids[row], found[row], one - 1 + extra_columns(MODELS))
        plain, told = split([step], REWARDS)
        assert plain == [front_end(ids[row], logprobs[row], one - 1)]
        assert told is not None and list(told) == ["base", *REWARDS]
        torch.testing.assert_close(torch.tensor(list(told.values()))[:, 0], expected, equal_nan=True)
        assert len(set(found_ids[row, one : one + extra_columns(MODELS)].tolist())) == extra_columns(MODELS)


def test_rows_of_a_narrow_sampler_get_room() -> None:
    """Where a request beside names ids, vLLM makes all rows as wide as those."""
    ids, logprobs = put(
        torch.tensor([[7, 0], [4, 9]]),
        torch.full((2, 2), -0.5),
        torch.tensor([1]),
        torch.tensor([2]),
        2,
        torch.tensor([[-1.0, -2.0, -3.0]]),
    )
    assert ids.shape == logprobs.shape == (2, 2 + extra_columns(MODELS))
    plain, told = split([front_end(ids[1], logprobs[1], 9)], REWARDS)
    assert [list(step) for step in plain if step] == [[4, 9]]
    assert told == {"base": [-1.0], "art": [-2.0], "risk": [-3.0]}


def test_a_completion_that_did_not_ask_is_left_alone() -> None:
    steps = [front_end(torch.tensor([3, 1, 2, 0, 5, 6]), torch.full((6,), -1.0), 5), None]
    assert split(steps, REWARDS) == (steps, None)
    assert split([], REWARDS) == ([], None)


def test_log_probabilities_are_over_the_bases_ids() -> None:
    base = torch.randn(3, 5, dtype=torch.float64)
    wide, narrow = torch.randn(3, 7, dtype=torch.bfloat16), torch.randn(3, 4)
    rows, tokens = torch.tensor([2, 0]), torch.tensor([4, 1])
    found = token_logprobs([base, wide, narrow], rows, tokens, 5)
    expected = [part.double().log_softmax(1)[rows, tokens] for part in (base, wide[:, :5])]
    torch.testing.assert_close(found[:, :2].double(), torch.stack(expected, 1), atol=1e-6, rtol=0)
    assert found.dtype == torch.float32 and found[0, 2] == -torch.inf
    torch.testing.assert_close(found[1, 2], narrow.log_softmax(1)[0, 1])


def test_parameters_are_raised_once() -> None:
    asked = params(2)
    for _ in range(2):  # vLLM validates the same object once per prompt
        raised(asked, MODELS)
        assert asked.logprobs == 2 + extra_columns(MODELS) and own_columns(asked.extra_args) == 3
        assert asks(asked.extra_args)
    asked.logprobs = 1
    with pytest.raises(InvalidArgumentError, match="no longer go together"):
        raised(asked, MODELS)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (params(None), r"ask for them as well \(logprobs: 0"),
        (params(-1), "leave one of them out"),
        (params(1, logprob_token_ids=[3]), "leave one of them out"),
    ],
)
def test_what_has_no_place_for_them_is_refused(asked: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        raised(asked, MODELS)


def test_a_request_says_true_or_false() -> None:
    assert [asks(said) for said in (None, {}, {ASK: False}, {ASK: 0}, {ASK: True}, {ASK: 1.0})] == [False] * 4 + [
        True
    ] * 2
    for value in ("yes", 2, None, [True]):
        with pytest.raises(InvalidArgumentError, match="use true or false"):
            asks({ASK: value})
