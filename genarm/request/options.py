"""A call's arguments, checked once at the edge and turned into what the decoding loop reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from ..engine.job import Edit, Halt, Job
from ..errors import GenARMError, InvalidArgumentError, RewardNameError
from .guidance import (
    AllowedTokens,
    Guidance,
    LogitBias,
    PerRow,
    Weights,
    per_row,
    seed_rows,
    token_bias,
    top_k_rows,
    weight_matrix,
)
from .prompts import PromptInput, Prompts, prompt_errors, read_prompts

if TYPE_CHECKING:
    from ..decoder import GuidedDecoder


class Options(TypedDict, total=False):
    """The keywords of ``GuidedDecoder.generate``, where they are described."""

    weights: Weights
    beta: PerRow
    base_weight: PerRow
    reward_prompts: Mapping[str, PromptInput] | None
    max_new_tokens: int
    temperature: PerRow
    top_k: int | Sequence[int] | Tensor
    top_p: PerRow
    min_p: PerRow
    base_min_p: PerRow
    base_top_p: PerRow
    repetition_penalty: PerRow
    logit_bias: LogitBias
    allowed_tokens: AllowedTokens
    seed: int | Tensor | Sequence[int] | None
    eos_token_id: int | Sequence[int] | None
    stop: Sequence[Sequence[int]] | None
    streamer: Any
    return_logprobs: bool
    speculate: Any


# name: (default, least, most)
FILTERS: dict[str, tuple[float, float, float]] = {
    "temperature": (1.0, 0.0, float("inf")),
    "top_p": (1.0, 0.0, float("inf")),
    "min_p": (0.0, 0.0, 1.0),
    "base_min_p": (0.0, 0.0, 1.0),
    "base_top_p": (1.0, 0.0, float("inf")),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A checked call. ``streams`` holds each model's prompts, the base's first; ``errors`` the rows that cannot run."""

    prompts: Prompts
    streams: list[Prompts]
    errors: dict[int, GenARMError]
    guidance: Guidance
    max_new_tokens: int
    pad_id: int
    eos_ids: frozenset[int]
    stop: tuple[tuple[int, ...], ...]
    return_logprobs: bool
    edit: Edit | None = None
    halt: Halt | None = None

    def job(self, decoder: GuidedDecoder, rows: list[int]) -> Job:
        """The part of the request that decodes ``rows``."""
        index = torch.tensor(rows, device=decoder.device)
        return Job(
            prompts=[[stream.rows[row] for row in rows] for stream in self.streams],
            guidance=self.guidance.select(index),
            max_new_tokens=self.max_new_tokens,
            pad_id=self.pad_id,
            row_ids=rows,
            eos_ids=self.eos_ids,
            stop=self.stop,
            return_logprobs=self.return_logprobs,
            edit=self.edit,
            halt=self.halt,
        )


def prepare(
    decoder: GuidedDecoder, input_ids: PromptInput, attention_mask: Tensor | None, options: Mapping[str, Any]
) -> Request:
    """Check everything; what is wrong with a single row becomes that row's error, the rest raises."""
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        raise InvalidArgumentError(
            f"generate() has no argument {unknown[0]!r}: it takes {', '.join(sorted(Options.__annotations__))}"
        )
    if options.get("speculate") is not None:
        raise InvalidArgumentError("speculate is not available in this version: leave it at None")
    for name, value in {**options, "attention_mask": attention_mask}.items():
        if isinstance(value, Tensor) and value.device.type == "meta":
            raise InvalidArgumentError(f"{name} is on the meta device and holds no data: pass a tensor with values")
    eos_ids = _eos_ids(options.get("eos_token_id"), decoder)
    pad_id = _pad_id(decoder, eos_ids)
    if attention_mask is None:
        attention_mask = _padding_mask(decoder, input_ids)
    prompts = read_prompts(input_ids, attention_mask, pad_id, decoder.device)
    max_new_tokens = _count("max_new_tokens", options.get("max_new_tokens", 128))
    streams = [prompts, *_reward_prompts(decoder, prompts, options.get("reward_prompts"), pad_id)]
    return Request(
        prompts=prompts,
        streams=streams,
        errors=_row_errors(decoder, streams, max_new_tokens),
        guidance=_guidance(decoder, options, len(prompts.rows)),
        max_new_tokens=max_new_tokens,
        pad_id=pad_id,
        eos_ids=frozenset(eos_ids),
        stop=_stop(options.get("stop")),
        return_logprobs=bool(options.get("return_logprobs", False)),
    )


