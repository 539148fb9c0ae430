"""A call's arguments: refused in one line that names them, whatever is wrong; numpy's integers are integers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genarm import GenARMError, GuidedDecoder
from genarm.engine.state import new_state
from genarm.request.facts import ModelFacts
from genarm.request.options import prepare

NAN, INF = math.nan, math.inf
HUGE = 10**400  # more than any float


@pytest.mark.parametrize(
    ("option", "value", "cause"),
    [
        ("beta", 0, "beta is 0"),
        ("beta", -1.0, "beta is -1: the reward weights are divided by it, so pass a number above 0"),
        ("beta", 1e-42, "beyond float32"),
        ("beta", HUGE, "larger than any floating-point number"),
        ("base_weight", 1e39, "the base in row 0 is beyond float32"),
        ("base_weight", [1.0], "shape [1]"),
        ("weights", {"r": HUGE}, "larger than any floating-point number"),
        ("temperature", INF, "temperature is inf"),
        ("temperature", "hot", "'hot'"),
        ("temperature", True, "True"),
        ("temperature", torch.ones(2, device="meta"), "meta"),
        ("top_k", [1, 2.5], "whole number"),
        ("top_k", -1, "top_k is -1"),
        ("top_p", [HUGE, 1.0], "top_p"),
        ("top_p", -0.1, "top_p is -0.1"),
        ("min_p", 1.5, "min_p is 1.5: pass a finite number from 0 to 1"),
        ("base_min_p", 2, "base_min_p is 2"),
        ("base_top_p", NAN, "base_top_p is nan"),
        ("repetition_penalty", 0.0, "repetition_penalty is 0"),
        ("seed", True, "seed is True"),
        ("seed", "lucky", "'lucky'"),
        ("seed", [2**70, 1], "seed"),
        ("seed", torch.ones(2), "float32"),
        ("logit_bias", {97: 1.0}, "token 97: ids are integers from 0 to 96"),
        ("logit_bias", {3: "x"}, "logit_bias[3]"),
        ("logit_bias", {3: HUGE}, "logit_bias[3] is larger"),
        ("logit_bias", {3: NAN}, "NaN"),
        ("logit_bias", {3: 1e39}, "+inf"),
        ("logit_bias", [0.0] * 97, "list"),
        ("logit_bias", torch.zeros(3, 97), "[3, 97]"),
        ("allowed_tokens", [], "at least one"),
        ("allowed_tokens", [97], "token 97"),
        ("allowed_tokens", [1.5], "list of token ids"),
        ("allowed_tokens", {1, 2}, "allowed_tokens"),
        ("eos_token_id", True, "eos_token_id is True"),
        ("stop", "ab", "stop holds a string and the decoder has no tokenizer"),
        ("stop", ["a", ""], "empty sequence"),
        ("stop", [5], "stop is [5]: pass a string, or a list of strings and token-id sequences"),
        ("stop", [[]], "empty sequence"),
        ("stop", [[1.5]], "stop is [1.5]"),
        ("max_new_tokens", -1, "max_new_tokens is -1"),
        ("max_new_tokens", True, "max_new_tokens is True"),
        ("reward_prompts", {"x": [[1], [2]]}, "'x', which is not loaded"),
        ("reward_prompts", {"r": [[1]]}, "1 rows, input_ids 2"),
        ("reward_prompts", {"r": None}, "reward_prompts['r']"),
        ("reward_prompts", [[[1], [2]]], "reward_prompts is a list"),
        ("drafts", 4, "no argument 'drafts'"),
        ("num_return_sequences", 0, "num_return_sequences is 0: pass an integer of at least 1"),
        ("temprature", 1.0, "no argument 'temprature'"),
    ],
)
def test_bad_options_are_named_in_one_line(option: str, value: Any, cause: str, decoder: GuidedDecoder) -> None:
    with pytest.raises(GenARMError) as caught:
        decoder.generate(torch.tensor([[5, 6], [7, 8]]), **{"max_new_tokens": 2, option: value})
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numpy_integers_are_integers(decoder: GuidedDecoder) -> None:
    numpy = pytest.importorskip("numpy")
    out = decoder.generate([[5]], max_new_tokens=numpy.int64(3), eos_token_id=numpy.int64(96), stop=[[numpy.int32(95)]])
    assert 1 <= len(out.tokens[0]) <= 3


class Waits(TorchDispatchMode):
    """Counts what would wait for a device: numbers and shapes that the host reads of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += operation.name() in {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}
        return operation(*args, **(kwargs or {}))


def every_option(batch: int) -> dict[str, Any]:
    names = ("temperature", "top_p", "min_p", "base_min_p", "base_top_p", "repetition_penalty", "beta", "base_weight")
    ids = torch.randint(3, 97, (batch, 9))
    return {
        **{name: torch.full((batch,), 0.5) for name in names},
        "input_ids": ids,
        "attention_mask": (torch.arange(9) >= torch.arange(batch)[:, None] % 5).long(),
        "weights": torch.rand(batch, 3),
        "top_k": torch.full((batch,), 7),
        "logit_bias": torch.zeros(batch, 97),
        "allowed_tokens": torch.arange(90),
        "seed": torch.arange(batch),
        "reward_prompts": {"a": ids.flip(1), "b": list(ids)},
        "eos_token_id": torch.tensor([1, 2]),
        "max_new_tokens": 8,
    }


def facts_on(device: str) -> ModelFacts:
    return ModelFacts(torch.device(device), ("base", "a", "b", "c"), (97,) * 4, 97, 64, (2,), 1, 0)


def test_nothing_on_the_models_device_is_looked_at() -> None:
    """A meta tensor has nothing to be read; on a GPU each look would be a wait."""
    options = every_option(64)
    ids, mask = options.pop("input_ids"), options.pop("attention_mask")
    request = prepare(facts_on("meta"), ids, mask, options)
    assert not request.errors and request.guidance.weights.is_meta and request.streams[2].rows[5].is_meta
    assert request.streams[0].lengths == [9 - row % 5 for row in range(64)]


def test_arguments_on_a_device_are_read_once_however_many_rows_there_are() -> None:
    counts = []
    for batch in (2, 64):
        options = every_option(batch)
        ids, mask = options.pop("input_ids"), options.pop("attention_mask")
        with Waits() as waits:
            request = prepare(facts_on("cpu"), ids, mask, options)
            request.rows(range(batch))
            new_state(request, 97)
        counts.append(waits.count)
    assert counts[0] == counts[1] < 8
