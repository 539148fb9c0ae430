"""The drop-in for Hugging Face ``generate``: ``model.generate(..., custom_generate=genarm.custom_generate, ...)``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    MinPLogitsWarper,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GenerateDecoderOnlyOutput

from .errors import UnsupportedGenerationError
from .keywords import forwarded, handed_on
from .models.reward_bases import RewardBases
from .models.rewards import RewardModels
from .request.copies import expanded, expanded_weights
from .request.gates import GuideWhen, expanded_gates
from .request.guidance import PerRow, Weights
from .request.inputs import PromptInput
from .request.preferences import Preferences
from .reuse import shared_decoder

# Warpers the sampler has itself, in the one order in which it applies them: class -> (our keyword, its attribute).
NATIVE: tuple[tuple[type, str, str], ...] = (
    (TemperatureLogitsWarper, "temperature", "temperature"),
    (TopKLogitsWarper, "top_k", "top_k"),
    (TopPLogitsWarper, "top_p", "top_p"),
    (MinPLogitsWarper, "min_p", "min_p"),
)


def custom_generate(
    model: nn.Module,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    reward_models: RewardModels = None,
    reward_weights: Weights = None,
    reward_prompts: Mapping[str, PromptInput] | None = None,
    preferences: Preferences = None,
    beta: PerRow = 1.0,
    base_weight: PerRow = 1.0,
    guide_when: GuideWhen = None,
    base_min_p: PerRow = 0.0,
    base_top_p: PerRow = 1.0,
    seed: int | Tensor | None = None,
    reward_bases: RewardBases = None,
    check_vocabulary: bool = True,
    **kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Guided decoding in place of Hugging Face's sampling loop; called by ``model.generate``, not directly.

    The caller's generation config, LogitsProcessors and StoppingCriteria are honoured; processors act on the combined,
    un-normalised scores. ``reward_models``, ``reward_weights``, ``preferences``, ``reward_bases`` and
    ``check_vocabulary`` are as in ``GuidedDecoder``; ``seed`` None draws one from torch's default generator, so that
    ``torch.manual_seed`` governs it; row seeds are one for each returned sequence.
    Further keywords that the model's forward takes reach it, and adapters on it, unchanged in every step.
    ``streamer`` does not arrive here (transformers drops it): use ``GuidedDecoder.generate(streamer=...)``.

    Returns: what ``generate`` would: [B, T + n] int64, or GenerateDecoderOnlyOutput with ``return_dict_in_generate``.
    Raises: UnsupportedGenerationError for beams, assistants and other modes; GenARMError as ``GuidedDecoder``.
    """
    config = generation_config or cast(GenerationConfig, model.generation_config)
    _check_mode(config, input_ids)
    _check_model(model)
    extra = forwarded(model, input_ids, kwargs)
    batch, width = input_ids.shape
    decoder = shared_decoder(model, reward_models, reward_bases=reward_bases, check_vocabulary=check_vocabulary)
    copies = config.num_return_sequences or 1
    record = Record(
        input_ids.to(decoder.device),
        LogitsProcessorList(logits_processor or []),
        stopping_criteria or StoppingCriteriaList(),
        bool(config.return_dict_in_generate and config.output_scores),
        bool(config.return_dict_in_generate and config.output_logits),
    )
    max_length, eos_ids = record.take_endings(config)
    request = decoder.prepare(
        input_ids,
        kwargs.get("attention_mask"),
        weights=expanded_weights(reward_weights, batch, copies),
        reward_prompts={name: expanded(ids, batch, copies) for name, ids in (reward_prompts or {}).items()},
        preferences=expanded(preferences, batch, copies),
        beta=expanded(beta, batch, copies),
        base_weight=expanded(base_weight, batch, copies),
        guide_when=expanded_gates(guide_when, batch, copies),
        base_min_p=expanded(base_min_p, batch, copies),
        base_top_p=expanded(base_top_p, batch, copies),
        max_new_tokens=max(max_length - width, 0),
        eos_token_id=eos_ids,
        seed=seed,
        **record.take_native(bool(config.do_sample)),
    )
    for error in request.errors.values():
        raise error
    pad_id = _pad_id(config, request.pad_id)
    request = replace(request, pad_id=pad_id, edit=record.edit_or_none(), halt=record.halt_or_none())
    with handed_on(model, extra):
        output = decoder.run(request)
    for error in output.errors.values():
        warnings.warn(f"generation stopped early: {error}", stacklevel=2)
    if not config.return_dict_in_generate:
        return output.sequences
    return GenerateDecoderOnlyOutput(
        sequences=cast(Any, output.sequences), scores=cast(Any, record.scores()), logits=cast(Any, record.logits())
    )


