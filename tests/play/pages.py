"""What tests read and press on the page."""

from __future__ import annotations

from typing import Any

FINISHED = "number => document.querySelector('#status')?.innerText.includes(`Run ${number} is finished`)"


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


# The luminances of an element's letters and of the first ground behind them that is not see-through, as WCAG has them.
LUMINANCES = """element => {
    const parts = colour => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
    const style = getComputedStyle(element);
    const ink = luminance(parts(element.ownerSVGElement ? style.fill : style.color));
    for (let place = element; place; place = place.parentElement) {
        const ground = parts(getComputedStyle(place).backgroundColor);
        if ((ground[3] ?? 1) === 1) return [ink, luminance(ground)];
    }
    return [ink, 1];
}"""


def contrast(page: Any, part: str) -> float:
    """The contrast of a part's letters to their ground, 1 to 21."""
    low, high = sorted(page.eval_on_selector(part, LUMINANCES))
    return float((high + 0.05) / (low + 0.05))
