"""Transfer Q*: a tuned policy's likeliest tokens, each judged by the answer that the policy would go on to from there.

    direct:    score(v) = logit_ρ(v | x, y_<t) + w · r(x, y_<t, v, z_v)
    indirect:  score(v) = logit_ρ(v | x, y_<t) + w · exp(c · (r − r_ρ)) · r       (both of the text with v and z_v)

for v among the k largest logits of ρ. ρ is a policy tuned beforehand, such as a DPO-tuned one; z_v is its greedy
continuation of at most so many tokens, which estimates the value of v under ρ. r is the trajectory RM that counts.
Where ρ was tuned for another reward r_ρ, the "indirect" transfer weighs r by exp(c · (r − r_ρ)), the importance of the
roll-out under the policy that would be optimal for r (c is one over the coefficient of its KL term).

A roll-out ends as an answer does: at EOS, at a stop, and where the answer would have ``max_new_tokens``; no model reads
on beyond that. The roll-outs of all candidates of all rows are one batch. The policy reads each candidate and all but
the last token of its roll-out, a trajectory RM each candidate and all of it; what belongs to the chosen candidate stays
in both caches, so that nothing is read twice.

Source: Chakraborty et al., "Transfer Q Star: Principled Decoding for LLM Alignment", NeurIPS 2024. Its experiments take
k = 10, w = 1, roll-outs of 20 tokens (direct) and 5 (indirect), c = 1/2, and the largest score; a roll-out there ends
at EOS alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..decoder import GuidedDecoder
from ..engine.reader import TextReader
from ..errors import InvalidArgumentError
from ..models.scalar import ScalarModel
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from ..scalars import Scorer, scalar
from .admission import admit
from .call import Call, MethodRow
from .draws import choices, top_candidates
from .policies import Policy, policy_decoder

LOOKAHEAD = {"direct": 20, "indirect": 5}


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    policy: Policy,
    trajectory_rm: Scorer,
    baseline_rm: Scorer | None = None,
    candidates: int = 10,
    lookahead: int | None = None,
    weight: float = 1.0,
    correction: float = 0.5,
    choice: Literal["greedy", "stochastic"] = "greedy",
    tau: float = 0.7,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by Transfer Q*: by the indirect transfer where there is a ``baseline_rm``, else by the direct one.

    Args:
        policy: ρ, a tuned model or its LoRA adapter: a path, a loaded model, or the name of a loaded reward model.
        trajectory_rm: r, a sequence classifier of one label over the base's vocabulary: a path, or loaded.
        baseline_rm: r_ρ, the same for the reward that the policy was tuned for, where that is another one.
        candidates: k, how many of the policy's likeliest tokens are rolled out at each step.
        lookahead: the longest roll-out behind a candidate, in tokens; None takes 20 (direct) or 5 (indirect).
        weight: w, of the reward beside the logit.
        correction: c, of the difference of both rewards; the direct transfer has none.
        choice: "greedy" takes the largest score, "stochastic" draws from softmax(score / tau) over the k.
        tau: the temperature of "stochastic".
    Returns:
        GenerationOutput; ``scores`` are the trajectory RM's of the answers.
    """
    kind = "direct" if baseline_rm is None else "indirect"
    most = LOOKAHEAD[kind] if lookahead is None else lookahead
    if candidates < 1 or most < 1 or choice not in ("greedy", "stochastic") or tau <= 0:
        raise InvalidArgumentError(
            f"candidates is {candidates}, lookahead {most}, choice {choice!r}, tau {tau}: pass at least one candidate "
            "and one token of lookahead, 'greedy' or 'stochastic', and a tau above 0"
        )
    call = Call("transfer_q", policy_decoder(decoder, policy, "policy"), input_ids, attention_mask, options)
    scorers = [scalar(decoder, trajectory_rm, "trajectory_rm")]
    if baseline_rm is not None:
        scorers.append(scalar(decoder, baseline_rm, "baseline_rm"))
    admit(call, *scorers)
    k, temperature = min(candidates, call.request.vocab_size), 0.0 if choice == "greedy" else tau
    for rows in call.chunks():
        with ExitStack() as stack:
            readers = [stack.enter_context(call.reader(one, len(rows) * k, rows)) for one in (call.base, *scorers)]
            search = _Search(call, rows, k, readers[0], readers[1:], scorers)
            search.prefill()
            while any(row.reason is None for row in rows):
                search.step(most, weight, correction, temperature)
    return call.output()