@dataclass(slots=True)
class Record:
    """The caller's processors and criteria, and the scores they asked to see. ``columns`` [B, T] are the prompts."""

    columns: Tensor
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    output_scores: bool
    output_logits: bool
    kept_scores: list[Tensor] = field(default_factory=list)
    kept_logits: list[Tensor] = field(default_factory=list)
    stopped: Tensor | None = None  # [B] bool
    ends_rows: bool = False  # whether an EOS is among the criteria

    def take_endings(self, config: GenerationConfig) -> tuple[int, list[int]]:
        """Move the criteria that decoding has itself out of ``criteria`` -> the longest row and the ids that end one.

        ``generate`` always brings these two, the caller's in place of its own; where no others are left, no code runs
        between steps, and each can be one CUDA graph.
        """
        lengths = [int(one.max_length) for one in self.criteria if type(one) is MaxLengthCriteria]
        ends = [one.eos_token_id for one in self.criteria if type(one) is EosTokenCriteria]
        if not self.criteria and config.eos_token_id is not None:
            ends = [torch.as_tensor(config.eos_token_id)]
        self.ends_rows = any(hasattr(criterion, "eos_token_id") for criterion in self.criteria)
        left = [one for one in self.criteria if type(one) not in (MaxLengthCriteria, EosTokenCriteria)]
        self.criteria = StoppingCriteriaList(left)
        return min(lengths, default=int(config.max_length)), [end for ids in ends for end in ids.flatten().tolist()]

    def take_native(self, do_sample: bool) -> dict[str, Any]:
        """Move the warpers the sampler has itself out of ``processors``; what remains runs eagerly, step by step."""
        if not do_sample:
            return {"temperature": 0.0}
        if self.output_scores:  # the caller wants to see the warped scores
            return {}
        start = len(self.processors)
        order = len(NATIVE)
        while start > 0 and (place := _native_place(self.processors[start - 1])) is not None and place < order:
            start, order = start - 1, place
        native = [(_native_place(processor), processor) for processor in self.processors[start:]]
        self.processors = LogitsProcessorList(self.processors[:start])
        return {NATIVE[i][1]: getattr(p, NATIVE[i][2]) for i, p in native if i is not None}

    def edit_or_none(self) -> Any:
        return self.edit if self.processors or self.output_scores or self.output_logits else None

    def halt_or_none(self) -> Any:
        return self.halt if self.criteria else None

    def edit(self, generated: Tensor, scores: Tensor) -> Tensor:
        """Combined scores [B, V] -> the processors' scores [B, V]."""
        if self.output_logits:
            self.kept_logits.append(scores.clone())
        sequences = cast(Any, torch.cat([self.columns, generated], dim=1))
        edited: Tensor = self.processors(sequences, cast(Any, scores))
        if self.output_scores:
            self.kept_scores.append(edited.clone())
        return edited

    def halt(self, generated: Tensor) -> Tensor:
        """Which rows stop, [B] bool. Without an EOS among the criteria transformers pads nothing: rows go on until all
        have stopped."""
        stopped: Tensor = self.criteria(torch.cat([self.columns, generated], dim=1), self.scores())
        self.stopped = stopped if self.stopped is None else self.stopped | stopped
        return self.stopped if self.ends_rows else self.stopped.all().expand_as(stopped)

    def scores(self) -> tuple[Tensor, ...] | None:
        return tuple(self.kept_scores) if self.output_scores else None

    def logits(self) -> tuple[Tensor, ...] | None:
        return tuple(self.kept_logits) if self.output_logits else None


def _native_place(processor: Any) -> int | None:
    """Where in NATIVE a processor stands, None for any other, or one with settings the sampler does not have."""
    plain = getattr(processor, "filter_value", -math.inf) == -math.inf
    if not plain or getattr(processor, "min_tokens_to_keep", 1) != 1:
        return None
    return next((place for place, entry in enumerate(NATIVE) if type(processor) is entry[0]), None)


def _check_mode(config: GenerationConfig, input_ids: Tensor) -> None:
    mode = config.get_generation_mode()
    if mode not in {GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE} or (config.num_beams or 1) > 1:
        what = f"num_beams = {config.num_beams}" if (config.num_beams or 1) > 1 else mode.value
        raise UnsupportedGenerationError(
            f"{what} was asked for: guided decoding is greedy or sampled: set num_beams=1, and "
            "no assistant or penalty_alpha"
        )
    if config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states):
        raise UnsupportedGenerationError(
            "output_attentions and output_hidden_states are not kept by guided decoding: leave them off"
        )
    if not input_ids.shape[1]:
        raise UnsupportedGenerationError("the prompt is empty or came as inputs_embeds: pass input_ids")


def _check_model(model: nn.Module) -> None:
    owner = getattr(getattr(model, "prepare_inputs_for_generation", None), "__self__", None)
    if getattr(getattr(owner, "active_peft_config", None), "is_prompt_learning", False):
        raise UnsupportedGenerationError(
            "the model is a PeftModel with virtual tokens (prompt or prefix tuning), which are not decoded: use LoRA"
        )


def _pad_id(config: GenerationConfig, default: int) -> int:
    if config.pad_token_id is not None:
        return int(config.pad_token_id)
    tensor = getattr(config, "_pad_token_tensor", None)
    return default if tensor is None else int(tensor)
