"""CARDS: segments of the base's own, each accepted or drawn anew by a trajectory RM's score of the text so far.

    a segment ends where H(π_base(· | x, y)) ≥ h, the entropy in nats of the token that would come next,
    has from ``shortest`` to ``longest`` tokens, and ends with the answer
    r0 = (1 − a) · r(x) + a · r*
    threshold(n) = r0 + (n / horizon) · (r* − r0), never above r*, n tokens of answer with the segment
    accepted with probability min(1, exp((r(x, y) − threshold(n)) / τ))

The entropy is that of the base at temperature 1 over its whole vocabulary; tokens are drawn from its ``top_k`` largest
at ``temperature``. After ``attempts`` rejected segments the best of them is kept. Rows go on at their own pace: what is
rejected is cut from the caches, and the first token of the next try comes from the logits that were there before it.
Noise is keyed by the row's count of rejections and the position, so that no segment has that of a rejected one.

Source: Li, Wang, Lochab, Grama, Zhang, "Cascade Reward Sampling for Efficient Decoding-Time Alignment", COLM 2025
(arXiv 2406.16306, 2024). h = 3, a = 0.5, r* = 8.5, τ = 0.7, top-k 40, 4 to 64 tokens, 20 rejections and 128 tokens
there; its public code draws at 0.7 too. r* is a score of the paper's RM: `calibrate` finds another RM's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import torch
from torch import Tensor

from ..decoder import GuidedDecoder
from ..engine.reader import TextReader
from ..errors import InvalidArgumentError
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from ..request.responses import Responses
from ..scalars import Scorer, scalar
from .admission import admit
from .call import Call, MethodRow
from .draws import attempt_seed, drawn
from .scoring import response_scores

DRAWS: dict[str, Any] = {"top_k": 40, "temperature": 0.7}


@dataclass(frozen=True, slots=True)
class _Rules:
    """The settings of a call, as `generate` names them."""

    entropy: float
    shortest: int
    longest: int
    target: float
    share: float
    horizon: int
    tau: float
    attempts: int

    def check(self) -> None:
        """Raises InvalidArgumentError for settings that no segment can be drawn or accepted by."""
        if not 1 <= self.shortest <= self.longest:
            raise InvalidArgumentError(
                f"segments have from {self.shortest} to {self.longest} tokens: pass 1 <= shortest <= longest"
            )
        if min(self.attempts, self.horizon) < 1 or not 0 <= self.share <= 1:
            raise InvalidArgumentError(
                f"attempts is {self.attempts}, horizon {self.horizon}, share {self.share}: pass attempts and horizon "
                "from 1, and a share from 0 to 1"
            )
        if not (self.tau > 0 and math.isfinite(self.target)) or math.isnan(self.entropy):
            raise InvalidArgumentError(
                f"tau is {self.tau}, target {self.target}, entropy {self.entropy}: pass numbers, and tau above 0"
            )

    def threshold(self, prompt: float, length: int) -> float:
        """What an answer of ``length`` tokens has to score, its prompt scoring ``prompt``."""
        start = (1 - self.share) * prompt + self.share * self.target
        return min(self.target, start + min(1.0, length / self.horizon) * (self.target - start))

    def acceptance(self, score: float, prompt: float, length: int) -> float:
        """The probability that such an answer is accepted."""
        return math.exp(min(0.0, (score - self.threshold(prompt, length)) / self.tau))


@dataclass(slots=True)
class _Draft:
    """A row's next segment on its way; ``unread`` and ``unscored`` are what its base and its judge have yet to read of
    the row's text, with the segment (``unread``) or without it (``unscored``)."""

    place: int
    row: MethodRow
    prompt_score: float
    segment: list[int] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    unscored: list[int] = field(default_factory=list)
    is_last: bool = False
    rejected: int = 0  # of the row, ever
    tried: list[tuple[float, list[int]]] = field(default_factory=list)

    @property
    def position(self) -> int:
        return self.row.position + len(self.segment)

    @property
    def seed(self) -> int:
        return attempt_seed(self.row.seed, self.rejected)

    def is_full(self, rules: _Rules) -> bool:
        """Whether the segment ends without a look at what would come next."""
        return self.is_last or len(self.segment) == rules.longest

    def is_whole(self, entropy: float, rules: _Rules) -> bool:
        """``entropy``: of the token behind what the base has read."""
        return self.is_full(rules) or (len(self.segment) >= rules.shortest and entropy >= rules.entropy)

    def keep(self, call: Call, score: float, segment: Sequence[int]) -> None:
        """The row goes on behind ``segment``."""
        call.extend(self.row, segment)
        self.row.score = score
        self.segment, self.tried, self.is_last = [], [], False


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    trajectory_rm: Scorer,
    target: float = 8.5,
    share: float = 0.5,
    horizon: int = 128,
    tau: float = 0.7,
    attempts: int = 20,
    entropy: float = 3.0,
    shortest: int = 4,
    longest: int = 64,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by CARDS.

    Args:
        trajectory_rm: a sequence classifier of one label over the base's vocabulary: a path, or loaded.
        target: r*, the score of a good answer by this RM; `calibrate` finds it.
        share: a, of r* in the first threshold, beside the score of the prompt.
        horizon: the tokens of answer over which the threshold rises to r*.
        tau: the temperature of acceptance, in units of the score.
        attempts: after so many rejections the best of the rejected segments is kept.
        entropy: a segment ends before a token of at least this entropy, in nats.
        shortest, longest: tokens of a segment; that which ends the answer may have fewer.
        options: those of every method, and ``top_k`` and ``temperature``, what the base's tokens are drawn by; 40 and
            0.7 unless given.
    Returns:
        GenerationOutput; ``scores`` are the trajectory RM's of the answers.
    """
    rules = _Rules(entropy, shortest, longest, target, share, horizon, tau, attempts)
    rules.check()
    call = Call("cards", decoder, input_ids, attention_mask, {**DRAWS, **options}, tuple(DRAWS))
    if not torch.as_tensor(call.request.guidance.temperature).all():
        raise InvalidArgumentError("temperature is 0, at which a rejected segment comes again: pass one above 0")
    scorer = scalar(decoder, trajectory_rm, "trajectory_rm")
    admit(call, scorer)
    for rows in call.chunks():
        with call.reader(call.base, len(rows), rows) as base, call.reader(scorer, len(rows), rows) as judge:
            _write(call, rules, rows, base, judge, scorer.name)
    return call.output()


def calibrate(
    decoder: GuidedDecoder,
    trajectory_rm: Scorer,
    prompts: PromptInput,
    responses: Responses,
    attention_mask: Tensor | None = None,
) -> float:
    """r* of a trajectory RM: the mean of its scores of good responses, one to each prompt, for ``target``.

    Responses are given as to ``GuidedDecoder.score``; write EOS out where answers end in it.

    Raises:
        GenARMError: a prompt or a response that cannot be read, or a score that is no number.
    """
    scorer = scalar(decoder, trajectory_rm, "trajectory_rm")
    return float(response_scores(decoder, scorer, prompts, responses, attention_mask).mean())


def _write(
    call: Call, rules: _Rules, rows: Sequence[MethodRow], base: TextReader, judge: TextReader, name: str
) -> None:
    """Write rows to their ends."""
    prompts = [row.prompt for row in rows]
    scores = call.scores(call.prefill(base, prompts)[0], rows)
    first = call.prefill(judge, prompts)[0][:, :1].float()
    call.check_scores(first, rows, name)
    drafts = [_Draft(place, row, score) for place, (row, (score,)) in enumerate(zip(rows, first.tolist(), strict=True))]
    starts = scores  # [R, V], what each row's segment begins from
    while live := [draft for draft in drafts if draft.row.reason is None]:
        entropies = torch.special.entr(scores.softmax(1)).sum(1).tolist()
        if whole := [draft for draft in live if draft.is_whole(entropies[draft.place], rules)]:
            again = _judge(call, rules, whole, base, judge, name)
            scores = torch.where(_mask(again, scores), starts, scores)
        begun = [draft for draft in live if draft.segment or draft.unread]
        starts = torch.where(_mask(begun, scores), starts, scores)
        ready = [draft for draft in live if draft.row.reason is None and not draft.unread]
        _draw(call, ready, scores)
        # a segment that ended the answer, or is as long as may be, is judged before the base reads on
        reading = [draft for draft in live if draft.row.reason is None and draft.unread and not draft.is_full(rules)]
        if not reading:
            continue
        tokens: list[list[int]] = [[] for _ in rows]
        for draft in reading:
            tokens[draft.place], draft.unread = draft.unread, []
        found = base.extend(tokens)[0]
        read = [draft.place for draft in reading]
        scores = scores.index_copy(
            0, torch.tensor(read, device=scores.device), call.scores(found[read], [rows[place] for place in read])
        )


def _draw(call: Call, drafts: Sequence[_Draft], scores: Tensor) -> None:
    """One more token for each of these segments."""
    if not drafts:
        return
    seeds = torch.tensor([draft.seed for draft in drafts], device=scores.device)
    positions = torch.tensor([draft.position for draft in drafts], device=scores.device)
    own = scores[[draft.place for draft in drafts]]
    guidance = call.request.guidance.select(torch.tensor([draft.row.index for draft in drafts], device=scores.device))
    tokens = drawn(own, seeds, positions, guidance.temperature, guidance.top_k).tolist()
    for draft, token in zip(drafts, tokens, strict=True):
        draft.segment.append(token)
        draft.unread.append(token)
        draft.is_last = call.last_end(draft.row, [*draft.row.tokens, *draft.segment]) is not None


def _judge(
    call: Call, rules: _Rules, whole: Sequence[_Draft], base: TextReader, judge: TextReader, name: str
) -> list[_Draft]:
    """Score whole segments, and accept each, or reject it -> those whose rows stand again where they stood before."""
    tokens: list[list[int]] = [[] for _ in range(judge.batch)]
    for draft in whole:
        tokens[draft.place], draft.unscored = [*draft.unscored, *draft.segment], []
    values = judge.extend(tokens)[0][[draft.place for draft in whole], :1].float()
    call.check_scores(values, [draft.row for draft in whole], name)
    again = []
    back, cut = [0] * base.batch, [0] * judge.batch
    for draft, (score,) in zip(whole, values.tolist(), strict=True):
        row, segment, place = draft.row, draft.segment, draft.place
        if row.reason is not None:
            continue
        draft.tried.append((score, segment))
        if row.random.random() < rules.acceptance(score, draft.prompt_score, len(row.tokens) + len(segment)):
            draft.keep(call, score, segment)
            continue
        draft.rejected += 1
        best, kept = max(draft.tried, key=lambda one: one[0])
        is_over = len(draft.tried) == rules.attempts
        if is_over and kept == segment:
            draft.keep(call, score, segment)
            continue
        back[place], cut[place] = len(segment) - len(draft.unread), len(segment)
        draft.segment, draft.unread, draft.is_last = [], [], False
        again.append(draft)
        if is_over:
            draft.keep(call, best, kept)
            draft.unread, draft.unscored = list(kept), list(kept)
    base.drop(back)
    judge.drop(cut)
    return again


def _mask(drafts: Sequence[_Draft], like: Tensor) -> Tensor:
    """[R, 1], whether a row is among them."""
    there = torch.zeros(len(like), 1, dtype=torch.bool, device=like.device)
    there[[draft.place for draft in drafts]] = True
    return there
