"""The page's controls: settings become their values, and their values settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .settings import BETAS, CHAT, MOST_SEED, PROMPT, TEMPERATURES, PlaySettings, weight_range
from .written import BASE


@dataclass(frozen=True, slots=True)
class Controls:
    """Gradio components by the setting they hold; ``sliders`` are the weights, by reward model."""

    mode: Any
    system: Any
    turns: Any
    prompt: Any
    sliders: dict[str, Any]
    beta: Any
    temperature: Any
    base_min_p: Any
    new_tokens: Any
    seed: Any
    colour: Any
    over_base: Any
    x: Any
    y: Any

    def components(self) -> list[Any]:
        """All of them, in the order of ``values`` and ``settings``."""
        return [
            *(self.mode, self.system, self.turns, self.prompt, self.beta, self.temperature, self.base_min_p),
            *(self.new_tokens, self.seed, self.colour, self.over_base, self.x, self.y, *self.sliders.values()),
        ]


def values(settings: PlaySettings) -> list[Any]:
    """The value of each component."""
    s = settings
    return [
        *(s.mode, s.system, s.turns, s.prompt, s.beta, s.temperature, s.base_min_p),
        *(s.new_tokens, s.seed, s.colour, s.over_base, *s.axes, *s.weights.values()),
    ]


def settings(found: Sequence[Any], names: Sequence[str]) -> PlaySettings:
    """The settings that the components' values are; a number that was cleared is 0."""
    mode, system, turns, prompt, beta, temperature, base_min_p, new_tokens, seed, colour, over_base, x, y = found[:13]
    return PlaySettings(
        prompt=prompt or "",
        mode=mode,
        turns=tuple((asked, answer) for asked, answer in turns or ()),
        system=system or "",
        weights={name: float(weight or 0) for name, weight in zip(names, found[13:], strict=True)},
        beta=float(beta or 0),
        temperature=float(temperature or 0),
        base_min_p=float(base_min_p or 0),
        new_tokens=int(new_tokens or 0),
        seed=int(seed or 0),
        colour=colour,
        over_base=bool(over_base),
        axes=(x, y),
    )


def make_prompt(defaults: PlaySettings, has_chat_template: bool) -> dict[str, Any]:
    """What is asked: the mode, the conversation before, the prompt."""
    info = (
        None if has_chat_template else "This base has no chat template: a chat is written as lines User: and Assistant:"
    )
    mode = gr.Radio([("Go on from a prompt", PROMPT), ("Chat", CHAT)], value=defaults.mode, label="Mode", info=info)
    with gr.Group(visible=defaults.mode == CHAT) as group:
        system = gr.Textbox(defaults.system, label="System message (may be empty)", lines=1)
        before = gr.HTML("", label="Conversation so far", elem_classes="turns", padding=True)
        with gr.Row():
            keep = gr.Button("Keep the guided answer", size="sm")
            forget = gr.Button("Forget the conversation", size="sm")
    prompt = gr.Textbox(
        defaults.prompt, label="Prompt", lines=3, max_lines=12, info="Shift and Enter runs.", elem_id="prompt"
    )
    found = {"mode": mode, "system": system, "turns": gr.State(defaults.turns), "prompt": prompt}
    return {**found, "group": group, "before": before, "keep": keep, "forget": forget}


def make_weights(defaults: PlaySettings) -> dict[str, Any]:
    """A slider per reward model."""
    return {
        name: gr.Slider(
            *weight_range(weight),
            weight,
            step=0.05,
            label=f"Weight of {name}",
            elem_id=f"weight-{place}",
        )
        for place, (name, weight) in enumerate(defaults.weights.items())
    }


def make_draws(defaults: PlaySettings, most_tokens: int, has_base_min_p: bool) -> dict[str, Any]:
    """How tokens are drawn."""
    beta = gr.Slider(*BETAS, defaults.beta, step=0.05, label="β", info="Divides all weights.", elem_id="beta")
    temperature = gr.Slider(
        *TEMPERATURES, defaults.temperature, step=0.05, label="Temperature", info="0 is greedy.", elem_id="temperature"
    )
    with gr.Accordion("More settings", open=False):
        base_min_p = gr.Slider(
            0,
            0.5,
            defaults.base_min_p,
            step=0.01,
            label="base_min_p",
            info="Leaves out tokens that the base finds this much less likely than its favourite; 0 leaves out none.",
            visible=has_base_min_p,
        )
        new_tokens = gr.Slider(1, most_tokens, defaults.new_tokens, step=1, label="Most new tokens")
        seed = gr.Number(
            defaults.seed,
            precision=0,
            minimum=0,
            maximum=MOST_SEED,
            label="Seed",
            info="The same seed and settings write the same texts.",
        )
    found = {"beta": beta, "temperature": temperature, "base_min_p": base_min_p}
    return {**found, "new_tokens": new_tokens, "seed": seed}


def make_colours(defaults: PlaySettings) -> dict[str, Any]:
    """Which reward colours the tokens."""
    with gr.Row():
        colour = gr.Dropdown(
            list(defaults.weights), value=defaults.colour, label="Colour tokens by", min_width=160, elem_id="colour"
        )
        over_base = gr.Checkbox(
            defaults.over_base,
            label="less the base's own log-probability",
            info="How far the reward model favours a token beyond what the base does.",
            min_width=200,
        )
    return {"colour": colour, "over_base": over_base}


def make_axes(defaults: PlaySettings) -> dict[str, Any]:
    """What the plot shows."""
    choices = [*defaults.weights, (f"{BASE}: what it makes of the texts", BASE)]
    with gr.Row():
        x = gr.Dropdown(choices, value=defaults.axes[0], label="To the right", min_width=140, elem_id="x")
        y = gr.Dropdown(choices, value=defaults.axes[1], label="Upwards", min_width=140, elem_id="y")
    return {"x": x, "y": y}