def _guidance(decoder: GuidedDecoder, options: Mapping[str, Any], batch: int) -> Guidance:
    device = decoder.device
    filters = {
        name: per_row(name, options.get(name, default), batch, device, low, high)
        for name, (default, low, high) in FILTERS.items()
    }
    penalty = per_row("repetition_penalty", options.get("repetition_penalty", 1.0), batch, device, low=1e-6)
    names = decoder.reward_names
    return Guidance(
        weights=weight_matrix(
            options.get("weights"), names, options.get("beta", 1.0), options.get("base_weight", 1.0), batch, device
        ),
        seeds=seed_rows(options.get("seed", 0), batch, device),
        top_k=top_k_rows(options.get("top_k", 0), batch, decoder.vocab_size, device),
        repetition_penalty=penalty,
        bias=token_bias(options.get("logit_bias"), options.get("allowed_tokens"), batch, decoder.vocab_size, device),
        **filters,
    )


def _reward_prompts(
    decoder: GuidedDecoder, prompts: Prompts, given: Mapping[str, PromptInput] | None, pad_id: int
) -> list[Prompts]:
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise InvalidArgumentError(f"reward_prompts is a {type(given).__name__}: pass {{name: prompts}}")
    for name in given:
        if name not in decoder.reward_names:
            known = ", ".join(decoder.reward_names) or "none"
            raise RewardNameError(f"reward_prompts names {name!r}, which is not loaded: the reward models are {known}")
    found = []
    for name in decoder.reward_names:
        if name not in given:
            found.append(prompts)
            continue
        own = read_prompts(
            given[name], _padding_mask(decoder, given[name]), pad_id, decoder.device, f"reward_prompts[{name!r}]"
        )
        if len(own.rows) != len(prompts.rows):
            raise InvalidArgumentError(
                f"reward_prompts[{name!r}] has {len(own.rows)} rows, input_ids {len(prompts.rows)}: give one a sequence"
            )
        found.append(own)
    return found


def _row_errors(decoder: GuidedDecoder, streams: list[Prompts], max_new_tokens: int) -> dict[int, GenARMError]:
    errors: dict[int, GenARMError] = {}
    for model, stream in zip(decoder.models, streams, strict=True):
        vocab_size = min(model.input_vocab_size, model.vocab_size)
        for row, error in prompt_errors(stream, vocab_size, decoder.max_length, max_new_tokens, model.name).items():
            errors.setdefault(row, error)
    return errors


def _eos_ids(eos_token_id: int | Sequence[int] | None, decoder: GuidedDecoder) -> list[int]:
    if eos_token_id is None:
        eos_token_id = getattr(decoder.generation_config, "eos_token_id", None)
    return _ids("eos_token_id", eos_token_id)


def _named_pad_id(decoder: GuidedDecoder) -> int | None:
    for holder in (decoder.generation_config, decoder.models[0].config, decoder.tokenizer):
        pad_id = getattr(holder, "pad_token_id", None)
        if isinstance(pad_id, int) and pad_id >= 0:
            return pad_id
    return None


def _padding_mask(decoder: GuidedDecoder, ids: PromptInput) -> Tensor | None:
    """The mask of a padded tensor that came without one: runs of the pad id at either end of a row are padding, where
    that id means nothing else (Hugging Face infers its mask much like this)."""
    pad_id = _named_pad_id(decoder)
    other = {*_eos_ids(None, decoder), getattr(decoder.generation_config, "bos_token_id", None)}
    if pad_id is None or pad_id in other or not isinstance(ids, Tensor) or ids.dim() != 2:
        return None
    kept = (ids != pad_id).int()
    return (kept.cumsum(1) > 0) & (kept.flip(1).cumsum(1).flip(1) > 0)


def _pad_id(decoder: GuidedDecoder, eos_ids: list[int]) -> int:
    """The pad id, else EOS (of several the first, as Hugging Face takes), else 0."""
    pad_id = _named_pad_id(decoder)
    if pad_id is not None:
        return pad_id
    ids = eos_ids or _eos_ids(None, decoder)
    return ids[0] if ids else 0


def _ids(name: str, value: int | Sequence[int] | Tensor | None) -> list[int]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        value = value.tolist()
    ids = [value] if not isinstance(value, Iterable) else list(value)
    if any(isinstance(token, bool) or not isinstance(token, Integral) for token in ids):
        raise InvalidArgumentError(f"{name} is {value!r}: pass a token id or a list of them")
    return [int(token) for token in ids]


def _stop(stop: Sequence[Sequence[int]] | None) -> tuple[tuple[int, ...], ...]:
    if stop is None:
        return ()
    if not isinstance(stop, Sequence) or isinstance(stop, str) or any(isinstance(entry, int | str) for entry in stop):
        raise InvalidArgumentError("stop is not a list of token-id sequences: pass [[id, id, …], …]")
    sequences = tuple(tuple(_ids("stop", entry)) for entry in stop)
    if not all(sequences):
        raise InvalidArgumentError("stop holds an empty sequence: each needs at least one token id")
    return sequences


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise InvalidArgumentError(f"{name} is {value!r}: pass an integer of at least 0")
    return int(value)
