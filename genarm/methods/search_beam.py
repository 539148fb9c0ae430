"""The breadth-first half of ``search``: some best texts per row, which grow by a token at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor

from ..engine.reader import TextReader
from ..request.output import FinishReason
from .call import MethodRow, models_of
from .search_children import Child, Objective


@dataclass(slots=True)
class Beam:
    """A text behind a row's prompt. ``base`` is log π_base of it, ``value`` U of it, ``score`` what it is kept by.

    parent, child: the place of the text before its last token among the row's beams, and the token's among that text's
        children.
    """

    tokens: list[int]
    base: float = 0.0
    value: float = 0.0
    score: float = 0.0
    parent: int = 0
    child: int = 0
    reason: FinishReason | None = None


# Of each row's beams, those that are kept, the best first.
Select = Callable[[Sequence[MethodRow], list[list[Beam]]], list[list[Beam]]]


def best(width: int) -> Select:
    """The beams with the largest scores, the first of equals."""

    def select(_: Sequence[MethodRow], found: list[list[Beam]]) -> list[list[Beam]]:
        return [sorted(own, key=lambda beam: -beam.score)[:width] for own in found]

    return select


def beam_search(objective: Objective, rows: list[MethodRow], width: int, select: Select) -> None:
    """Write the rows' best texts, ``width`` beams at a time."""
    call, k, scorer = objective.call, objective.expansions, objective.scorer
    with ExitStack() as stack:
        policy = stack.enter_context(call.reader(models_of(objective.policy), len(rows) * width, rows))
        judge = stack.enter_context(call.reader(scorer, len(rows) * width * k, rows)) if scorer else None
        prompts = [row.prompt for row in rows for _ in range(width)]
        logits = call.prefill(policy, prompts)
        if judge is not None:
            call.prefill(judge, [prompt for prompt in prompts for _ in range(k)])
        search = _Beams(objective, rows, width, select, policy, judge, [[Beam([])] for _ in rows])
        while True:
            search.grow(logits)
            if all(row.reason is not None for row in rows):
                return
            logits = search.read()


@dataclass(slots=True)
class _Beams:
    """``beams``: each row's; beam b of row r is read at place r·B + b, and its children at k places of the judge."""

    objective: Objective
    rows: list[MethodRow]
    width: int
    select: Select
    policy: TextReader
    judge: TextReader | None
    beams: list[list[Beam]]

    def grow(self, logits: Sequence[Tensor]) -> None:
        """A token more for every beam that is not at its end, and of all of them those that are kept."""
        call, rows = self.objective.call, self.rows
        places = [
            (row, place)
            for row, own in enumerate(self.beams)
            for place, beam in enumerate(own)
            if rows[row].reason is None and beam.reason is None
        ]
        read = [row * self.width + place for row, place in places]
        children = self.objective.children([one[read] for one in logits], [rows[row] for row, _ in places])
        values = self._values(children, places)
        found = [[beam for beam in own if beam.reason is not None] for own in self.beams]
        for (row, place), own, scored in zip(places, children, values, strict=True):
            parent = self.beams[row][place]
            found[row] += [
                self._child(rows[row], parent, place, index, child, value)
                for index, (child, value) in enumerate(zip(own, scored, strict=True))
            ]
        live = [row for row, one in enumerate(rows) if one.reason is None]
        if not live:
            return
        kept = self.select([rows[row] for row in live], [found[row] for row in live])
        for row, own_beams in zip(live, kept, strict=True):
            self.beams[row] = own_beams
            if self._is_over(own_beams):
                call.extend(rows[row], own_beams[0].tokens)
                rows[row].score = own_beams[0].score

    def _values(self, children: list[list[Child]], places: list[tuple[int, int]]) -> list[list[float]]:
        """U of every child where a scorer says it, else what its token adds to that of its text."""
        if self.judge is None:
            return [[child.gain for child in own] for own in children]
        k, offered = self.objective.expansions, [list[int]() for _ in range(self.judge.batch)]
        for (row, place), own in zip(places, children, strict=True):
            for index, child in enumerate(own):
                offered[(row * self.width + place) * k + index] = [child.token]
        if not any(offered):
            return [[] for _ in children]
        scores = self.judge.extend(offered)[0][:, 0].float()
        asked = [place for place, tokens in enumerate(offered) if tokens]
        self.objective.check_values(scores[asked], [self.rows[place // (k * self.width)] for place in asked])
        values = (self.objective.weight * scores).tolist()
        starts = [(row * self.width + place) * k for row, place in places]
        return [values[start : start + len(own)] for start, own in zip(starts, children, strict=True)]

    def _child(self, row: MethodRow, parent: Beam, place: int, index: int, child: Child, value: float) -> Beam:
        tokens = [*parent.tokens, child.token]
        base = parent.base + child.base
        whole = value if self.judge is not None else parent.value + value
        score = self.objective.per_length(base + whole, len(tokens))
        reason = self.objective.call.last_end(row, tokens)
        return Beam(tokens, base, whole, score, place, index, reason)

    def _is_over(self, beams: list[Beam]) -> bool:
        """Whether no beam can come to more than the best one: all are at their ends, or what they would still get is
        log-probabilities alone."""
        falls = self.judge is None and self.objective.weight >= 0 and self.objective.length_power == 0
        return all(beam.reason for beam in beams) or (falls and beams[0].reason is not None)

    def read(self) -> list[Tensor]:
        """Let the models read what was kept -> the policy's M logits of every place."""
        new: list[list[int]] = [[] for _ in range(self.policy.batch)]
        pairs, judged, k = [], [], self.objective.expansions
        for row, own in enumerate(self.beams):
            for place, beam in enumerate(own):
                if self.rows[row].reason is None and beam.reason is None:
                    source, target = row * self.width + beam.parent, row * self.width + place
                    pairs.append((source, target))
                    judged += [(source * k + beam.child, target * k + one) for one in range(k)]
                    new[target] = beam.tokens[-1:]
        self.policy.copy(*_columns(pairs))
        if self.judge is not None:
            self.judge.copy(*_columns(judged))
        return self.policy.extend(new)


def _columns(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
