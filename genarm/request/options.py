"""A call's arguments, checked once at the edge and turned into what the decoding loop reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypedDict

import torch
from torch import Tensor

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
from .prompts import PromptInput, Prompts, on_host, prompt_errors, read_prompts

# (generated so far [B, t], combined scores s [B, V]) -> edited scores [B, V]
Edit = Callable[[Tensor, Tensor], Tensor]
# generated so far [B, t] -> rows to stop, [B] bool
Halt = Callable[[Tensor], Tensor]


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
class ModelFacts:
    """What checking a call needs to know of the models, read anew for every call: users edit generation configs.

    ``names`` are the M models', the base's first; ``prompt_ids`` how many ids the prompt of each may hold. The
    vocabulary is the base's.
    """

    device: torch.device
    names: tuple[str, ...]
    prompt_ids: tuple[int, ...]
    vocab_size: int
    max_length: int
    eos_ids: tuple[int, ...]
    bos_id: int | None
    pad_id: int | None

    @property
    def reward_names(self) -> tuple[str, ...]:
        return self.names[1:]


@dataclass(frozen=True, slots=True)
class Request:
    """A checked call, or some of its rows: B sequences, each a row in M streams.

    ``streams`` holds each model's prompts, the base's first; ``errors`` the rows that cannot be decoded; ``row_ids``
    the rows' numbers in the caller's batch. A batch that is padded with idle rows has fewer ids than rows.
    ``vocab_size`` and ``prompt_ids`` are those of the ``ModelFacts`` it was checked against.
    """

    streams: list[Prompts]
    row_ids: list[int]
    errors: dict[int, GenARMError]
    guidance: Guidance
    max_new_tokens: int
    pad_id: int
    vocab_size: int
    prompt_ids: tuple[int, ...]
    eos_ids: frozenset[int] = frozenset()
    stop: tuple[tuple[int, ...], ...] = ()
    return_logprobs: bool = False
    edit: Edit | None = None
    halt: Halt | None = None

    @property
    def batch(self) -> int:
        return len(self.streams[0].rows)

    @property
    def device(self) -> torch.device:
        return self.streams[0].columns.device

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt of any stream."""
        return max(length for stream in self.streams for length in stream.lengths)

    @property
    def interrupts(self) -> bool:
        """Whether Python code of the caller runs in every step."""
        return self.edit is not None or self.halt is not None

    def rows(self, index: Sequence[int]) -> Request:
        """The same call for some of its rows, in this order; a row may stand in it several times."""
        return replace(
            self,
            streams=[stream.select(index) for stream in self.streams],
            row_ids=[self.row_ids[row] for row in index],
            errors={place: self.errors[row] for place, row in enumerate(index) if row in self.errors},
            guidance=self.guidance.select(torch.tensor(index, device=self.guidance.weights.device)),
        )


def prepare(
    models: ModelFacts, input_ids: PromptInput, attention_mask: Tensor | None, options: Mapping[str, Any]
) -> Request:
    """Check everything; what is wrong with a single row becomes that row's error, the rest raises."""
    _check_names(options, attention_mask)
    eos_token_id = options.get("eos_token_id")
    eos_ids = models.eos_ids if eos_token_id is None else tuple(token_ids("eos_token_id", eos_token_id))
    _tell_of_strange_ids(eos_ids, models.vocab_size)
    pad_id = _pad_id(models, eos_ids)
    input_ids = on_host(input_ids)
    if attention_mask is None:
        attention_mask = _padding_mask(models, input_ids)
    prompts = read_prompts(input_ids, attention_mask, pad_id, models.device)
    max_new_tokens = _count("max_new_tokens", options.get("max_new_tokens", 128))
    streams = [prompts, *_reward_prompts(models, prompts, options.get("reward_prompts"), pad_id)]
    guidance = _guidance(models, options, len(prompts.rows))
    return Request(
        streams=streams,
        row_ids=list(range(len(prompts.rows))),
        errors=_row_errors(models, streams, max_new_tokens, guidance.weights),
        guidance=guidance,
        max_new_tokens=max_new_tokens,
        pad_id=pad_id,
        vocab_size=models.vocab_size,
        prompt_ids=models.prompt_ids,
        eos_ids=frozenset(eos_ids),
        stop=_stop(options.get("stop")),
        return_logprobs=bool(options.get("return_logprobs", False)),
    )


def _check_names(options: Mapping[str, Any], attention_mask: Tensor | None) -> None:
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


