"""What one opened page knows beside its controls: the texts that stand on it, and the runs that were tried."""

from __future__ import annotations

from dataclasses import dataclass, field

from .history import Tried, numbered, with_run
from .settings import PlaySettings
from .written import WrittenPair


@dataclass(slots=True)
class Board:
    """``shown`` are the settings and the texts on the page, ``current`` the number of the run that they are of."""

    shown: tuple[PlaySettings, WrittenPair] | None = None
    tried: list[Tried] = field(default_factory=list)
    current: int | None = None

    def show(self, settings: PlaySettings, pair: WrittenPair) -> None:
        """Texts that are on their way."""
        self.shown, self.current = (settings, pair), None

    def keep(self, settings: PlaySettings, pair: WrittenPair, names: tuple[str, ...]) -> None:
        """A finished run, which is shown."""
        self.tried = with_run(self.tried, settings, pair, names)
        self.shown, self.current = (settings, pair), self.tried[-1].number

    def back_to(self, number: int) -> Tried | None:
        """Show a run of before; None where it is forgotten."""
        found = numbered(self.tried, number)
        if found is not None:
            self.shown, self.current = (found.settings, found.pair), number
        return found
