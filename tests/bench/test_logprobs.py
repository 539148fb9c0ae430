"""The log-probability suite: ways agree, what is missing is named, the time on a device is bounded."""

from __future__ import annotations

import pytest
import torch

from bench import logprobs
from bench.logprobs import BUILDERS, MODES

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("mode", MODES)
def test_ways_agree(mode: str) -> None:
    torch.manual_seed(0)
    hidden, lm_head, grads = torch.randn(30, 16), torch.randn(200, 16), torch.linspace(-1, 2, 30)
    token_ids = torch.randint(200, (30,))
    ours, plain = (logprobs.run(BUILDERS[way](), hidden, lm_head, token_ids, mode, grads) for way in ("ours", "plain"))
    assert len(ours) == 1 + MODES.index(mode)
    for value, right in zip(ours, plain, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [way for way in BUILDERS if logprobs.missing(way, CPU) is None] == ["ours", "plain"]
    monkeypatch.setattr(logprobs, "find_spec", lambda name: None)
    assert "liger-kernel is not installed" in logprobs.missing("liger", CUDA)
    assert logprobs.missing("compiled", CUDA) is None


def test_a_run_on_a_device_is_short() -> None:
    # 11 rounds and two calls of 5 ways, at most 3 products per mode and 2 more where they are taken twice.
    short = [case for case in logprobs.gpu_cases() if not case.full]
    operations = sum(2 * case.N * case.H * case.V * 4 * 5 * 13 for case in short)
    assert operations / 500e12 < 60
    assert {case.mode for case in short} == {case.mode for case in logprobs.cpu_cases()} == set(MODES)
