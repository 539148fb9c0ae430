"""What guidance must cost: the bytes of a step with K reward models over those of a plain one. Needs no device.

python -m bench.decode_floors
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from bench.decode_cases import MODELS
from bench.decode_models import RANK, Family, config, random_model, step_bytes
from genarm.models.adapters import LoraAdapter

SHAPES = ((1, 128), (1, 1024), (1, 3072), (1, 16384), (16, 3072), (64, 3072))
MOST = 3  # reward models


def shapes_only(name: str) -> Family:
    """A model and adapters without weights."""
    meta = torch.device("meta")
    base = random_model(config(name), torch.bfloat16, meta)
    layers = {
        path: (layer.weight.new_empty(RANK, layer.in_features), layer.weight.new_empty(layer.out_features, RANK), None)
        for path, layer in base.named_modules()
        if isinstance(layer, nn.Linear) and path != "lm_head"
    }
    return Family(name, base, [LoraAdapter("", None, layers)] * MOST)


def table() -> str:
    lines = ["| | B | context | plain, GB | K = 1 | K = 2 | K = 3 |", "|---|---|---|---|---|---|---|"]
    for name in MODELS:
        models = shapes_only(name)
        for batch, context in SHAPES:
            plain, *guided = (step_bytes(models, K, False, batch, context).total for K in range(MOST + 1))
            ratios = " | ".join(f"{total / plain:.3f}" for total in guided)
            lines.append(f"| {name} | {batch} | {context:,} | {plain / 1e9:.2f} | {ratios} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
