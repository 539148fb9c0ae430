"""Bad calls: each gets one line that names the argument."""

import pytest
import torch

from genarm_kernels import guided_log_probs, guided_sample

B, V = 2, 10


def call(**changes: object) -> None:
    arguments = {"logits": [torch.zeros(B, V), torch.zeros(B, V)], "weights": [1.0, 0.5], **changes}
    guided_sample(arguments.pop("logits"), arguments.pop("weights"), **arguments)


BAD = {
    "no model": ({"logits": []}, ValueError, "logits holds 0 models"),
    "nine models": ({"logits": [torch.zeros(B, V)] * 9, "weights": [1.0] * 9}, ValueError, "logits holds 9 models"),
    "not a tensor": ({"logits": [torch.zeros(B, V), [0.0]]}, TypeError, r"logits\[1\] is list"),
    "integer logits": ({"logits": [torch.zeros(B, V).long()]}, TypeError, r"logits\[0\] is torch.int64"),
    "bare tensor": ({"logits": torch.zeros(B, V)}, ValueError, r"logits\[0\] has shape \[10\]"),
    "other batch": ({"logits": [torch.zeros(B, V), torch.zeros(3, V)]}, ValueError, r"logits\[1\] has 3 rows"),
    "other device": (
        {"logits": [torch.zeros(B, V), torch.zeros(B, V, device="meta")]},
        ValueError,
        r"logits\[1\] is on meta",
    ),
    "empty vocabulary": ({"logits": [torch.zeros(B, 0)], "weights": [1.0]}, ValueError, "vocabulary of 0 ids"),
    "huge vocabulary": (
        {"logits": [torch.zeros(1, 1).expand(1, 2**20 + 1)], "weights": [1.0]},
        ValueError,
        "at most 1048576",
    ),
    "vocab_size 0": ({"vocab_size": 0}, ValueError, "vocab_size is 0: expected 1 to 10"),
    "vocab_size of another kind": ({"vocab_size": 2.5}, TypeError, "vocab_size is float"),
    "too few weights": ({"weights": [1.0]}, ValueError, r"weights has shape \[1\]: expected \[2\] or \[2, 2\]"),
    "weights of another batch": ({"weights": torch.ones(3, 2)}, ValueError, r"weights has shape \[3, 2\]"),
    "weights that are text": ({"weights": ["a", "b"]}, TypeError, "weights cannot be read"),
    "boolean weights": ({"weights": torch.tensor([True, False])}, TypeError, "weights is torch.bool"),
    "NaN weight": ({"weights": torch.tensor([1.0, torch.nan])}, ValueError, "weights holds a value that is not finite"),
    "weights elsewhere": ({"weights": torch.ones(2, device="meta")}, ValueError, "weights is on meta"),
    "negative temperature": ({"temperature": -0.1}, ValueError, "temperature is -0.1"),
    "infinite temperature": ({"temperature": float("inf")}, ValueError, "temperature is inf"),
    "negative in a row": (
        {"temperature": torch.tensor([1.0, -1.0])},
        ValueError,
        "temperature holds a value that is not",
    ),
    "temperature as text": ({"temperature": "hot"}, TypeError, "temperature is str"),
    "temperature of another batch": ({"temperature": torch.ones(3)}, ValueError, r"temperature has shape \[3\]"),
    "integer temperature": ({"temperature": torch.ones(2).long()}, TypeError, "temperature is torch.int64"),
    "negative top_k": ({"top_k": -1}, ValueError, "top_k is -1"),
    "fractional top_k tensor": ({"top_k": torch.ones(2)}, TypeError, "top_k is torch.float32"),
    "NaN top_p": ({"top_p": float("nan")}, ValueError, "top_p is nan"),
    "min_p over 1": ({"min_p": 1.5}, ValueError, r"min_p is 1.5: expected a value in \[0, 1\]"),
    "boolean top_k": ({"top_k": True}, TypeError, "top_k is bool"),
    "bias of another size": ({"bias": torch.zeros(9)}, ValueError, r"bias has shape \[9\]"),
    "bias as list": ({"bias": [0.0] * V}, TypeError, "bias is list"),
    "integer bias": ({"bias": torch.zeros(V).long()}, TypeError, "bias is torch.int64"),
    "bias elsewhere": ({"bias": torch.zeros(V, device="meta")}, ValueError, "bias is on meta"),
    "fractional seed": ({"seed": 0.5}, TypeError, "seed is float"),
    "seeds of another batch": ({"seed": torch.arange(3)}, ValueError, r"seed has shape \[3\]"),
    "fractional position": ({"position": 1.0}, TypeError, "position is float"),
    "huge position": ({"position": 2**63}, ValueError, "position is 9223372036854775808"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_call_is_refused_in_one_line(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call(**changes)
    assert "\n" not in str(caught.value) and ":" in str(caught.value)


def test_the_distribution_is_checked_in_the_same_way() -> None:
    with pytest.raises(ValueError, match="min_p is 2"):
        guided_log_probs([torch.zeros(1, 3)], [1.0], min_p=2)


def test_the_good_call_beside_the_bad_ones_is_accepted() -> None:
    call()
    call(
        weights=torch.ones(B, 2).double(),
        temperature=torch.tensor(0.5),
        top_k=torch.tensor([3, 0], dtype=torch.int32),
        bias=torch.zeros(B, V, dtype=torch.bfloat16),
        seed=torch.tensor(3),
        position=torch.tensor([1, 2], dtype=torch.int32),
    )
