"""Models that read R rows of text for a method, through a session's verbs: rows grow, are copied, and are cut.

What a decoding method does beside the guided draw (candidates, roll-outs, segments that are taken back) is these three
verbs over the sessions of one or several backbones. A reader counts the tokens that each model has to read for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

import torch
from torch import Tensor

from ..models.backbone import Backbone, Session
from ..models.causal import CausalModel
from .memory import Size, cache_bytes, check_fit, holding
from .rooms import prompt_rooms, session_of, with_rooms

BLOCK = 8  # tokens of a row in one pass, and the room that a row needs behind its text for those of a longer one


class TextReader:
    """M models reading R rows, the same text in every model unless their prompts differ.

    ``forwarded`` counts tokens by the models' names: each distinct prompt once, and every token that was added to a
    row. What a pass carries beside them (rows that got none, whose places it fills) is in no count.

    ``silent``: an id at the end of a text behind which a model of one number is not asked, but before it: transformers'
    classifiers read a text's score before its padding, and many were trained with the end of texts as padding.
    """

    def __init__(
        self,
        models: Sequence[CausalModel],
        backbones: Sequence[Backbone],
        sessions: Sequence[Session],
        batch: int,
        silent: int | None = None,
    ) -> None:
        self.batch = batch
        self.device = models[0].device
        self.forwarded = {model.name: 0 for model in models}
        self.passes = 0
        self._models, self._backbones, self._sessions = list(models), list(backbones), list(sessions)
        self._known = [min(models[one].input_vocab_size for one in own.streams) for own in backbones]
        self._held = [0] * batch  # tokens of each row in the first model, as the host knows them
        self._silent = silent
        # [R, T] what was said after each token, where an id is silent
        self._said = None if silent is None else torch.zeros(batch, sessions[0].length, device=self.device)

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row holds in the first model."""
        return list(self._held)

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]], *others: Sequence[Sequence[int]]) -> list[Tensor]:
        """Forget what was there and read R prompts, each distinct one once -> M logits [R, V_m] of what follows.

        ``others``: the further models' own prompts, where they have other ones than the first.
        """
        every = [prompts, *others] if others else [prompts] * len(self._models)
        rows = [[torch.tensor(row, dtype=torch.int64, device=self.device) for row in own] for own in every]
        outputs = []
        for known, backbone, session in zip(self._known, self._backbones, self._sessions, strict=True):
            outputs.append(session.prefill([[row.clamp(max=known - 1) for row in rows[s]] for s in backbone.streams]))
        for model, own in zip(self._models, every, strict=True):
            self.forwarded[model.name] += sum(map(len, {tuple(row) for row in own}))
        self._held = [len(row) for row in prompts]
        self.passes += 1
        logits = self._in_order(outputs)
        if self._said is not None:
            self._note(logits[0][:, None], [held - 1 for held in self._held])
        return logits

    @torch.no_grad()
    def extend(self, tokens: Sequence[Sequence[int]]) -> list[Tensor]:
        """Add tokens to each row, none to some -> M logits [R, V_m] after each row's last one. A row that got none has
        anything in its place.

        Raises:
            IndexError: a row that would not fit the length that the reader was made for.
        """
        longest = max(map(len, tokens))
        found: list[Tensor] = []
        for start in range(0, longest, BLOCK):
            logits = self._extend([row[start : start + BLOCK] for row in tokens])
            ends = torch.tensor([start < len(row) for row in tokens], device=self.device)
            found = [
                new if old is None else torch.where(ends[:, None], new, old) for old, new in zip_longest(found, logits)
            ]
        for name in self.forwarded:
            self.forwarded[name] += sum(map(len, tokens))
        if self._said is not None:
            before = torch.tensor([[max(0, held - 2)] for held in self._held], device=self.device)
            ends = torch.tensor([list(row[-1:]) == [self._silent] for row in tokens], device=self.device)
            found = [torch.where(ends[:, None], self._said.gather(1, before).to(one.dtype), one) for one in found]
        return found

    def _note(self, logits: Tensor, starts: Sequence[int]) -> None:
        """Keep what was said after each of Q tokens, logits [R, Q, 1], the first of which stands at ``starts``."""
        assert self._said is not None
        places = torch.tensor(starts, device=self.device)[:, None] + torch.arange(logits.shape[1], device=self.device)
        self._said.scatter_(1, places, logits[..., 0].to(self._said.dtype))

    def _extend(self, tokens: Sequence[Sequence[int]]) -> list[Tensor]:
        """At most BLOCK tokens per row."""
        sizes = [len(row) for row in tokens]
        width = max(sizes)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens], device=self.device)
        before = [session.lengths.clone() for session in self._sessions]
        outputs = []
        for known, session in zip(self._known, self._sessions, strict=True):
            outputs.append(session.append(ids.clamp(max=known - 1)))
        if min(sizes) < width:
            added = torch.tensor(sizes, dtype=torch.int32, device=self.device)
            for session, held in zip(self._sessions, before, strict=True):
                session.truncate(held + added)
        logits = self._in_order(outputs)
        if self._said is not None:
            self._note(logits[0], self._held)
        self._held = [held + size for held, size in zip(self._held, sizes, strict=True)]
        self.passes += 1
        last = torch.tensor([max(0, size - 1) for size in sizes], device=self.device)
        rows = torch.arange(self.batch, device=self.device)
        return [one[rows, last] for one in logits]

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Give rows ``targets`` what rows ``sources`` hold, all at once."""
        pairs = [pair for pair in zip(sources, targets, strict=True) if pair[0] != pair[1]]
        if not pairs:
            return
        of, to = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for session in self._sessions:
            session.copy(of, to)
        if self._said is not None:
            self._said[to] = self._said[of]
        before = list(self._held)
        for source, target in pairs:
            self._held[target] = before[source]

    def drop(self, counts: Sequence[int]) -> None:
        """Take each row's last tokens back, so many of each."""
        if not any(counts):
            return
        taken = torch.tensor(counts, dtype=torch.int32, device=self.device)
        for session in self._sessions:
            session.truncate(session.lengths - taken)
        self._held = [held - count for held, count in zip(self._held, counts, strict=True)]

    def _in_order(self, outputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        found = {
            stream: logits
            for backbone, own in zip(self._backbones, outputs, strict=True)
            for stream, logits in zip(backbone.streams, own, strict=True)
        }
        return [found[stream] for stream in range(len(self._models))]


@contextmanager
def reading(
    models: Sequence[CausalModel],
    backbones: Sequence[Backbone],
    prompts: Sequence[Sequence[int]],
    behind: int,
    silent: int | None = None,
) -> Iterator[TextReader]:
    """A reader of R texts that begin with these prompts, with up to ``behind`` tokens after each, and its memory.

    Raises:
        CacheMemoryError: their caches do not fit.
    """
    batch, longest, own = len(prompts), max(map(len, prompts)), behind + BLOCK
    rooms = prompt_rooms(backbones, prompts, own)
    check_fit(backbones, Size(batch, longest + own, longest, rooms=rooms), models[0].device)
    with holding(cache_bytes(backbones, batch, longest + own, rooms)):
        pairs = with_rooms(backbones, rooms)
        sessions = [session_of(one, batch, longest + own, None, room) for one, room in pairs]
        yield TextReader(models, backbones, sessions, batch, silent)