@dataclass(slots=True)
class _Search:
    """Some rows while they are written, with k places each in every reader. ``logits`` [R, V] are the policy's."""

    call: Call
    rows: list[MethodRow]
    k: int
    policy: TextReader
    judges: Sequence[TextReader]
    scorers: Sequence[ScalarModel]
    logits: Tensor | None = None

    @property
    def owners(self) -> list[MethodRow]:
        return [row for row in self.rows for _ in range(self.k)]

    def prefill(self) -> None:
        prompts = [row.prompt for row in self.owners]
        self.logits = self.call.prefill(self.policy, prompts)[0][:: self.k]
        for judge in self.judges:
            self.call.prefill(judge, prompts)

    def step(self, most: int, weight: float, correction: float, temperature: float) -> None:
        """Write a token to each row that is not at its end."""
        assert self.logits is not None, "prefill() comes first"
        values, ids = top_candidates(self.call.scores(self.logits, self.rows), self.k)
        rolled, after = self._roll_out(ids.flatten().tolist(), most)
        if not any(rolled):
            return
        rewards = self._rewards(rolled)
        scores = values + weight * (rewards[0] if len(rewards) == 1 else _indirect(rewards[0], rewards[1], correction))
        self.call.check(scores, self.rows, " and ".join(scorer.name for scorer in self.scorers))
        places = [row * self.k + one for row, one in enumerate(choices(scores, self.rows, temperature))]
        for row, place, reward in zip(self.rows, places, rewards[0].flatten()[places].tolist(), strict=True):
            if row.reason is None:
                self.call.extend(row, rolled[place][:1])
                row.score = reward
        self._keep(places)
        self.logits = None if after is None else after[places]

    def _roll_out(self, ids: list[int], most: int) -> tuple[list[list[int]], Tensor | None]:
        """Each place's candidate and what the policy goes on with, nothing where the row has ended; and the logits
        [R·k, V] after each candidate, None where all of them are ends."""
        owners, after = self.owners, None
        rolled = [[token] * (row.reason is None) for row, token in zip(owners, ids, strict=True)]
        going_on = [place for place, own in enumerate(rolled) if own]
        for _ in range(most):
            going_on = [
                one for one in going_on if self.call.last_end(owners[one], [*owners[one].tokens, *rolled[one]]) is None
            ]
            if not going_on:
                break
            new: list[list[int]] = [[] for _ in rolled]
            for place in going_on:
                new[place] = rolled[place][-1:]
            logits = self.policy.extend(new)[0]
            after = logits if after is None else after
            scores = self.call.scores(logits[going_on], [owners[one] for one in going_on])
            for place, token in zip(going_on, top_candidates(scores, 1)[1][:, 0].tolist(), strict=True):
                rolled[place].append(token)
        return rolled, after

    def _rewards(self, rolled: list[list[int]]) -> list[Tensor]:
        """What each trajectory RM says of the texts with their roll-outs, [R, k] float32 each."""
        found = []
        for judge, scorer in zip(self.judges, self.scorers, strict=True):
            rewards = judge.extend(rolled)[0][:, 0].float().view(len(self.rows), self.k)
            self.call.check_scores(rewards, self.rows, scorer.name)
            found.append(rewards)
        return found

    def _keep(self, places: list[int]) -> None:
        """Leave in every reader each row's text with its new token, in all of the row's places."""
        live = [place for place, owner in enumerate(self.owners) if owner.reason is None]
        for reader in (self.policy, *self.judges):
            reader.copy([places[place // self.k] for place in live], live)
            kept = {place: len(self.rows[place // self.k].text) for place in live}
            reader.drop([held - kept.get(place, held) for place, held in enumerate(reader.lengths)])


def _indirect(reward: Tensor, baseline: Tensor, correction: float) -> Tensor:
    """The reward weighed by the importance of the roll-out."""
    return torch.exp(correction * (reward - baseline)) * reward
