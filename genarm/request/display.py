"""How results show themselves: in one line, and in a notebook with the text coloured by its token rewards.

The colour is log p_r(token) − log p_base(token): how far a reward model favours the token beyond what the base does,
and beside the other tokens shown, as on the pages of `genarm demo`.
"""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

from .detokenize import Decode, Pieces
from .scale import TAIL, Scale

# Blue and orange are told apart by every kind of colour vision, and lie half transparent on a light or a dark page; the
# lines under the tokens say the same without colour.
FAVOURED, DISFAVOURED = "33,102,172", "230,97,1"
MOST_ROWS = 20
MOST_CHARACTERS = 40
HINT = "generate(..., return_logprobs=True) colours each token by its reward"


def one_line(output: Any) -> str:
    """A generation's counts, and how its texts begin."""
    reasons = Counter(output.finish_reasons)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    new = sum(len(row) for row in output.tokens)
    shown = [_shortened(text) for text in (output.texts or ())[:3]]
    more = ", …" if len(output.texts or ()) > 3 else ""
    texts = f", texts=[{', '.join(map(repr, shown))}{more}]" if shown else ""
    rows = f"{len(output.tokens)} row{'s' * (len(output.tokens) != 1)}"
    return f"GenerationOutput({rows}: {counts}; {new} new tokens{texts})"


def as_html(output: Any) -> str:
    """The rows' texts, once for each reward model that has log-probabilities for it."""
    if output.texts is None:
        return f"<pre>{escape(one_line(output))}</pre>"
    coloured = output.model_logprobs is not None and len(output.model_names) > 1 and output.decode is not None
    blocks = _coloured(output) if coloured else [_block("", escape(text)) for text in output.texts[:MOST_ROWS]]
    hint = "" if coloured or len(output.model_names) < 2 else f"<div style='opacity:.7'>{HINT}</div>"
    left = len(output.texts) - MOST_ROWS
    more = f"<div style='opacity:.7'>… and {left} more rows</div>" if left > 0 else ""
    return "".join([*blocks, more, hint])


def _coloured(output: Any) -> list[str]:
    rows = range(min(len(output.tokens), MOST_ROWS))
    gains = (output.model_logprobs[..., 1:] - output.model_logprobs[..., :1]).nan_to_num(0.0).clamp(-99, 99)
    advantages = [gains[row, : len(output.tokens[row])].T.tolist() for row in rows]
    scale = Scale.of(value for row in advantages for model in row for value in model)
    blocks = []
    for row in rows:
        pieces = _pieces(output.decode, output.tokens[row].tolist(), output.texts[row])
        for name, values in zip(output.model_names[1:], advantages[row], strict=True):
            mean = f"{name}, {sum(values) / max(len(values), 1):+.2f} nats per token over the base"
            cells = zip(pieces, values, strict=True)
            spans = (token_span(piece, value, scale, f"{value:+.2f} nats") for piece, value in cells)
            blocks.append(_block(f"row {row}: {mean}", "".join(spans)))
    low, middle, high = (f"{scale.quantile(share):+.1f}" for share in (TAIL, 0.5, 1 - TAIL))
    above, below = f"blue and underlined above it (full at {high})", f"orange and dotted below (full at {low})"
    note = f"colours fit these tokens: none at their median, {middle} nats, {above}, {below}"
    return [f"<div style='opacity:.7'>{note}</div>", *blocks]


def _pieces(decode: Decode, tokens: list[int], text: str) -> list[str]:
    """The text of each token; what a stop string has cut off shows too."""
    pieces = Pieces(decode)
    found = [pieces.push(token) for token in tokens]
    if found:
        found[-1] += pieces.rest()
        if text[:1] == " " and not "".join(found).startswith(" "):  # the first word's, which stands behind a prompt
            found[0] = f" {found[0]}"
    return found


def token_span(piece: str, value: float, scale: Scale, title: str) -> str:
    """A token's text on the ground that its value has on a scale, as HTML; ``title`` is what a pointer shows of it."""
    share = scale.strength(value)
    strength = abs(share)
    colour, line = (FAVOURED, "solid") if share > 0 else (DISFAVOURED, "dotted")
    style = f"background:rgba({colour},{0.55 * strength:.2f})"
    if strength > 0.25:
        style += f";border-bottom:2px {line} rgb({colour})"
    shown = escape(piece).replace("\n", "⏎\n") or "∅"
    return f"<span style='{style}' title='{escape(title)}'>{shown}</span>"


def _block(title: str, text: str) -> str:
    head = f"<div style='opacity:.7;font-size:85%'>{escape(title)}</div>" if title else ""
    return f"<div style='margin:.4em 0'>{head}<div style='white-space:pre-wrap'>{text}</div></div>"


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
