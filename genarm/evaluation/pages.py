"""What the pages of token rewards share: coloured tokens, the legend, the look in light and in dark.

A page is one file: no script, nothing from a network. Whatever comes from models or data is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import DictLoader, Environment

# The difference, in nats, at which the colour is full.
FULL = 4.0


def strength(value: float) -> float:
    """How full the colour of a difference is: -1 (all orange) to 1 (all green); 0 for NaN, which has no colour."""
    return max(-1.0, min(1.0, value / FULL)) if value == value else 0.0


def cells(
    tokens: Sequence[str], rewards: Sequence[float], base: Sequence[float], marks: Mapping[int, str] | None = None
) -> list[dict[str, Any]]:
    """What the page shows of each token; ``marks`` stand in place of tokens without text, by their number."""
    found = []
    for number, (token, reward, own) in enumerate(zip(tokens, rewards, base, strict=True)):
        mark = (marks or {}).get(number)
        found.append(
            {
                "text": token if mark is None else mark,
                "mark": mark is not None,
                "hint": f"log π_r {reward:.2f}, log π_base {own:.2f}, difference {reward - own:+.2f}",
                **_look(reward - own),
            }
        )
    return found


def render(body: str, title: str, **values: Any) -> str:
    """A page around ``body``, a jinja2 template that may use the macro ``tokens(cells)``."""
    environment = Environment(loader=DictLoader({"shell": SHELL, "tokens": TOKENS}), autoescape=True)
    template = '{% extends "shell" %}{% from "tokens" import tokens %}{% block body %}' + body + "{% endblock %}"
    legend = [{"value": f"{value:+d}" if value else "0", **_look(value)} for value in range(-4, 5)]
    return environment.from_string(template).render(title=title, legend=legend, **values)


def _look(value: float) -> dict[str, str]:
    share = strength(value)
    return {"side": "up" if share > 0 else "down", "strength": f"{abs(share):.2f}"}


TOKENS = """{% macro tokens(cells) %}{% for cell in cells -%}
<span class="token {{ cell.side }}{{ ' mark' if cell.mark }}" style="--a: {{ cell.strength }}" title="{{ cell.hint }}">
{{- cell.text -}}</span>
{%- endfor %}{% endmacro %}"""

SHELL = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --text: #1c1c1c; --page: #fff; --soft: #5f5f5f; --line: #ddd; --good: #1b7f3b;
  --bad: #b3470b; --up: 86 196 120; --down: 240 148 88; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --page: #16181c; --soft: #a5a5a5; --line: #3a3d42;
  --good: #6fd08c; --bad: #f0a070; --up: 24 110 58; --down: 150 70 20; } }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: var(--text);
  background: var(--page); }
.row { margin: 1rem 0; } .title { font-weight: 600; } .mean, .prompt { color: var(--soft); }
.text, .prompt { white-space: pre-wrap; overflow-wrap: anywhere; }
.token { border-radius: 3px; padding: 2px 0; }
.up { background: rgb(var(--up) / var(--a)); } .down { background: rgb(var(--down) / var(--a)); }
.mark { font-size: 0.75em; }
.legend span { padding: 2px 8px; }
.pair { border-top: 1px solid var(--line); margin: 1.5rem 0; padding-top: 0.5rem; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0.25rem 2rem; }
.figures { color: var(--soft); font-size: 0.875rem; } .right { color: var(--good); } .wrong { color: var(--bad); }
</style></head><body>
<h1>{{ title }}</h1>
<p>Each token is coloured by log π<sub>r</sub> − log π<sub>base</sub> in nats: green where the reward model favours it
beyond what the base does, orange where it does not. Hover over a token for the figures.</p>
<p class="legend">{% for step in legend %}
<span class="{{ step.side }}" style="--a: {{ step.strength }}">{{ step.value }}</span>{% endfor %}</p>
{% block body %}{% endblock %}</body></html>
"""
