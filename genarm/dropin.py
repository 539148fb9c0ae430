"""The drop-in for Hugging Face ``generate``: ``model.generate(..., custom_generate=genarm.custom_generate, ...)``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GenerateDecoderOnlyOutput

from .criteria import Record
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
from .terminal import Terminal


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
    particles: int | None = None,
    resample_below: float = 0.5,
    resample_every: int = 1,
    terminal: Terminal | None = None,
    length_bonus: float = 0.0,
    speculate: Any = None,
    processing_class: Any = None,
    **kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Guided decoding in place of Hugging Face's sampling loop; called by ``model.generate``, not directly.

    The caller's generation config, LogitsProcessors and StoppingCriteria are honoured; processors act on the combined,
    un-normalised scores. ``reward_models``, ``reward_weights``, ``preferences``, ``reward_bases`` and
    ``check_vocabulary`` are as in ``GuidedDecoder``; ``seed`` None draws one from torch's default generator, so that
    ``torch.manual_seed`` governs it; row seeds are one for each returned sequence.
    ``particles`` and what follows it are as in ``GuidedDecoder.generate``: ``num_return_sequences`` answers to a prompt
    are drawn from one set of particles, row seeds are one for each prompt, and processors and criteria see all
    particles, as they would a batch. They must know a row by its text alone, since particles take each other's places,
    and a processor may mask scores or add to them, but neither rescale nor normalise them. A ``terminal`` on texts
    needs ``processing_class``, the tokenizer that makes them, which transformers keeps back under the name
    ``tokenizer``.
    ``speculate`` is as in ``GuidedDecoder.generate``; processors and criteria of the caller beside it are refused, but
    for what decoding has itself (temperature, top_k, top_p, min_p, lengths and EOS).
    Further keywords that the model's forward takes reach it, and adapters on it, unchanged in every step.
    ``streamer`` does not arrive here (transformers drops it): use ``GuidedDecoder.generate(streamer=...)``.

    Returns: what ``generate`` would: [B, T + n] int64, or GenerateDecoderOnlyOutput with ``return_dict_in_generate``,
    with particles one that has ``log_evidence`` too.
    Raises: UnsupportedGenerationError for beams, assistants and other modes; GenARMError as ``GuidedDecoder``.
    """
    config = generation_config or cast(GenerationConfig, model.generation_config)
    _check_mode(config, input_ids)
    _check_model(model)
    extra = forwarded(model, input_ids, kwargs)
    copies = config.num_return_sequences or 1
    if speculate is not None:
        _check_no_scores(config)
    whole = _whole_answers(particles, resample_below, resample_every, terminal, length_bonus)
    mask = kwargs.get("attention_mask")
    if particles is not None:
        _check_particles(config, extra)
        # Each prompt once, with answers of one set of particles.
        input_ids, mask = input_ids[::copies], None if mask is None else mask[::copies]
        whole["num_return_sequences"], copies = copies, 1
    batch, width = input_ids.shape
    decoder = shared_decoder(
        model,
        reward_models,
        tokenizer=processing_class,
        reward_bases=reward_bases,
        check_vocabulary=check_vocabulary,
    )
    record = Record(
        input_ids.to(decoder.device),
        LogitsProcessorList(logits_processor or []),
        stopping_criteria or StoppingCriteriaList(),
        bool(config.return_dict_in_generate and config.output_scores),
        bool(config.return_dict_in_generate and config.output_logits),
        rows_move=particles is not None,
    )
    max_length, eos_ids = record.take_endings(config)
    request = decoder.prepare(
        input_ids,
        mask,
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
        speculate=speculate,
        **record.take_native(bool(config.do_sample)),
        **whole,
    )
    if particles is not None:
        record.check_weighed()
        record.columns = record.columns.repeat_interleave(particles, dim=0)
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
    found = {"sequences": output.sequences, "scores": record.scores(), "logits": record.logits()}
    if output.log_evidence is None:
        return GenerateDecoderOnlyOutput(**cast(Any, found))
    return GuidedDecoderOnlyOutput(**cast(Any, found), log_evidence=output.log_evidence)


@dataclass
class GuidedDecoderOnlyOutput(GenerateDecoderOnlyOutput):
    """What transformers returns, and ``log_evidence`` [B] float64 as in ``GenerationOutput``: with particles."""

    log_evidence: Tensor | None = None


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


def _whole_answers(
    particles: int | None, resample_below: float, resample_every: int, terminal: Terminal | None, length_bonus: float
) -> dict[str, Any]:
    """What was asked for of them, which without particles is refused like any other call's."""
    given = {
        "particles": (particles, None),
        "resample_below": (resample_below, 0.5),
        "resample_every": (resample_every, 1),
        "length_bonus": (length_bonus, 0.0),
    }
    whole: dict[str, Any] = {name: value for name, (value, default) in given.items() if value != default}
    return whole if terminal is None else {**whole, "terminal": terminal}


def _check_particles(config: GenerationConfig, extra: Mapping[str, Any]) -> None:
    if not config.do_sample:
        raise UnsupportedGenerationError(
            "particles were asked for with do_sample=False, and they are drawn: pass do_sample=True (and top_k=0, "
            "which transformers sets to 50)"
        )
    if config.return_dict_in_generate and (config.output_scores or config.output_logits):
        raise UnsupportedGenerationError(
            "output_scores and output_logits are not kept with particles, whose answers are put together from several "
            "rows: leave them off"
        )
    if extra:
        raise UnsupportedGenerationError(
            f"{next(iter(extra))} was passed with particles, which are more rows than it has: leave one of the two out"
        )


def _check_no_scores(config: GenerationConfig) -> None:
    if config.return_dict_in_generate and (config.output_scores or config.output_logits):
        raise UnsupportedGenerationError(
            "output_scores and output_logits are not kept with speculate, whose steps draw several tokens: leave them "
            "off"
        )


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
