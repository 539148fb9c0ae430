"""Preferences and objectives on a command line; nothing heavy is imported for them."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ..errors import InvalidArgumentError


def parse_preferences(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Every ``--preference NAME=OBJECTIVE:SHARE,…`` -> {reward model: {objective: share}}.

    Raises:
        InvalidArgumentError: a form that cannot be read, a share that is no number, a name that comes twice.
    """
    found: dict[str, dict[str, float]] = {}
    for text in texts:
        name, parts = _named("--preference", text, found, "NAME=OBJECTIVE:SHARE,OBJECTIVE:SHARE")
        shares: dict[str, float] = {}
        for part in parts:
            objective, colon, share = part.rpartition(":")
            if not objective or not colon or objective in shares:
                raise InvalidArgumentError(f"--preference {text!r}: {part!r} is no OBJECTIVE:SHARE of its own")
            try:
                shares[objective] = float(share)
            except ValueError:
                raise InvalidArgumentError(f"--preference {text!r}: {share!r} is no number") from None
        found[name] = shares
    return found


def parse_objectives(texts: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Every ``--objectives NAME=OBJECTIVE,OBJECTIVE``, for reward models of these names, in the adapter's order."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, parts = _named("--objectives", text, found, "NAME=OBJECTIVE,OBJECTIVE")
        if name not in names:
            raise InvalidArgumentError(
                f"--objectives names {name!r}, and there is no such reward model: {', '.join(names) or 'none'}"
            )
        found[name] = parts
    return found


def _named(option: str, text: str, found: Container[str], form: str) -> tuple[str, list[str]]:
    name, equals, rest = text.partition("=")
    parts = [part.strip() for part in rest.split(",")]
    if not name or not equals or not all(parts):
        raise InvalidArgumentError(f"{option} {text!r} cannot be read: write {form}")
    if name in found:
        raise InvalidArgumentError(f"{option} names {name!r} twice: give each reward model one")
    return name, parts
