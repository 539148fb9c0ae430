"""Runs that the test lets go on token by token: what is to be seen while they last, and what ends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from pages import slide, text, wait_for

from genarm import InvalidArgumentError
from genarm.play.settings import PlaySettings
from genarm.play.written import WrittenPair, WrittenText, WrittenToken

WORDS = (" one", " two", " three")


class Scripted:
    """Writes ``WORDS`` and its weight, a token for each step that the test allows."""

    names = ("r",)
    defaults = PlaySettings(prompt="Count:", weights={"r": 1.0}, colour="r", axes=("r", "base"))
    about = "Scripted."
    one_at_a_time = False
    has_chat_template = True
    has_base_min_p = True

    def __init__(self) -> None:
        self.allowed = [threading.Semaphore(0) for _ in range(3)]  # of each run
        self.begun = self.closed = 0
        self.error: Exception | None = None

    def write(self, settings: PlaySettings) -> Generator[WrittenPair]:
        allowed, self.begun = self.allowed[self.begun], self.begun + 1
        try:
            tokens: tuple[WrittenToken, ...] = ()
            for word in (*WORDS, f" {settings.weights['r']:g}"):
                allowed.acquire()
                if self.error is not None:
                    raise self.error
                tokens += (WrittenToken(word, -1.0, (-2.0,)),)
                yield WrittenPair(WrittenText(tokens), WrittenText(tokens))
            yield WrittenPair(WrittenText(tokens, "ended"), WrittenText(tokens, "ended"))
        finally:
            self.closed += 1

    def allow(self, steps: int, run: int = 0) -> None:
        self.allowed[run].release(steps)


@pytest.fixture
def writer() -> Scripted:
    return Scripted()


@pytest.fixture
def page(visit: Callable[..., Any], writer: Scripted) -> Iterator[Any]:
    pytest.importorskip("gradio", reason="genarm play needs Gradio: run make test-play")
    from genarm.play.server import launch

    served, address = launch(writer, [], 64, "127.0.0.1", None)
    yield visit(address)
    for run in range(len(writer.allowed)):
        writer.allow(100, run)
    served.close(verbose=False)


def until(page: Any, words: str) -> None:
    page.wait_for_function("words => document.querySelector('#status').innerText.includes(words)", arg=words)


def test_texts_grow_while_they_are_written(page: Any, writer: Scripted) -> None:
    page.click("#run")
    until(page, "Waiting for the models")
    for count in (1, 2):
        writer.allow(1)
        page.wait_for_function(f"document.querySelectorAll('#guided .text span[title]').length == {count}")
        assert text(page, "guided") == "Count:" + "".join(WORDS[:count]) + "▍" == text(page, "base")
    writer.allow(2)
    wait_for(page, 1)
    assert text(page, "guided") == "Count: one two three 1"


def test_a_run_that_is_stopped_has_no_point(page: Any, writer: Scripted) -> None:
    page.click("#run")
    writer.allow(1)
    page.wait_for_selector("#guided .text span[title]")
    page.click("#stop")
    page.wait_for_timeout(200)
    writer.allow(1)  # a run ends after the step it is in
    until(page, "Stopped")
    assert text(page, "guided").startswith("Count: one") and writer.closed == 1
    assert "Nothing was tried yet" in page.inner_text("#plot")


def test_a_slider_moved_ends_the_run_before(page: Any, writer: Scripted) -> None:
    page.click("#run")
    writer.allow(1)
    page.wait_for_selector("#guided .text span[title]")
    slide(page, "weight-0", 2.0)
    writer.allow(4, run=1)
    wait_for(page, 1)
    writer.allow(1)  # it ends after the step it is in, and has nothing more to say
    page.wait_for_timeout(500)
    assert text(page, "guided") == "Count: one two three 2" and writer.closed == 2
    assert "Run 1 is finished" in page.inner_text("#status")
    assert page.get_attribute("#plot figure", "aria-label").startswith("Plot of 1 run,")


def test_a_closed_page_ends_its_run(page: Any, writer: Scripted) -> None:
    page.click("#run")
    writer.allow(1)
    page.wait_for_selector("#guided .text span[title]")
    page.close()
    time.sleep(2.0)  # until the server has noticed
    writer.allow(1)  # one step at most is decoded for nobody
    time.sleep(0.5)
    assert writer.closed == 1


@pytest.mark.parametrize("error", [InvalidArgumentError("weights are <b>wrong</b>"), ZeroDivisionError("of a model")])
def test_an_error_is_said_and_the_page_goes_on(page: Any, writer: Scripted, error: Exception) -> None:
    writer.error = error
    writer.allow(1)
    page.click("#run")
    page.wait_for_selector("#status .error")
    assert str(error) in page.inner_text("#status")
    writer.error = None
    writer.allow(4, run=1)
    page.click("#run")
    wait_for(page, 1)
