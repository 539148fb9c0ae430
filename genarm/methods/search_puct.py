"""The best-first half of ``search``: a tree per row, grown by simulations, whose visits choose the next token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf, log, sqrt

import torch
from torch import Tensor

from ..engine.reader import TextReader
from ..request.output import FinishReason
from .call import MethodRow, models_of
from .draws import choices
from .search_children import Child, Objective


@dataclass(slots=True)
class Node:
    """A text behind a row's prompt that a simulation has come to.

    gain: w Σ log π_r of it. value: U of it. visits, total: simulations that came here or beyond, and the sum of the
    values they found. children: those of it, None before it was read. nodes: those of them that were visited.
    """

    tokens: list[int]
    gain: float = 0.0
    value: float = 0.0
    visits: int = 0
    total: float = 0.0
    reason: FinishReason | None = None
    children: list[Child] | None = None
    nodes: dict[int, Node] = field(default_factory=dict)

    def came_to(self, value: float) -> None:
        self.visits += 1
        self.total += value


def tree_search(objective: Objective, rows: list[MethodRow], simulations: int, c_puct: float, tau: float) -> None:
    """Write the rows, each token after so many simulations."""
    call, scorer = objective.call, objective.scorer
    prompts = [row.prompt for row in rows]
    with ExitStack() as stack:
        policy = stack.enter_context(call.reader(models_of(objective.policy), len(rows), rows))
        judge = stack.enter_context(call.reader(scorer, len(rows), rows)) if scorer else None
        roots = [Node([]) for _ in rows]
        for root, children in zip(roots, objective.children(call.prefill(policy, prompts), rows), strict=True):
            root.children = children
        if judge is not None:
            values = call.prefill(judge, prompts)[0][:, 0].float()
            objective.check_values(values, rows)
            for root, value in zip(roots, (objective.weight * values).tolist(), strict=True):
                root.value = value
        for root in roots:
            root.came_to(root.value)
        trees = _Trees(objective, rows, roots, c_puct, _Scratch(policy), _Scratch(judge) if judge else None)
        while any(row.reason is None for row in rows):
            for _ in range(simulations):
                trees.simulate()
            trees.write(tau)


class _Scratch:
    """A place per row in a reader, which holds the row's prompt and what was last read behind it."""

    def __init__(self, reader: TextReader) -> None:
        self.reader = reader
        self._held: list[list[int]] = [[] for _ in range(reader.batch)]

    def read(self, wanted: dict[int, list[int]]) -> list[Tensor]:
        """M logits [R, V_m] behind the rows' ``wanted`` texts: what differs from the text that is there is read."""
        drops, new = [0] * self.reader.batch, [list[int]() for _ in range(self.reader.batch)]
        for row, tokens in wanted.items():
            held, kept = self._held[row], 0
            while kept < min(len(held), len(tokens) - 1) and held[kept] == tokens[kept]:
                kept += 1
            drops[row], new[row], self._held[row] = len(held) - kept, tokens[kept:], tokens
        self.reader.drop(drops)
        return self.reader.extend(new)


@dataclass(slots=True)
class _Trees:
    objective: Objective
    rows: list[MethodRow]
    roots: list[Node]
    c_puct: float
    policy: _Scratch
    judge: _Scratch | None

    def simulate(self) -> None:
        """One simulation in every row's tree: down to a text that is new, or at its end, and its value up again."""
        paths = {row: self._path(row) for row, one in enumerate(self.rows) if one.reason is None}
        fresh = {row: path[-1] for row, path in paths.items() if not path[-1].visits}
        self._evaluate(fresh)
        open_ = {row: leaf.tokens for row, leaf in fresh.items() if leaf.reason is None}
        if open_:
            logits = self.policy.read(open_)
            owners = [self.rows[row] for row in open_]
            found = self.objective.children([one[list(open_)] for one in logits], owners)
            for row, children in zip(open_, found, strict=True):
                fresh[row].children = children
        for path in paths.values():
            for node in path:
                node.came_to(path[-1].value)

    def _path(self, row: int) -> list[Node]:
        """From the root to a node that was never visited, or that nothing follows."""
        path = [self.roots[row]]
        while path[-1].reason is None and path[-1].visits:
            node = path[-1]
            place = _best(self._scores(node))
            if place not in node.nodes:
                child = (node.children or [])[place]
                tokens = [*node.tokens, child.token]
                gain = node.gain + child.gain
                value = self.objective.per_length(gain, len(tokens))
                reason = self.objective.call.last_end(self.rows[row], tokens)
                node.nodes[place] = Node(tokens, gain, value, reason=reason)
            path.append(node.nodes[place])
        return path

    def _scores(self, node: Node) -> list[float]:
        """Q̂ + c · P · √N / (1 + n) of each child."""
        children = node.children or []
        means, visits = [], []
        for place, child in enumerate(children):
            known = node.nodes.get(place)
            if known is not None and known.visits:
                means.append(known.total / known.visits)
            elif self.judge is not None:
                means.append(node.value)
            else:
                means.append(self.objective.per_length(node.gain + child.gain, len(node.tokens) + 1))
            visits.append(known.visits if known else 0)
        low, high = min(means), max(means)
        span, root = (high - low) or inf, self.c_puct * sqrt(node.visits)
        each = zip(means, children, visits, strict=True)
        return [(mean - low) / span + root * child.prior / (1 + count) for mean, child, count in each]

    def _evaluate(self, leaves: dict[int, Node]) -> None:
        """Where a scorer gives the values, those of new leaves."""
        if self.judge is None or not leaves:
            return
        scores = self.judge.read({row: leaf.tokens for row, leaf in leaves.items()})[0][list(leaves), 0].float()
        self.objective.check_values(scores, [self.rows[row] for row in leaves])
        for leaf, value in zip(leaves.values(), (self.objective.weight * scores).tolist(), strict=True):
            leaf.value = value

    def write(self, tau: float) -> None:
        """Choose each row's next token by the visits of the root's children, and go on from there."""
        live = [row for row, one in enumerate(self.rows) if one.reason is None]
        if not live:
            return
        table = torch.full((len(live), self.objective.expansions), -torch.inf)
        for place, row in enumerate(live):
            for child, node in self.roots[row].nodes.items():
                table[place, child] = log(node.visits)
        owners = [self.rows[row] for row in live]
        for row, owner, child in zip(live, owners, choices(table, owners, tau), strict=True):
            root = self.roots[row] = self.roots[row].nodes[child]
            self.objective.call.extend(owner, root.tokens[-1:])
            owner.score = root.value


def _best(scores: Sequence[float]) -> int:
    """The place of the largest, the first of equals."""
    return max(range(len(scores)), key=scores.__getitem__)
