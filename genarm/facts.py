"""A decoder's models in words, and as a call's arguments are checked against them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .models.backbone import Backbone
from .models.causal import CausalModel
from .request.facts import ModelFacts
from .request.stopping import token_ids


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
        pad_id=next((pad_id for pad_id in pad_ids if isinstance(pad_id, int) and pad_id >= 0), None),
    )


def descriptions(models: Sequence[CausalModel], backbones: Sequence[Backbone]) -> list[dict[str, str]]:
    """What each model runs on, and by which path."""
    paths = {stream: backbone.kind for backbone in backbones for stream in backbone.streams}
    return [{"name": model.name, "runs on": model.runs_on, "path": paths[at]} for at, model in enumerate(models)]


def one_line(models: Sequence[CausalModel], max_length: int) -> str:
    """A decoder's models and limits."""
    base = models[0]
    name = getattr(base.config, "_name_or_path", None) or type(base.module).__name__
    dtype = str(next(base.module.parameters()).dtype).removeprefix("torch.")
    rewards = ", ".join(model.name for model in models[1:]) or "none"
    return f"GuidedDecoder({name}; reward models: {rewards}; {dtype} on {base.device}, max_length {max_length:,})"
