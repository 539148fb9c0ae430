"""Both texts as HTML, each token on the colour of its reward."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..request.display import token_span
from ..request.scale import TAIL, Scale
from .settings import PlaySettings
from .written import WrittenPair, WrittenText


def pair_html(pair: WrittenPair, settings: PlaySettings, names: Sequence[str]) -> tuple[str, str, str]:
    """The base's text, the guided one, and what the colours say.

    Both are on one scale, which fits the tokens that are there.
    """
    place = list(names).index(settings.colour)
    sides = pair.base, pair.guided
    scale = Scale.of(value for side in sides for value in side.values(place, settings.over_base))
    base, guided = (side_html(side, settings, place, scale) for side in sides)
    return base, guided, legend(settings, scale)


def side_html(side: WrittenText, settings: PlaySettings, place: int, scale: Scale) -> str:
    """One text behind its prompt, with a line that says how long it is, how it ended and its mean rewards."""
    spans = [
        token_span(
            token.text,
            value,
            scale,
            f"log π {settings.colour} {token.rewards[place]:+.2f}, base {token.base:+.2f} nats",
        )
        for token, value in zip(side.tokens, side.values(place, settings.over_base), strict=True)
    ]
    lead = f"<span class='prompt'>{escape(settings.prompt)}</span>" if settings.mode == "prompt" else ""
    caret = "" if side.ending else "<span class='caret' aria-hidden='true'>▍</span>"
    text = f"<div class='text' dir='auto'>{lead}{''.join(spans)}{caret}</div>"
    return f"{text}<div class='figures'>{escape(figures(side, settings, place))}</div>"


def figures(side: WrittenText, settings: PlaySettings, place: int) -> str:
    """A line about a text: how many tokens, why it ended, and its mean reward."""
    count = len(side.tokens)
    parts = [f"{count} token{'s' * (count != 1)}", *([side.ending] if side.ending else [])]
    if count:
        reward, base = side.mean(place), side.mean(None)
        parts.append(
            f"{settings.colour} {reward:.2f} nats per token, {reward - base:+.2f} over the base".replace("-", "−")
        )
    return " · ".join(parts)


def legend(settings: PlaySettings, scale: Scale) -> str:
    """What the colours say, as HTML."""
    if not scale.values:
        return ""
    low, middle, high = (f"{scale.quantile(share):+.1f}".replace("-", "−") for share in (TAIL, 0.5, 1 - TAIL))
    what = f"log π_{settings.colour}" + (" − log π_base" if settings.over_base else "")
    return (
        f"Colour: <b>{escape(what)}</b> of each token. {token_span('blue and underlined', 1.0, _ENDS, '')} above the "
        f"median of both texts ({middle} nats; full at {high}), {token_span('orange and dotted', -1.0, _ENDS, '')} "
        f"below it (full at {low})."
    )


_ENDS = Scale.of((-1.0, 0.0, 1.0))
