"""How many tokens are drafted ahead in the next step."""

from __future__ import annotations

from ..request.options import Request

USUAL = 4


class Fixed:
    """Always as many."""

    def __init__(self, gamma: int) -> None:
        self.gamma = gamma

    @property
    def gammas(self) -> tuple[int, ...]:
        """Numbers of drafts that a step may have."""
        return (self.gamma,)

    @property
    def places(self) -> tuple[int, ...]:
        """Places per row at which one may draw."""
        return tuple(gamma + 1 for gamma in self.gammas)

    def note(self, gamma: int, proposed: int, accepted: int) -> None:
        """What came of a step's drafts, all rows together."""


def make_policy(request: Request) -> Fixed:
    """The policy that a request asks for."""
    if request.speculate is None:
        return Fixed(0)
    gamma = request.speculate.gamma
    return Fixed(gamma if isinstance(gamma, int) else USUAL)
