"""What decoding returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..errors import GenARMError
from .detokenize import Decode
from .display import as_html, one_line

FinishReason = Literal["eos", "length", "stop", "error"]


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """Counts of tokens (over all rows) and seconds of one call.

    ``engine`` names the paths that ran, the base's first, joined by "+": "fused" for the fused decoder, "hf" for
    transformers' forward pass on a static cache, "hf-padded" for the same padded on a cache of its own; followed by
    " (CUDA graphs)" where steps were captured, or by why they were not where they could have been.
    ``tokens_per_second`` is new tokens over prefill and decode seconds, all rows together. ``drafted`` and
    ``accepted`` count speculative tokens, and ``verified`` the steps that had some, row by row; all are 0 without
    speculation. ``row_steps`` are the steps times the rows that there was room for. ``guided_tokens`` of the new ones
    were guided under ``guide_when``; it is None without.

    ``forwarded`` counts, by the models' names, the tokens that each has to read for the call: every distinct prompt of
    a chunk once, and each token of a row that another one follows; a method's candidates and roll-outs as well. What
    a pass carries beside them (rows that have finished, and padding) is in no count, but in the seconds.
    """

    prompt_tokens: int
    new_tokens: int
    steps: int
    prefill_seconds: float
    decode_seconds: float
    drafted: int = 0
    accepted: int = 0
    verified: int = 0
    row_steps: int = 0
    engine: str = "fused"
    forwarded: Mapping[str, int] = field(default_factory=dict)
    guided_tokens: int | None = None

    @property
    def mean_accepted(self) -> float:
        """Tokens that a row gets of a step with drafts, the one that no draft gave included; 0 without speculation."""
        return 1 + self.accepted / self.verified if self.verified else 0.0

    @property
    def tokens_per_second(self) -> float:
        seconds = self.prefill_seconds + self.decode_seconds
        return self.new_tokens / seconds if seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ParticleSet:
    """The N particles of one prompt, in their places.

    tokens, texts, finish_reasons: of each, as ``GenerationOutput`` has them of answers. "error": nothing was left to
        draw for it, and its weight is 0.
    log_weights: [N] float64, natural logarithms. The mean of exp(log_weights) is Ẑ, and their softmax is what answers
        are drawn by.
    """

    tokens: list[Tensor]
    texts: list[str] | None
    finish_reasons: list[FinishReason]
    log_weights: Tensor


@dataclass(frozen=True, slots=True, repr=False)
class GenerationOutput:
    """B generated sequences.

    sequences: [B, T + n] int64, [prompt columns as given | new tokens | pad], n the longest row's new tokens.
    tokens: B 1-D int64 tensors, only what was generated, EOS included, and the token that completed a stop string.
    texts: B strings, the new tokens' text behind the prompt, without special tokens, cut before a stop string (what a
        sequence of stop ids spells stays); None where the decoder has no tokenizer.
    finish_reasons: "eos", "length", "stop" or "error" a row; ``errors`` holds the error of each failed row.
    logprobs: [B, n] float32, log-probability of each token under the distribution it was drawn from (after
        temperature and filters; at temperature 0 the unfiltered guided distribution at temperature 1).
    model_logprobs: [B, n, M] float32, each model's own log p(token), unfiltered at temperature 1; [..., 0] is the base,
        [..., 1:] are the token rewards in the order of ``model_names``. Both are NaN after a row's end and None
        unless ``return_logprobs`` was set. With them a notebook shows the texts coloured by token rewards.
    scores: [B] float32, what a decoding method chose each answer by, such as a trajectory RM's score of it; NaN for
        a failed row, None where nothing was scored.
    guided: [B, n] bool, whether the reward models counted for each token under ``guide_when``; False after a row's end,
        None without such gates.
    decode: makes text of ids, where the decoder has a tokenizer.
    log_normalizers: [B, n] float32, log Z_t of each token: the log of the sum, over the ids that it was drawn from, of
        exp(score / temperature), where scores are sums of weighted log-probabilities (bias, penalties and edits in).
        At temperature 0 of the unfiltered scores at temperature 1. NaN after a row's end; None unless
        ``return_normalizers`` or ``particles`` was set.
    log_evidence: [B] float64, log Ẑ of the prompt's particles: Ẑ estimates the sum of the product over all answers,
        without bias, and is 0 where no particle had anything left to draw. NaN for a row that failed otherwise, None
        without particles.
    speculated: [B, 3] int64 on the CPU, each row's drafted and accepted tokens and the steps that had drafts; zeros
        for a row that could not be decoded, None without speculation.
    particles: B, of each row the set its answer was drawn from; None unless ``return_particles`` was set.
    """

    sequences: Tensor
    tokens: list[Tensor]
    finish_reasons: list[FinishReason]
    errors: dict[int, GenARMError]
    stats: GenerationStats
    texts: list[str] | None = None
    logprobs: Tensor | None = None
    model_logprobs: Tensor | None = None
    guided: Tensor | None = None
    model_names: tuple[str, ...] = field(default=())
    scores: Tensor | None = None
    decode: Decode | None = field(default=None, compare=False)
    log_normalizers: Tensor | None = None
    log_evidence: Tensor | None = None
    particles: list[ParticleSet | None] | None = None
    speculated: Tensor | None = None

    def __repr__(self) -> str:
        return one_line(self)

    def _repr_html_(self) -> str:
        return as_html(self)


@dataclass(frozen=True, slots=True)
class ScoreOutput:
    """What the guided distribution and each model say of B given responses.

    totals: [B] float64, the guided log-probability of each response, the sum of its tokens'; NaN for a failed row.
    model_totals: [B, M] float64, the same under each model alone.
    logprobs: [B, n] float32, the guided log-probability of each token, n the longest response; -inf for a token that a
        filter or a mask excludes. What ``GenerationOutput.logprobs`` holds where the tokens were drawn.
    model_logprobs: [B, n, M] float32, each model's own log p(token), unfiltered at temperature 1; [..., 0] is the base,
        [..., 1:] are the token rewards in the order of ``model_names``. Both are NaN after a row's end, and in a row
        that failed.
    greedy: [B] bool, whether every token is the one that temperature 0 draws with the same options.
    tokens: B 1-D int64 tensors, the responses' ids.
    errors: the error of each failed row.
    guided: [B, n] bool, whether the reward models count for each token under ``guide_when``; False after a row's end
        and in a row that failed, None without such gates.
    """

    totals: Tensor
    model_totals: Tensor
    logprobs: Tensor
    model_logprobs: Tensor
    greedy: Tensor
    tokens: list[Tensor]
    errors: dict[int, GenARMError]
    model_names: tuple[str, ...]
    guided: Tensor | None = None


@dataclass(frozen=True, slots=True)
class StreamStep:
    """One step of ``stream``.

    tokens: B 1-D int64 tensors, the tokens that became final, empty for rows that got none.
    finished: [B] bool, which rows are finished.
    texts: B strings, the text that became final, "" where none did: inside of a character, and where what is there may
        be the beginning of a stop string. Joined over the steps, a row's are its text in ``GenerationOutput.texts``.
        None where the decoder has no tokenizer.
    """

    tokens: list[Tensor]
    finished: Tensor
    texts: list[str] | None = None