def _guidance(models: ModelFacts, options: Mapping[str, Any], batch: int) -> Guidance:
    device = models.device
    filters = {
        name: per_row(name, options.get(name, default), batch, device, low, high)
        for name, (default, low, high) in FILTERS.items()
    }
    penalty = per_row("repetition_penalty", options.get("repetition_penalty", 1.0), batch, device, low=1e-6)
    names = models.reward_names
    return Guidance(
        weights=weight_matrix(
            options.get("weights"), names, options.get("beta", 1.0), options.get("base_weight", 1.0), batch, device
        ),
        seeds=seed_rows(options.get("seed", 0), batch, device),
        top_k=top_k_rows(options.get("top_k", 0), batch, models.vocab_size, device),
        repetition_penalty=penalty,
        bias=token_bias(options.get("logit_bias"), options.get("allowed_tokens"), batch, models.vocab_size, device),
        **filters,
    )


def _reward_prompts(
    models: ModelFacts, prompts: Prompts, given: Mapping[str, PromptInput] | None, pad_id: int
) -> list[Prompts]:
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise InvalidArgumentError(f"reward_prompts is a {type(given).__name__}: pass {{name: prompts}}")
    for name in given:
        if name not in models.reward_names:
            known = ", ".join(models.reward_names) or "none"
            raise RewardNameError(f"reward_prompts names {name!r}, which is not loaded: the reward models are {known}")
    found = []
    for name in models.reward_names:
        if name not in given:
            found.append(prompts)
            continue
        ids = on_host(given[name])
        own = read_prompts(ids, _padding_mask(models, ids), pad_id, models.device, f"reward_prompts[{name!r}]")
        if len(own.rows) != len(prompts.rows):
            raise InvalidArgumentError(
                f"reward_prompts[{name!r}] has {len(own.rows)} rows, input_ids {len(prompts.rows)}: give one per row"
            )
        found.append(own)
    return found


def _row_errors(
    models: ModelFacts, streams: list[Prompts], max_new_tokens: int, weights: Tensor
) -> dict[int, GenARMError]:
    errors: dict[int, GenARMError] = {}
    for index, (name, ids, stream) in enumerate(zip(models.names, models.prompt_ids, streams, strict=True)):
        found = prompt_errors(stream, ids, models.max_length, max_new_tokens, name)
        if found and ids < models.prompt_ids[0]:  # a model of weight 0 need not know the base's ids
            without = prompt_errors(stream, models.prompt_ids[0], models.max_length, max_new_tokens, name)
            used = (weights[:, index] != 0).tolist()
            found = {row: error for row in found if (error := found[row] if used[row] else without.get(row))}
        for row, error in found.items():
            errors.setdefault(row, error)
    return errors


def _padding_mask(models: ModelFacts, ids: PromptInput) -> Tensor | None:
    """The mask of a padded tensor that came without one: runs of the pad id at either end of a row are padding, where
    that id means nothing else (Hugging Face infers its mask much like this)."""
    other = {*models.eos_ids, models.bos_id}
    if models.pad_id is None or models.pad_id in other or not isinstance(ids, Tensor) or ids.dim() != 2:
        return None
    kept = (ids != models.pad_id).int()
    return (kept.cumsum(1) > 0) & (kept.flip(1).cumsum(1).flip(1) > 0)


def _pad_id(models: ModelFacts, eos_ids: Sequence[int]) -> int:
    """The pad id, else EOS (of several the first, as Hugging Face takes), else 0."""
    if models.pad_id is not None:
        return models.pad_id
    return next(iter((*eos_ids, *models.eos_ids)), 0)


def token_ids(name: str, value: Any) -> list[int]:
    """An id, several, or None -> a list of them; ``name`` is what an error calls them."""
    if value is None:
        return []
    if isinstance(value, Tensor):
        value = value.tolist()
    ids = [value] if not isinstance(value, Iterable) else list(value)
    if any(isinstance(token, bool) or not isinstance(token, Integral) for token in ids):
        raise InvalidArgumentError(f"{name} is {value!r}: pass a token id or a list of them")
    return [int(token) for token in ids]


def _tell_of_strange_ids(eos_ids: Sequence[int], vocab_size: int) -> None:
    for token in eos_ids:
        if token >= vocab_size:
            warnings.warn(
                f"eos_token_id names {token}, which the vocabulary of {vocab_size} ids does not have: it ends no row",
                stacklevel=5,
            )


def _stop(stop: Sequence[Sequence[int]] | None) -> tuple[tuple[int, ...], ...]:
    if stop is None:
        return ()
    if not isinstance(stop, Sequence) or isinstance(stop, str) or any(isinstance(entry, int | str) for entry in stop):
        raise InvalidArgumentError("stop is not a list of token-id sequences: pass [[id, id, …], …]")
    sequences = tuple(tuple(token_ids("stop", entry)) for entry in stop)
    if not all(sequences):
        raise InvalidArgumentError("stop holds an empty sequence: each needs at least one token id")
    return sequences


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise InvalidArgumentError(f"{name} is {value!r}: pass an integer of at least 0")
    return int(value)
