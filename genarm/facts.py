"""A decoder's models in words, and as a call's arguments are checked against them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .engine.engine import Engine
from .errors import RewardNameError
from .models.backbone import Backbone
from .models.causal import CausalModel, inner_model
from .models.preference_adapters import PreferenceAdapter
from .request.facts import ModelFacts
from .request.guidance import known_names
from .request.stopping import token_ids


class Described:
    """What a decoder says of itself: its models, as they are now."""

    models: list[CausalModel]
    engine: Engine
    tokenizer: Any
    max_length: int

    @property
    def base_model(self) -> nn.Module:
        module: nn.Module = self.models[0].module
        return module

    @property
    def reward_names(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models[1:])

    @property
    def vocab_size(self) -> int:
        """Ids that can be drawn: the base's, as its head is now."""
        return self.models[0].vocab_size

    @property
    def device(self) -> torch.device:
        return self.models[0].device

    def describe(self) -> list[dict[str, str]]:
        """What runs where: {"name", "runs on", "path"} of the base and each reward model. "path" is the way its passes
        are made: "fused", "hf" (transformers' forward on a static cache) or "hf-padded"."""
        return descriptions(self.models, self.engine.backbones)

    def __repr__(self) -> str:
        return one_line(self.models, self.max_length)

    @property
    def generation_config(self) -> Any:
        """The base's own generation config, which names its EOS and padding ids."""
        return getattr(inner_model(self.base_model), "generation_config", None)

    def facts(self) -> ModelFacts:
        """What a call's arguments are checked against, as the models are now."""
        return model_facts(self.models, self.generation_config, self.tokenizer, self.max_length)


def model_facts(models: Sequence[CausalModel], config: Any, tokenizer: Any, max_length: int) -> ModelFacts:
    """What the models are now; ``config`` is the base's generation config, which users edit."""
    base = models[0]
    pad_ids = (getattr(one, "pad_token_id", None) for one in (config, base.config, tokenizer))
    return ModelFacts(
        device=base.device,
        names=tuple(model.name for model in models),
        prompt_ids=tuple(min(model.input_vocab_size, model.vocab_size) for model in models),
        vocab_size=base.vocab_size,
        max_length=max_length,
        eos_ids=tuple(token_ids("eos_token_id", getattr(config, "eos_token_id", None))),
        bos_id=getattr(config, "bos_token_id", None),
        tokenizer=tokenizer,
        conditioned={one.name: one.adapter.objectives for one in models if isinstance(one.adapter, PreferenceAdapter)},
        wakes={one.name: one.activation.awake for one in models if one.activation is not None},
        pad_id=next((pad_id for pad_id in pad_ids if isinstance(pad_id, int) and pad_id >= 0), None),
    )


def chosen_models(models: Sequence[CausalModel], names: Sequence[str]) -> list[CausalModel]:
    """The base and the reward models of these names, in their order.

    Raises:
        RewardNameError: a name that is not loaded, or stands there twice.
    """
    loaded = {model.name: model for model in models[1:]}
    for place, name in enumerate(names):
        if name not in loaded:
            raise RewardNameError(f"only() names {name!r}, which is not loaded: {known_names(name, list(loaded))}")
        if name in names[:place]:
            raise RewardNameError(f"only() names {name!r} twice: name each reward model once")
    return [models[0], *(loaded[name] for name in names)]


def descriptions(models: Sequence[CausalModel], backbones: Sequence[Backbone]) -> list[dict[str, str]]:
    """What each model runs on, and by which path."""
    paths = {stream: backbone.kind for backbone in backbones for stream in backbone.streams}
    found = [{"name": model.name, "runs on": model.runs_on, "path": paths[at]} for at, model in enumerate(models)]
    for place, model in zip(found, models, strict=True):
        if isinstance(model.adapter, PreferenceAdapter):
            place["preference over"] = ", ".join(model.adapter.objectives.names)
        if model.activation is not None:
            place["awake from"] = str(model.activation)
    return found


def one_line(models: Sequence[CausalModel], max_length: int) -> str:
    """A decoder's models and limits."""
    base = models[0]
    name = getattr(base.config, "_name_or_path", None) or type(base.module).__name__
    dtype = str(next(base.module.parameters()).dtype).removeprefix("torch.")
    rewards = ", ".join(model.name for model in models[1:]) or "none"
    return f"GuidedDecoder({name}; reward models: {rewards}; {dtype} on {base.device}, max_length {max_length:,})"
