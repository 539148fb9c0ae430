"""Scores are in float32 where that fits."""

import pytest
import torch

from genarm.evaluation import precision
from genarm.evaluation.precision import scoring_dtype

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "device", "parameters", "chosen", "said"),
    [
        ("auto", CUDA, 8, torch.float32, 0),
        ("auto", CUDA, 9, torch.bfloat16, 1),
        ("auto", CPU, 90, torch.float32, 0),
        ("bfloat16", CUDA, 1, torch.bfloat16, 0),
        ("auto", CUDA, None, torch.float32, 0),
    ],
)
def test_auto_is_float32_unless_two_models_would_not_fit(dtype, device, parameters, chosen, said, monkeypatch):
    monkeypatch.setattr(precision, "parameters_of", lambda name: parameters)
    monkeypatch.setattr(precision, "memory_there", lambda on_cuda: 100)
    lines: list[str] = []
    assert scoring_dtype(dtype, device, ["base", "one", "other"], lines.append) == chosen
    assert len(lines) == said and all("--dtype float32" in line for line in lines)
