"""What a run's settings ask for, checked before any model is: what is wrong is said in words for the page."""

from __future__ import annotations

from ..errors import InvalidArgumentError
from .settings import CHAT, PlaySettings


def check_prompt(settings: PlaySettings) -> None:
    """Raise InvalidArgumentError where there is nothing to go on from."""
    if not settings.prompt.strip():
        what = "message" if settings.mode == CHAT else "prompt"
        raise InvalidArgumentError(f"The {what} is empty: write one, or take an example.")


def messages(settings: PlaySettings) -> list[dict[str, str]]:
    """The conversation up to the message that is to be answered."""
    system = [{"role": "system", "content": settings.system}] if settings.system.strip() else []
    before = [
        {"role": role, "content": text}
        for turn in settings.turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return [*system, *before, {"role": "user", "content": settings.prompt}]
