"""Sample and match: a step that reads drafts behind each row's last token and takes those that it would have drawn.

At each of gamma + 1 places the guided distribution is formed and a token drawn with the noise of its seed and position,
as without drafts. Draws count up to the first that is not its draft, which is itself the row's next token, so the text
is the one without speculation, whatever the draft. Caches are cut back to what was taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .draft import Proposal, RaggedRun, make_draft
from .draw import Draw
from .ragged import Places
from .state import State


class RaggedStep:
    """The steps of a run whose rows move on by numbers of tokens of their own. Without a draft, or with gamma 0, each
    row gets one."""

    def __init__(self, run: RaggedRun, draw: Draw) -> None:
        self._run, self._state = run, run.state
        asked = run.request.speculate
        self._draft = None if asked is None else make_draft(asked, run)
        self._host = run.request.device.type == "cpu" and not run.captured
        assert run.state.ragged is not None
        self._places = {Q: Places(run.state, Q) for Q in run.state.ragged.wide}
        self._draws = {1: draw} | {Q: run.draw_of(own) for Q, own in self._places.items()}
        self._nothing = Proposal(run.state.tokens.new_zeros(run.request.batch, 0), torch.zeros_like(run.state.tokens))
        self._proposal = self._nothing
        self._logits: list[Tensor] = []
        self._cuts = True  # known once prompts have been read: not where what was cut would have to be read anew

    def step(self, gamma: int) -> None:
        """Read, draw and take."""
        self.decode(gamma)
        self.settle()

    def decode(self, gamma: int) -> None:
        """Every stream's logits after each row's last token and ``gamma`` drafts."""
        self._proposal = self._nothing
        if gamma and self._draft is not None and self._cuts:
            self._proposal = self._draft.propose(gamma)
            # On a CPU it is known at once that there is nothing to verify.
            if self._host and not self._proposal.known and not bool(self._proposal.counts.any()):
                self._proposal = self._nothing
        tokens = torch.cat([self._state.tokens[:, None], self._proposal.tokens], 1)
        self._logits = self._run.append(tokens, self._proposal.known)

    def settle(self) -> None:
        """Draw at each place, take what counts, and cut the caches back to it."""
        Q = self._proposal.tokens.shape[1] + 1
        if Q > 1:
            self._places[Q].behind(self._proposal.tokens)
        sample = self._draws[Q]([logits.flatten(0, 1) for logits in self._logits])
        taken = self._state.accept(sample, self._proposal.tokens, self._proposal.counts)
        if not self._cuts or (self._host and bool((taken == Q).all())):
            return
        for session in self._run.sessions:
            session.take_back(Q - taken)

    def begin(self, logits: list[Tensor], state: State | None = None) -> None:
        """Draw what follows the prompts, logits [n, V_m]: of all rows, or of some with a state of their own, which are
        to take their places among the others."""
        draw = self._draws[1]
        self._cuts = all(session.cuts for session in self._run.sessions)
        if state is not None:
            draw = self._run.draw_of(state)
            for one in self._draws.values():
                one.reset()
            if self._draft is not None:
                self._draft.reset()
        own = state or self._state
        nothing = torch.zeros_like(own.tokens)
        own.accept(draw(logits), nothing.new_zeros(len(nothing), 0), nothing)
