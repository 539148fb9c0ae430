"""A call's arguments, checked once at the edge and turned into what the decoding loop reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..errors import GenARMError, InvalidArgumentError
from .copies import expanded, expanded_bias, expanded_weights
from .detokenize import Decode, TokenText
from .drafts import MOST
from .facts import ModelFacts
from .gates import GuideWhen, gate_table, gated_bias
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
from .inputs import PromptInput
from .particles import Particles, check_count, check_warm, read_particles
from .preferences import Preference, Preferences, preference_rows
from .prompts import Prompts
from .speculation import Speculation, check_alone, read_speculation
from .stopping import Stop, read_stops, token_ids
from .streams import read_streams, row_errors

# (generated so far [B, t], combined scores s [B, V]) -> edited scores [B, V]
Edit = Callable[[Tensor, Tensor], Tensor]
# generated so far [B, t] -> rows to stop, [B] bool
Halt = Callable[[Tensor], Tensor]


class ScoreOptions(TypedDict, total=False):
    """The keywords that shape the distribution, which ``GuidedDecoder.score`` has in common with ``generate``."""

    weights: Weights
    preferences: Preferences
    beta: PerRow
    base_weight: PerRow
    guide_when: GuideWhen
    reward_prompts: Mapping[str, PromptInput] | None
    temperature: PerRow
    top_k: int | Sequence[int] | Tensor
    top_p: PerRow
    min_p: PerRow
    base_min_p: PerRow
    base_top_p: PerRow
    repetition_penalty: PerRow
    logit_bias: LogitBias
    allowed_tokens: AllowedTokens


class Options(ScoreOptions, total=False):
    """The keywords of ``GuidedDecoder.generate``, where they are described."""

    max_new_tokens: int
    seed: int | Tensor | Sequence[int] | None
    eos_token_id: int | Sequence[int] | None
    stop: Stop
    num_return_sequences: int
    streamer: Any
    return_logprobs: bool
    return_normalizers: bool
    particles: int | None
    resample_below: float
    resample_every: int
    terminal: Any
    length_bonus: float
    return_particles: bool
    speculate: Any


# name: (default, least, most)
FILTERS: dict[str, tuple[float, float, float]] = {
    "temperature": (1.0, 0.0, float("inf")),
    "top_p": (1.0, 0.0, float("inf")),
    "min_p": (0.0, 0.0, 1.0),
    "base_min_p": (0.0, 0.0, 1.0),
    "base_top_p": (1.0, 0.0, float("inf")),
}
PER_PROMPT = (*FILTERS, "top_k", "repetition_penalty", "beta", "base_weight")


@dataclass(frozen=True, slots=True)
class Request:
    """A checked call, or some of its rows: B sequences, each a row in M streams.

    ``streams`` holds each model's prompts, the base's first; ``errors`` the rows that cannot be decoded; ``row_ids``
    the rows' numbers in the caller's batch. A batch that is padded with idle rows has fewer ids than rows.
    ``vocab_size`` and ``prompt_ids`` are those of the ``ModelFacts`` it was checked against; ``decode`` makes text of
    ids, where there is a tokenizer. ``preferences`` hold each row's, by the stream that is conditioned on them.
    With ``particles`` a row is a prompt, and a system of them once it decodes. ``coming``: where a prompt may take the
    place of a row that has ended, each model's prompts of all rows.
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
    stop_texts: tuple[str, ...] = ()
    decode: Decode | None = None
    return_logprobs: bool = False
    return_normalizers: bool = False
    particles: Particles | None = None
    edit: Edit | None = None
    halt: Halt | None = None
    preferences: Mapping[int, tuple[Preference, ...]] = field(default_factory=dict)
    speculate: Speculation | None = None
    coming: Sequence[Prompts] = ()

    @property
    def batch(self) -> int:
        return len(self.streams[0].rows)

    @property
    def device(self) -> torch.device:
        return self.streams[0].columns.device

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt of any stream, those included that are to come in the place of others."""
        return max(length for stream in (*self.streams, *self.coming) for length in stream.lengths)

    @property
    def interrupts(self) -> bool:
        """Whether Python code of the caller runs in every step."""
        return self.edit is not None or self.halt is not None

    @property
    def ragged(self) -> bool:
        """Whether rows move on by numbers of tokens of their own: drafts are verified, or the next prompt takes the
        place of a row that has ended."""
        return self.speculate is not None or bool(self.coming)

    @property
    def ahead(self) -> int:
        """Drafts that a step may read behind a row's last token."""
        return 0 if self.speculate is None else MOST

    @property
    def most_behind(self) -> int:
        """Tokens that may be read behind a prompt: new ones, and drafts behind the last."""
        return self.max_new_tokens + self.ahead

    @property
    def wants_normalizers(self) -> bool:
        """Whether each draw's normaliser is kept: particles are weighed by it."""
        return self.return_normalizers or self.particles is not None

    def unread(self, row: int, tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Models that do not know a token of a row's text, and the first new token after it: what they would say of
        that is not defined."""
        for model, known in enumerate(self.prompt_ids):
            if known < self.vocab_size:
                prompt = self.streams[model].host[row].tolist()
                unknown = (place for place, token in enumerate([*prompt, *tokens]) if token >= known)
                yield model, max(0, next(unknown, len(prompt) + len(tokens)) + 1 - len(prompt))

    def rows(self, index: Sequence[int]) -> Request:
        """The same call for some of its rows, in this order; a row may stand in it several times."""
        return replace(
            self,
            streams=[stream.select(index) for stream in self.streams],
            row_ids=[self.row_ids[row] for row in index],
            errors={place: self.errors[row] for place, row in enumerate(index) if row in self.errors},
            preferences={stream: tuple(own[row] for row in index) for stream, own in self.preferences.items()},
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
    pad_id = models.padding(eos_ids)
    stop, stop_texts = read_stops(options.get("stop"), models.tokenizer)
    max_new_tokens = _count("max_new_tokens", options.get("max_new_tokens", 128))
    copies = answers = _count("num_return_sequences", options.get("num_return_sequences", 1), 1)
    if options.get("particles") is not None:
        copies = 1  # of one system all of a prompt's answers are drawn
    streams, wrong = read_streams(models, input_ids, attention_mask, options.get("reward_prompts"), pad_id, copies)
    batch = len(streams[0].rows)
    guidance = _guidance(models, options, batch, copies)
    speculate = read_speculation(options.get("speculate"))
    particles = read_particles(options, answers, batch, models.device)
    if particles is not None:
        check_warm(guidance.temperature)
        check_count(particles, models.device)
        check_alone(speculate)
    return Request(
        streams=streams,
        row_ids=list(range(batch)),
        errors=row_errors(models, streams, max_new_tokens, guidance.weights, wrong),
        guidance=guidance,
        max_new_tokens=max_new_tokens,
        pad_id=pad_id,
        vocab_size=models.vocab_size,
        prompt_ids=models.prompt_ids,
        eos_ids=frozenset(eos_ids),
        stop=stop,
        stop_texts=stop_texts,
        decode=None if models.tokenizer is None else TokenText(models.tokenizer),
        return_logprobs=bool(options.get("return_logprobs", False)),
        return_normalizers=bool(options.get("return_normalizers", False)),
        particles=particles,
        preferences=preference_rows(options.get("preferences"), models.conditioned, models.names, batch, copies),
        speculate=speculate,
    )


def _check_names(options: Mapping[str, Any], attention_mask: Tensor | None) -> None:
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        raise InvalidArgumentError(
            f"generate() has no argument {unknown[0]!r}: it takes {', '.join(sorted(Options.__annotations__))}"
        )
    for name, value in {**options, "attention_mask": attention_mask}.items():
        if isinstance(value, Tensor) and value.device.type == "meta":
            raise InvalidArgumentError(f"{name} is on the meta device and holds no data: pass a tensor with values")


def _guidance(models: ModelFacts, options: Mapping[str, Any], batch: int, copies: int) -> Guidance:
    device, names = models.device, models.reward_names
    given = {name: expanded(options[name], batch, copies) for name in PER_PROMPT if name in options}
    filters = {
        name: per_row(name, given.get(name, default), batch, device, low, high)
        for name, (default, low, high) in FILTERS.items()
    }
    named = expanded_weights(options.get("weights"), batch, copies)
    weights = weight_matrix(named, names, given.get("beta", 1.0), given.get("base_weight", 1.0), batch, device)
    biases = expanded_bias(options.get("logit_bias"), batch, copies)
    bias = token_bias(biases, options.get("allowed_tokens"), batch, models.vocab_size, device)
    gate = gate_table(options.get("guide_when"), batch, copies, device)
    if gate is not None:
        bias = gated_bias(gate, weights, bias, models.prompt_ids, models.vocab_size)
    return Guidance(
        weights=weights,
        seeds=seed_rows(options.get("seed", 0), batch, device),
        top_k=top_k_rows(given.get("top_k", 0), batch, models.vocab_size, device),
        repetition_penalty=per_row("repetition_penalty", given.get("repetition_penalty", 1.0), batch, device, low=1e-6),
        bias=bias,
        gate=gate,
        **filters,
    )


def _tell_of_strange_ids(eos_ids: Sequence[int], vocab_size: int) -> None:
    for token in eos_ids:
        if token >= vocab_size:
            warnings.warn(
                f"eos_token_id names {token}, which the vocabulary of {vocab_size} ids does not have: it ends no row",
                stacklevel=5,
            )


def _count(name: str, value: int, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InvalidArgumentError(f"{name} is {value!r}: pass an integer of at least {least}")
    return int(value)
