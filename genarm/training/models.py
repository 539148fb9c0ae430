"""What is trained: a causal LM or a scorer from one base, as a LoRA adapter or whole."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, set_seed

from ..errors import InvalidArgumentError
from ..models.adapters import read_adapter
from ..models.asleep import lora_config as config_of
from ..models.files import adapter_folder
from ..models.loading import load_model, load_scorer
from ..models.options import Source
from .parm import conditioned
from .settings import SCORERS, TrainingSettings

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
    if settings.kind == "parm":
        model = conditioned(model, settings)
    elif settings.rank:
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
    """The model with fresh LoRA layers, or with those that training goes on with."""
    if settings.load_in_4bit:  # norms and the head stay as the 4-bit base has them
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    if settings.continue_from is not None:
        return _continued(settings, model)
    try:
        return get_peft_model(model, lora_config(settings))
    except ValueError as error:
        raise InvalidArgumentError(
            f"{settings.base}: takes no such LoRA ({error}): name other target modules"
        ) from error


def _continued(settings: TrainingSettings, model: Any) -> Any:
    """The adapter of `continue_from`, trainable, in float32 and with this run's dropout."""
    folder = adapter_folder(str(settings.continue_from))
    config = config_of(folder)
    config.lora_dropout, config.inference_mode = settings.dropout, False
    if settings.kind not in SCORERS:
        read_adapter(folder).fit(model)  # which says what does not fit
    continued = PeftModel.from_pretrained(model, folder, config=config, is_trainable=True)
    trained_in_float32(continued)
    continued.peft_config["default"].base_model_name_or_path = settings.base
    return continued


def trained_in_float32(model: Any) -> None:
    """What is trained becomes float32: steps of a small rate are lost in the eight bits of a bfloat16."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def untrained_model(settings: TrainingSettings) -> Any:
    """The base as it comes, on the CPU (in 4 bits, where it is trained); a trajectory RM's with the seed's score."""
    dtype = torch.bfloat16 if settings.bf16 and settings.rank else torch.float32
    source = base_source(settings, dtype)
    if settings.kind in SCORERS:
        return load_scorer(settings.base, source, new_score=True)
    return load_model(settings.base, source)


def base_source(settings: TrainingSettings, dtype: torch.dtype) -> Source:
    """How a run reads its base: in ``dtype`` on the CPU, whence the Trainer moves it, or quantised where it is used."""
    if not settings.load_in_4bit:
        return Source(dtype, torch.device("cpu"), settings.trust_remote_code)
    device = torch.device("cuda", torch.cuda.current_device()) if settings.on_cuda else torch.device("cpu")
    return Source(dtype, device, settings.trust_remote_code, {"quantization_config": four_bits(dtype)})


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's form of a frozen base (Dettmers et al. 2023): NF4 with its scales quantised too, products in ``dtype``.

    Raises:
        InvalidArgumentError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise InvalidArgumentError("load in 4bit needs bitsandbytes: pip install 'genarm[quantized]', or leave it out")
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def lora_config(settings: TrainingSettings) -> LoraConfig:
    """LoRA on all linear layers but the head, or on the modules named; a scorer's score is trained whole."""
    return LoraConfig(
        task_type=TaskType.SEQ_CLS if settings.kind in SCORERS else TaskType.CAUSAL_LM,
        base_model_name_or_path=settings.base,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) or "all-linear",
    )
