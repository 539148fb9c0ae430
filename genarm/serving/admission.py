"""What a guided engine is refused for, before any process of it starts, each with its reason and cure."""

from __future__ import annotations

import os
from typing import Any

from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.platforms import current_platform
from vllm.transformers_utils.config import get_config

from ..errors import InvalidArgumentError, LoadingError, UnsupportedModelError
from ..models.activation import IN_VLLM, refuse_activated
from ..models.adapters import read_adapter
from ..models.files import adapter_folder, is_adapter
from ..models.loading import load_tokenizer
from ..models.vocabulary import check_vocabularies
from . import versions
from .requests import GuidedRequests, class_name
from .scheduler import COUNTING
from .scheduler import NAME as SCHEDULER
from .settings import ARCHITECTURE, KEY, ServedGuidance
from .worker import is_telling, worker_name

KINDS = {
    "supports_multimodal": "reads pictures or sounds",
    "is_hybrid": "mixes attention with a recurrent state",
    "is_attention_free": "has a recurrent state and no attention",
    "has_inner_state": "has a recurrent state",
}
FORMATS = ("auto", "hf", "safetensors", "dummy")


class GuidedConfig(VerifyAndUpdateConfig):
    """What vLLM runs on the configuration of an engine whose architecture is the guided model."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Refuse what is not supported, check the models against each other, and bring in the table of weights."""
        versions.check()
        model = vllm_config.model_config
        guidance = ServedGuidance.from_dict(getattr(model.hf_config, KEY, None) or {})
        _refuse_settings(vllm_config)
        base = get_config(model.model, model.trust_remote_code, revision=model.revision)
        _refuse_kind("the base", base, model)
        for reward in guidance.rewards:
            _check_reward(reward.name, reward.path, base, model)
        for architecture in base.architectures:
            if architecture in MODELS_CONFIG_MAP:
                MODELS_CONFIG_MAP[architecture].verify_and_update_config(vllm_config)
        vllm_config.scheduler_config.scheduler_cls = SCHEDULER
        os.environ[COUNTING] = "1"  # before any process that samples is started
        requests, tells = _requests(vllm_config)
        name = class_name(requests, guidance, _keeps_seeds(vllm_config), tells)
        model.logits_processors = [*(one for one in model.logits_processors or () if one != name), name]


def _requests(vllm_config: Any) -> tuple[type[GuidedRequests], bool]:
    """What the engine's model runner takes for a logits processor, and whether its sampler tells what it has drawn."""
    parallel = vllm_config.parallel_config
    parallel.worker_cls = worker_name(parallel.worker_cls)
    if vllm_config.use_v2_model_runner:
        from .slots import GuidedSlots

        return GuidedSlots, True
    from .rows import GuidedRows

    return GuidedRows, is_telling(parallel.worker_cls)


def _keeps_seeds(vllm_config: Any) -> bool:
    """Whether requests may bring seeds. With runner v1 on a CPU only where no prompt is read in part, which is so here
    from now on where a pass has room for the longest one."""
    if vllm_config.use_v2_model_runner:
        return True
    scheduler = vllm_config.scheduler_config
    if current_platform.is_cpu() and scheduler.max_num_batched_tokens >= vllm_config.model_config.max_model_len:
        scheduler.enable_chunked_prefill = False
    return not (current_platform.is_cpu() and scheduler.enable_chunked_prefill)


def _refuse_settings(vllm_config: Any) -> None:
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    refused = {
        "pipeline parallelism": (
            parallel.pipeline_parallel_size > 1,
            "the models of a step are combined in one place; use --tensor-parallel-size instead",
        ),
        "context parallelism": (
            max(getattr(parallel, f"{kind}_context_parallel_size", 1) for kind in ("decode", "prefill")) > 1,
            "it was never run with several models in a step; use --tensor-parallel-size instead",
        ),
        "speculative decoding": (
            vllm_config.speculative_config is not None,
            "drafts of EAGLE or MTP follow the base alone, and vLLM has no room for weights per request beside any "
            "drafts; leave --speculative-config out, or use GuidedDecoder with speculate=",
        ),
        "vLLM's own LoRA requests": (
            vllm_config.lora_config is not None,
            "an adapter of a request would change the base alone; name adapters as reward models, and leave "
            "--enable-lora out",
        ),
        "quantised weights": (
            model.quantization is not None,
            "one setting would hold for the base and the reward models alike; use unquantised models",
        ),
        "--scheduler-cls": (
            vllm_config.scheduler_config.scheduler_cls not in (None, SCHEDULER),
            "the scheduler ends requests whose logits hold NaN, which others draw from; leave it out",
        ),
        "prompts as embeddings": (
            model.enable_prompt_embeds,
            "reward models read tokens; leave --enable-prompt-embeds out",
        ),
        f"--load-format {vllm_config.load_config.load_format}": (
            vllm_config.load_config.load_format not in FORMATS,
            f"it reads one model, and there are several here; use one of {', '.join(FORMATS)}",
        ),
    }
    for what, (found, why) in refused.items():
        if found:
            raise InvalidArgumentError(f"{what} is not supported in guided decoding: {why}")


def _refuse_kind(whose: str, config: Any, model: Any) -> None:
    if not config.architectures:
        raise LoadingError(f"{whose}: its config.json names no architecture: save the model again")
    if ARCHITECTURE in config.architectures:
        raise InvalidArgumentError(f"{whose} is itself a guided model: pass the plain model")
    found, _ = model.registry.inspect_model_cls(config.architectures, model)
    for attribute, what in KINDS.items():
        if getattr(found, attribute, False):
            raise UnsupportedModelError(
                f"{whose} ({config.architectures[0]}) {what}: guided decoding in vLLM runs models of text whose only "
                "memory is attention"
            )


def _check_reward(name: str, path: str, base: Any, model: Any) -> None:
    """Kind, vocabulary and length of one reward model, as far as its files say before they are loaded."""
    trusted = model.trust_remote_code
    base_tokenizer = load_tokenizer(model.tokenizer, trusted)
    tokenizer, config = load_tokenizer(path, trusted), base
    if is_adapter(path):
        adapter = read_adapter(adapter_folder(path))  # which says of one that is more than plain LoRA what it is
        refuse_activated(path, adapter.activation, *IN_VLLM)
    else:
        config = get_config(path, trusted)
        _refuse_kind(f"reward model {name!r}", config, model)
        if getattr(config, "quantization_config", None):
            raise UnsupportedModelError(f"reward model {name!r} is quantised, which is not supported in vLLM here")
    sizes = [one.get_text_config().vocab_size for one in (base, config)]
    check_vocabularies(sizes[0], sizes[1], base_tokenizer, tokenizer, name)
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and longest < model.max_model_len:
        raise InvalidArgumentError(
            f"reward model {name!r} reads {longest} tokens, and the server's texts have up to {model.max_model_len}: "
            f"start it with --max-model-len {longest}"
        )
