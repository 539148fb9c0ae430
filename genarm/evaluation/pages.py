"""What the pages of token rewards share: coloured tokens, the legend, the look in light and in dark.

A page is one file: no script, nothing from a network. Whatever comes from models or data is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import DictLoader, Environment
from markupsafe import Markup

from ..request.scale import TAIL, Scale

LEGEND = (TAIL, 0.25, 0.5, 0.75, 1 - TAIL)


def cells(
    tokens: Sequence[str],
    rewards: Sequence[float],
    base: Sequence[float],
    scale: Scale,
    marks: Mapping[int, str] | None = None,
) -> list[dict[str, Any]]:
    """What the page shows of each token; ``marks`` stand in place of tokens without text, by their number."""
    found = []
    for number, (token, reward, own) in enumerate(zip(tokens, rewards, base, strict=True)):
        mark = (marks or {}).get(number)
        found.append(
            {
                "text": token if mark is None else mark,
                "mark": mark is not None,
                "hint": f"log π_r {nats(reward, sign='')}, log π_base {nats(own, sign='')}, "
                f"difference {nats(reward - own)}",
                **_look(scale.strength(reward - own)),
            }
        )
    return found


def picture(png: bytes) -> str:
    """An image as an address that needs no file beside the page."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


def render(body: str, title: str, scale: Scale, **values: Any) -> str:
    """A page around ``body``, a jinja2 template that may use ``tokens(cells)`` and include their "key"."""
    environment = Environment(loader=DictLoader({"shell": SHELL, "tokens": TOKENS, "key": KEY}), autoescape=True)
    environment.filters |= {"nats": nats, "figure": lambda value: nats(value, sign="")}
    template = '{% extends "shell" %}{% from "tokens" import tokens %}{% block body %}' + body + "{% endblock %}"
    quantiles = [scale.quantile(share) for share in LEGEND]
    legend = [{"value": nats(value, 1), **_look(scale.strength(value))} for value in quantiles]
    page: str = environment.from_string(template).render(title=title, legend=legend, style=Markup(STYLE), **values)
    return page


def nats(value: float, digits: int = 2, sign: str = "+") -> str:
    """A figure with the true minus sign, and by default a plus sign too."""
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def _look(share: float) -> dict[str, str]:
    side = "even" if share == 0 else "up" if share > 0 else "down"
    return {"side": side, "strength": f"{abs(share):.2f}"}


TOKENS = """{% macro tokens(cells) %}{% for cell in cells -%}
<span class="token {{ cell.side }}{{ ' mark' if cell.mark }}" style="--a: {{ cell.strength }}" title="{{ cell.hint }}">
{{- cell.text -}}</span>
{%- endfor %}{% endmacro %}"""

# Blue and orange are told apart by every kind of colour vision, differ in lightness, and the line under a token says
# the side once more.
STYLE = """
:root { color-scheme: light dark; --text: #1c1c1c; --page: #fff; --soft: #5f5f5f; --line: #ddd; --good: #1f5fbf;
  --bad: #a34a00; --up: 116 172 255; --down: 255 196 120; --up-line: 31 95 191; --down-line: 163 74 0; }
@media (prefers-color-scheme: dark) { :root { --text: #ececec; --page: #16181c; --soft: #a5a5a5; --line: #3a3d42;
  --good: #8ab8ff; --bad: #ffb066; --up: 30 84 172; --down: 134 74 8; --up-line: 138 184 255;
  --down-line: 255 176 102; } }
body { font: 16px/1.7 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem;
  color: var(--text); background: var(--page); }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-bottom: 0.25rem; }
.row { margin: 0.75rem 0; } .title { font-weight: 600; } .mean, .prompt { color: var(--soft); }
.mean { font-size: 0.875rem; } .text, .prompt { white-space: pre-wrap; overflow-wrap: anywhere; }
.token { border-radius: 2px; padding: 2px 0; -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.up { background: rgb(var(--up) / var(--a)); border-bottom: 2px solid rgb(var(--up-line) / var(--a)); }
.down { background: rgb(var(--down) / var(--a)); border-bottom: 2px dotted rgb(var(--down-line) / var(--a)); }
.mark { font-size: 0.75em; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem; align-items: baseline; } .legend span { padding: 2px 8px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0.75rem; }
.pictures img { width: 100%; border-radius: 6px; background: #fff; }
.pair, .prompts { border-top: 1px solid var(--line); margin: 1.5rem 0; padding-top: 0.5rem; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0.25rem 2rem; }
.figures { color: var(--soft); font-size: 0.875rem; } .right { color: var(--good); } .wrong { color: var(--bad); }
"""

SHELL = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{{ style }}</style></head><body>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}</body></html>
"""

KEY = """
<p>A token's colour is log π<sub>r</sub> − log π<sub>base</sub> in nats: how much likelier the reward model finds it
than the base does. Tokens above the median of this page are blue with a solid line, those below it orange with a dotted
one. Most values are below 0 on any text, because a reward model takes probability from all that it does not favour:
compare texts with one another. Hover over a token for its figures.</p>
<div class="legend">lowest 5%{% for step in legend %}
<span class="{{ step.side }}" style="--a: {{ step.strength }}">{{ step.value }}</span>
{%- endfor %} highest 5%</div>
"""
