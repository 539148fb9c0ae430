"""The page itself: what stands where. What happens on it is in `events`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from . import controls as made
from .board import Board
from .controls import Controls
from .events import connect
from .parts import Example, PageParts
from .plot import plot_svg
from .worker import Workers
from .written import Writer


def build(writer: Writer, examples: Sequence[Example], most_tokens: int) -> Any:
    """The page over a writer, as Gradio's Blocks."""
    defaults = writer.defaults
    found: dict[str, Any] = {}
    with gr.Blocks(title="genarm play", analytics_enabled=False) as page:
        gr.Markdown(f"# genarm play\nChoose the weights of reward models by eye. {writer.about}", elem_classes="about")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                found |= made.make_prompt(defaults, writer.has_chat_template)
                with gr.Row():
                    found["run"] = gr.Button("Run", variant="primary", elem_id="run", min_width=100)
                    found["stop"] = gr.Button("Stop", elem_id="stop", min_width=100)
                found["sliders"] = made.make_weights(defaults)
                found |= made.make_draws(defaults, most_tokens, writer.has_base_min_p)
                found["live"] = gr.Checkbox(True, label="Run again as soon as a slider moves")
            with gr.Column(scale=5, min_width=300):
                found |= _texts()
                found |= made.make_colours(defaults)
                found |= _plot(found, defaults)
        found["examples"] = gr.Dataset(
            label="Examples",
            components=[found["prompt"]],
            samples=[[example.label()] for example in examples],
            layout="gallery",
            type="index",
            visible=bool(examples),
        )
        found |= {"board": gr.State(Board()), "linked": gr.State(False)}
        controls = Controls(**{name: found.pop(name) for name in Controls.__dataclass_fields__})
        connect(page, controls, PageParts(**found), Workers(writer), writer, list(examples))
    return page


def _texts() -> dict[str, Any]:
    status = gr.HTML("", elem_classes="status", elem_id="status")
    with gr.Row(equal_height=True):
        with gr.Column(min_width=260, elem_classes="side"):
            gr.HTML("<h3>Base alone</h3>")
            base = gr.HTML("", elem_id="base")
        with gr.Column(min_width=260, elem_classes="side"):
            gr.HTML("<h3>Guided</h3>")
            guided = gr.HTML("", elem_id="guided")
    return {"status": status, "base": base, "guided": guided, "legend": gr.HTML("", elem_classes="legend")}


def _plot(found: dict[str, Any], defaults: Any) -> dict[str, Any]:
    gr.Markdown("## What was tried")
    plot = gr.HTML(plot_svg((), defaults.axes, None), elem_classes="plot", elem_id="plot")
    axes = made.make_axes(defaults)
    runs = gr.Dropdown([], label="Go back to a run", elem_id="runs")
    link = gr.Textbox(
        "", label="Link to these settings", interactive=False, buttons=["copy"], lines=1, max_lines=2, elem_id="link"
    )
    return {"plot": plot, **axes, "runs": runs, "link": link}
