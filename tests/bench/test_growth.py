"""A model that was widened says what its core says."""

from __future__ import annotations

import torch

from bench.copy_core import new_core
from bench.growth import grown


def test_widened_models_keep_their_cores_logits() -> None:
    torch.manual_seed(0)
    core = new_core().double().eval()
    ids = torch.randint(0, 512, (2, 9))
    wide = grown(core, 2, torch.float64)
    assert wide.config.hidden_size == 2 * core.config.hidden_size
    # Its norms compute in float32.
    torch.testing.assert_close(wide(ids).logits, core(ids).logits, rtol=1e-4, atol=1e-4)
