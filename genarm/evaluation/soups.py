"""Rewarded soups: LoRA adapters of one base, averaged as weights instead of as log-probabilities.

θ_λ = θ_0 + Σ_i λ_i s_i B_i A_i: what is averaged is the change ΔW_i = s_i B_i A_i that each adapter makes to a layer,
with its scaling s_i = alpha / r. The sum is exactly one LoRA of rank Σ r_i, its A the stack of all A_i and its B the
row of all λ_i s_i B_i. Averages of A and of B would be something else, since (Σ λ_i B_i)(Σ λ_i A_i) has terms B_i A_j
of two adapters.

Source: Ramé et al. 2023, Rewarded soups (NeurIPS 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError, UnsupportedAdapterError
from ..models.activation import Activation
from ..models.adapter_names import renamed
from ..models.adapters import LoraAdapter
from ..models.causal import CausalModel, inner_model

Layer = tuple[Tensor, Tensor, Tensor | None]


def soup(adapters: Sequence[LoraAdapter], shares: Sequence[float], base: nn.Module) -> LoraAdapter:
    """One adapter whose change to every layer is Σ λ_i ΔW_i, of rank Σ r_i over the shares λ_i that are not 0.

    Args:
        adapters: as read from their files, each for ``base``; a layer that one of them leaves alone it changes by 0.
        shares: λ, one number per adapter; they need not add up to 1.
    Raises:
        InvalidArgumentError: another number of shares, or all of them 0.
        UnsupportedAdapterError: an adapter that does not fit ``base``, ordinary ones and activated ones together.
    """
    if len(shares) != len(adapters) or not any(shares):
        raise InvalidArgumentError(
            f"{len(shares)} shares ({', '.join(f'{share:g}' for share in shares)}) for {len(adapters)} adapters: give "
            "one for each, and one at least that is not 0"
        )
    activation = _activation(adapters)
    model = inner_model(base)
    parts: dict[str, list[tuple[float, Layer]]] = {}
    for adapter, share in zip(adapters, shares, strict=True):
        adapter.fit(model)  # refuses one of another architecture, or half of one
        own = renamed(adapter.layers, model)
        for name, layer in adapter.layers.items():
            if share:
                parts.setdefault(own[name], []).append((share, layer))
    named = " + ".join(f"{share:g} · {one.path}" for one, share in zip(adapters, shares, strict=True) if share)
    layers = {name: _sum(found) for name, found in parts.items()}
    return LoraAdapter(named, None, layers, activation=activation)


def _activation(adapters: Sequence[LoraAdapter]) -> Activation | None:
    """From where on all of them are awake."""
    first = adapters[0]
    for adapter in adapters:
        if adapter.activation != first.activation:
            awake = [f"{one.path} from {one.activation or 'the first token'}" for one in (first, adapter)]
            raise UnsupportedAdapterError(
                f"{' and '.join(awake)} are awake on different tokens of a prompt, and their average would be neither: "
                "average adapters of one kind"
            )
    return first.activation


def _sum(parts: Sequence[tuple[float, Layer]]) -> Layer:
    """Σ λ (A, B, bias) of one layer, in float32 or wider."""
    down = torch.cat([_wide(down) for _, (down, _, _) in parts])
    up = torch.cat([share * _wide(up) for share, (_, up, _) in parts], dim=1)
    biases = [share * _wide(bias) for share, (_, _, bias) in parts if bias is not None]
    return down, up, torch.stack(biases).sum(0) if biases else None


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def decoder_with(decoder: GuidedDecoder, name: str, adapter: LoraAdapter, max_batch_size: int) -> GuidedDecoder:
    """A decoder of the same models, which it shares, and one adapter on the base more, as the last reward model."""
    rewards = decoder.models[1:]
    given: Mapping[str, Any] = {model.name: model.adapter or model.module for model in rewards}
    bases = {model.name: _place(decoder, model) for model in rewards if model.adapter is not None}
    return GuidedDecoder(
        decoder.base_model,
        {**given, name: adapter},
        decoder.tokenizer,
        max_batch_size=max_batch_size,
        max_length=decoder.max_length,
        reward_bases={**bases, name: "base"},
        check_vocabulary=False,  # they are together already
    )


def on_the_base(decoder: GuidedDecoder) -> None:
    """Raise UnsupportedAdapterError unless every reward model is an adapter on the base itself."""
    for model in decoder.models[1:]:
        if model.adapter is None or model.module is not decoder.base_model:
            what = "a full model" if model.adapter is None else f"an adapter on {model.runs_on}"
            raise UnsupportedAdapterError(
                f"reward model {model.name!r} is {what}, and a soup averages LoRA adapters on one base: leave "
                "--soup out"
            )


def _place(decoder: GuidedDecoder, model: CausalModel) -> nn.Module | str:
    return "base" if model.module is decoder.base_model else model.module
