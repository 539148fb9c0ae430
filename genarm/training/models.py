"""What is trained: a causal LM or a scorer from one base, as a LoRA adapter or whole."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import set_seed

from ..errors import InvalidArgumentError
from ..models.loading import load_model, load_scorer
from ..models.options import Source
from .settings import TrainingSettings

# Up to this many tokens, plain matrix products are faster on a CPU: a step on sequences of 23 took 0.29 s, not 0.37.
SHORT = 64


def trained_model(settings: TrainingSettings, tokenizer: Any, longest: int) -> Any:
    """The base with fresh LoRA weights (or all of its own) trainable, drawn from the seed, on the CPU.

    A frozen base is held in bfloat16 where the run multiplies in bfloat16; what is trained is float32. ``longest`` is
    the number of tokens of the longest sequence.

    Raises:
        GenARMError: a base that cannot be loaded, has no such layers, or fewer positions than a sequence has tokens.
    """
    set_seed(settings.seed)
    model = untrained_model(settings)
    _check_positions(settings, model, longest)
    if settings.kind == "dpo":
        _drop_nothing(model)
    if longest <= SHORT and not settings.on_cuda:
        model.set_attn_implementation("eager")
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    if settings.rank:
        model = _with_lora(settings, model)
    if settings.gradient_checkpointing and settings.rank:
        model.enable_input_require_grads()
    return model.train()


def _drop_nothing(model: Any) -> None:
    """A policy is held against the base, which must be the same base at every pass; an adapter's dropout stays."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _check_positions(settings: TrainingSettings, model: Any, longest: int) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise InvalidArgumentError(
            f"{settings.base}: has {positions} positions, and a sequence has {longest} tokens: lower max length to "
            f"{positions}"
        )


def _with_lora(settings: TrainingSettings, model: Any) -> Any:
    try:
        return get_peft_model(model, lora_config(settings))
    except ValueError as error:
        raise InvalidArgumentError(
            f"{settings.base}: takes no such LoRA ({error}): name other target modules"
        ) from error


def untrained_model(settings: TrainingSettings) -> Any:
    """The base as it comes, on the CPU; a trajectory RM's with the seed's score."""
    dtype = torch.bfloat16 if settings.bf16 and settings.rank else torch.float32
    source = Source(dtype, torch.device("cpu"), settings.trust_remote_code)
    if settings.kind == "trajectory-rm":
        return load_scorer(settings.base, source, new_score=True)
    return load_model(settings.base, source)


def lora_config(settings: TrainingSettings) -> LoraConfig:
    """LoRA on all linear layers but the head, or on the modules named; a scorer's score is trained whole."""
    return LoraConfig(
        task_type=TaskType.SEQ_CLS if settings.kind == "trajectory-rm" else TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) or "all-linear",
    )
