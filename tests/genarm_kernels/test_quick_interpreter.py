"""The interpreter that these tests run kernels in is Triton's own, to the bit."""

import pytest
import torch
import triton.language as tl
from kernel_cases import FILTERS, assert_same_bits, make_logits, make_weights
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError

from genarm_kernels import GuidedSample, guided_sample
from genarm_kernels.layer.activation import swiglu_kernel

pytestmark = pytest.mark.interpreter


def draw() -> GuidedSample:
    return guided_sample(make_logits(1, 17, 2), make_weights(1, 2), return_logprobs=True, **FILTERS["all"])


def test_results_are_those_of_triton_s_own_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = draw()
    for name in ("_patch_lang", "_get_np_dtype"):
        monkeypatch.setattr(interpreter, name, getattr(interpreter, name).__wrapped__)
    assert_same_bits(quick, draw())


def test_a_launch_leaves_triton_s_language_as_it_was_and_the_next_is_interpreted() -> None:
    own = tl.load
    z, out = torch.randn(1, 4), torch.empty(1, 2)
    for wrong in (False, True, False):
        if wrong:
            with pytest.raises(InterpreterError):
                swiglu_kernel[(1,)](z, 4, out, out, out, 2, 0, True, 3)  # a range of 3 columns is none
        else:
            swiglu_kernel[(1,)](z, 4, out, out, out, 2, 0, True, 4)
            gate, up = z.split(2, 1)
            torch.testing.assert_close(out, torch.nn.functional.silu(gate) * up)
        assert tl.load is own and tl.core.is_builtin(own)
