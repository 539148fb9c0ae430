"""PARM's adapter written out as its formula says, a module per layer, and files in the form its code writes."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

ALPHA, R1, R2 = 6, 4, 3
TARGETS = ("q_proj", "k_proj", "v_proj", "down_proj")


class LiteralPBLora(nn.Module):
    """y = W x + alpha / r2 · (B1 W1 A1 + B2 W2(p) A2) x, W2(p) the matrix whose rows Σ_k p_k · (row k of W2) holds."""

    def __init__(self, layer: nn.Linear, parts: dict[str, Tensor], preference: Sequence[float]) -> None:
        super().__init__()
        self.layer = layer
        A, B, W1, W2 = (parts[name] for name in ("pblora_A", "pblora_B", "pblora_W1", "pblora_W2"))
        self.A1, self.A2, self.B1, self.B2, self.W1 = A[:R1], A[R1:], B[:, :R1], B[:, R1:], W1
        self.W2_of_p = torch.zeros(R2, R2)
        for k, share in enumerate(preference):
            for i in range(R2):
                for j in range(R2):
                    self.W2_of_p[i, j] += share * W2[k, i * R2 + j]

    def forward(self, x: Tensor) -> Tensor:
        fixed = x @ self.A1.T @ self.W1.T @ self.B1.T
        conditioned = x @ self.A2.T @ self.W2_of_p.T @ self.B2.T
        out: Tensor = self.layer(x) + (ALPHA / R2) * (fixed + conditioned)
        return out


def random_state(
    base: Any, seed: int, count: int = 2, targets: Sequence[str] = TARGETS
) -> dict[str, dict[str, Tensor]]:
    """{layer: its parts}, random and large enough to change what is likely."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.4

    return {
        name: {
            "pblora_A": normal(R1 + R2, layer.in_features),
            "pblora_B": normal(layer.out_features, R1 + R2),
            "pblora_W1": normal(R1, R1),
            "pblora_W2": normal(count, R2 * R2),
        }
        for name, layer in base.named_modules()
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in targets
    }


def save_preference_adapter(folder: Path, state: dict[str, dict[str, Tensor]], **config: Any) -> Path:
    """The two files as PARM's fork of PEFT writes them, which does not name the objectives."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{name}.{part}": one for name, parts in state.items() for part, one in parts.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "PBLORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "", "r1": R1, "r2": R2,
        "obj_num": 2, "pref_vec_init": None, "target_modules": list(TARGETS), "lora_alpha": ALPHA,
        "lora_dropout": 0.05, "fan_in_fan_out": False, "bias": "none", "modules_to_save": None,
        "layers_to_transform": None, "layers_pattern": None, "inference_mode": True, "revision": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **config}))
    return folder


def literal(base: Any, state: dict[str, dict[str, Tensor]], preference: Sequence[float]) -> Any:
    """``base`` with the formula's modules in it, for one preference."""
    model = copy.deepcopy(base)
    for name, parts in state.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, LiteralPBLora(model.get_submodule(name), parts, preference))
    return model
