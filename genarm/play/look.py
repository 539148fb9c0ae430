"""How the page looks: a theme of the system's own letters, so that nothing is fetched, and a little CSS."""

from __future__ import annotations

from typing import Any

import gradio as gr

LETTERS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
FIXED = ["ui-monospace", "Consolas", "monospace"]

CSS = """
.gradio-container { max-width: 1500px !important; margin: 0 auto; }
.side { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 10px 14px; min-height: 9em;
  background: var(--block-background-fill); }
.side h3 { margin: 0 0 6px; font-size: 1rem; color: var(--body-text-color); }
.side .text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75; font-size: 1.05rem;
  color: var(--body-text-color); }
.side .prompt { font-weight: 600; }
.side .figures, .legend, .about { color: var(--body-text-color); font-size: .875rem; margin-top: 6px; }
.caret { animation: blink 1s steps(2) infinite; }
@keyframes blink { 50% { opacity: 0; } }
@media (prefers-reduced-motion: reduce) { .caret { animation: none; } }
.status { min-height: 1.6em; color: var(--body-text-color); }
.status .error { border-left: 4px solid #d55e00; padding: 6px 10px; font-weight: 600;
  background: color-mix(in srgb, #d55e00 14%, transparent); }
.status .note { border-left: 4px solid #0072b2; padding: 4px 10px; }
.turns { max-height: 16em; overflow-y: auto; color: var(--body-text-color); }
.turns p { margin: 2px 0 8px; white-space: pre-wrap; overflow-wrap: anywhere; }
.plot figure { margin: 0; max-width: 640px; color: var(--body-text-color); }
.plot svg text { font-family: system-ui, sans-serif !important; }
.plot svg { width: 100%; height: auto; display: block; }
:focus-visible { outline: 2px solid #2b7de9 !important; outline-offset: 1px; }
"""


def theme() -> Any:
    """Gradio's plain theme without letters from elsewhere, and with words that can be read on either ground."""
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=LETTERS, font_mono=FIXED).set(
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
    )
