"""A call's arguments: refused in one line that names them, whatever is wrong; numpy's integers are integers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from genarm import GenARMError, GuidedDecoder

NAN, INF = math.nan, math.inf
HUGE = 10**400  # more than any float


@pytest.mark.parametrize(
    ("option", "value", "cause"),
    [
        ("beta", 0, "beta is 0"),
        ("beta", -1.0, "beta is -1.0: pass a finite number of at least 0"),
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
        ("stop", "ab", "[[id, id, …], …]"),
        ("stop", [5], "[[id, id, …], …]"),
        ("stop", [[]], "empty sequence"),
        ("stop", [[1.5]], "stop is [1.5]"),
        ("max_new_tokens", -1, "max_new_tokens is -1"),
        ("max_new_tokens", True, "max_new_tokens is True"),
        ("reward_prompts", {"x": [[1], [2]]}, "'x', which is not loaded"),
        ("reward_prompts", {"r": [[1]]}, "1 rows, input_ids 2"),
        ("reward_prompts", {"r": None}, "reward_prompts['r']"),
        ("reward_prompts", [[[1], [2]]], "reward_prompts is a list"),
        ("speculate", 4, "speculate is not available"),
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
