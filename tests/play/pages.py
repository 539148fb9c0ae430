"""What tests read and press on the page."""

from __future__ import annotations

from typing import Any

FINISHED = "number => document.querySelector('#status').innerText.includes(`Run ${number} is finished`)"


def run(page: Any, number: int) -> None:
    """Press Run, and wait until the run of that number is finished."""
    page.click("#run")
    wait_for(page, number)


def wait_for(page: Any, number: int) -> None:
    page.wait_for_function(FINISHED, arg=number)


def text(page: Any, side: str) -> str:
    """The text on a side, "base" or "guided"."""
    return str(page.inner_text(f"#{side} .text"))


def slide(page: Any, control: str, value: float) -> None:
    """Move a slider to a value."""
    page.fill(f"#{control} input[type=range]", str(value))


def link(page: Any) -> str:
    return str(page.input_value("#link textarea, #link input"))
