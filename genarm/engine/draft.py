"""Who drafts: sources of tokens that a step then verifies. Any draft gives the same text, a good one sooner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

import genarm_kernels
from genarm_kernels.step.rules import GOING_ON

from ..models.backbone import Backbone, Session
from ..request.drafts import NGRAM, REWARD
from ..request.guidance import Guidance
from ..request.options import Request
from ..request.speculation import Speculation
from .draw import Draw, Rows
from .policy import Policy
from .state import State


@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafts [B, gamma] int64 and how many of them count, [B]. ``known``: of backbones that have read them, by their
    places in the run, the logits [S][B, gamma + 1, V] of what follows."""

    tokens: Tensor
    counts: Tensor
    known: Mapping[int, list[Tensor]] = field(default_factory=dict)


class RaggedRun(Protocol):
    """What is needed of a ``Run`` over ragged rows."""

    request: Request
    backbones: list[Backbone]
    sessions: list[Session]
    state: State
    policy: Policy
    captured: bool

    def draw_of(self, rows: Rows) -> Draw:
        """Draws for these rows, with what the request keeps of them."""

    def append(self, tokens: Tensor, known: Mapping[int, list[Tensor]]) -> list[Tensor]:
        """Every stream's logits after more tokens, of backbones that have read them the ``known`` ones."""

    def append_to(self, index: int, tokens: Tensor) -> list[Tensor]:
        """Those of one backbone's streams."""


class Draft(Protocol):
    """A source of drafts for one run. All it does is recorded where a step is captured."""

    def propose(self, gamma: int) -> Proposal:
        """What may follow each row's text, whose last token its caches have not read."""

    def reset(self) -> None:
        """Other rows have taken places of some, with settings of their own."""


class Ngram:
    """What followed the text's last tokens where they stood before: the longest match, the latest of those.

    Source: prompt lookup decoding (Saxena, 2023); it costs no pass of any model.
    """

    def __init__(self, run: RaggedRun) -> None:
        assert run.state.ragged is not None
        self._texts, self._ends = run.state.ragged.texts, run.state.positions
        self._counts, self._reasons = run.state.ragged.counts, run.state.reasons
        self._allowance = run.policy.allowance
        self._host = self._texts.device.type == "cpu" and not run.captured

    def propose(self, gamma: int) -> Proposal:
        rows = self._rows() if self._host else None
        if rows == []:
            return Proposal(self._texts.new_zeros(len(self._texts), gamma), torch.zeros_like(self._ends))
        drafts, counts = genarm_kernels.ngram_draft(self._texts, self._ends, gamma)
        if rows is not None:
            counts = counts * torch.zeros_like(counts).index_fill_(0, torch.tensor(rows), 1)
            if self._allowance is not None:
                self._allowance.note((counts > 0).tolist())
        return Proposal(drafts, counts)

    def _rows(self) -> list[int]:
        """The rows going on that may have something to propose: those whose last two tokens stood in their text before,
        which is known much sooner than where, as far as they have an allowance left."""
        going = (self._reasons == GOING_ON).tolist()
        if self._allowance is not None:
            allowed = self._allowance.allowed(self._counts.tolist())
            going = [both and one for both, one in zip(allowed, going, strict=True)]
        return [row for row, end in enumerate(self._ends.tolist()) if going[row] and self._recurs(row, end)]

    def _recurs(self, row: int, end: int) -> bool:
        text = self._texts[row, :end].numpy().tobytes()
        pair = text[-2 * self._texts.itemsize :]
        return text.find(pair) < len(text) - len(pair)

    def reset(self) -> None:
        """It reads nothing but texts."""


class Chain:
    """One stream of a backbone, token by token, its draws with the very noise of the guided ones, so that they differ
    only where the distributions do. A model of the product has been read with that and is not read again."""

    def __init__(self, run: RaggedRun, backbone: int, place: int) -> None:
        self._run, self._backbone, self._place = run, backbone, place
        guidance = run.state.guidance
        self._view = _Alone(
            replace(guidance, weights=torch.ones_like(guidance.weights[:, :1]), gate=None, repetition_penalty=1.0),
            run.state.positions.clone(),
        )
        self._draw = Draw(self._view, run.request.vocab_size, False, captured=run.captured)

    def propose(self, gamma: int) -> Proposal:
        state, tokens = self._run.state, self._run.state.tokens
        drafts: list[Tensor] = []
        steps: list[list[Tensor]] = []
        self._view.positions.copy_(state.positions)
        for ahead in range(gamma + 1):
            steps.append(self._run.append_to(self._backbone, tokens[:, None]))
            if ahead < gamma:
                tokens = self._draw([steps[-1][self._place][:, 0]]).tokens
                drafts.append(tokens)
                self._view.positions.add_(1)
        logits = [torch.cat(stream, 1) for stream in zip(*steps, strict=True)]
        return Proposal(torch.stack(drafts, 1), torch.full_like(tokens, gamma), {self._backbone: logits})

    def reset(self) -> None:
        self._draw.reset()


@dataclass(slots=True)
class _Alone:
    """A draft's draws: its own model, the guided rows' temperature, filters and seeds."""

    guidance: Guidance
    positions: Tensor
    seen: None = None

    def note_guided(self, guided: Tensor) -> None:
        raise AssertionError("a draft has no gate")


def _of_reward(run: RaggedRun) -> Draft:
    """The reward model with a backbone of its own, the smallest one."""
    own = [index for index, one in enumerate(run.backbones) if 0 not in one.streams]
    smallest = min(own, key=lambda index: run.backbones[index].step_bytes(1))
    return Chain(run, smallest, 0)


def _of_model(run: RaggedRun) -> Draft:
    """The draft model, which a run has behind the others."""
    return Chain(run, len(run.backbones) - 1, 0)


SOURCES: dict[str, Callable[[RaggedRun], Draft]] = {NGRAM: Ngram, REWARD: _of_reward}


def make_draft(speculation: Speculation, run: RaggedRun) -> Draft:
    """The source that a request names."""
    return (SOURCES[speculation.draft] if speculation.model is None else _of_model)(run)
