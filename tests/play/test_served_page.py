"""The page over a server, which answers from a script: what a user sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from guided_server import KEY, GuidedServer, chunk
from pages import run, slide, text, wait_for

Opener = Callable[..., Any]


class Script:
    """The base's words, or words that say the weight of art; ``refusal`` in their place where there is one."""

    refusal: tuple[int, Any] | None = None

    def __call__(self, body: dict[str, Any]) -> Any:
        return self.refusal or self.words(body)

    def words(self, body: dict[str, Any]) -> Iterator[Any]:
        numbers = body["vllm_xargs"]
        weight = numbers["weights.art"]
        told = [" plain", " words"] if not weight else [" art", f" {weight:g}"]
        for place, word in enumerate(told):
            yield chunk(word, [word], (-1.0 - place, -2.0 + weight, -3.0))
        yield chunk("", ["</s>"], reason="stop")


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def address(script: Script) -> Iterator[str]:
    pytest.importorskip("gradio", reason="genarm play needs Gradio: run make test-play")
    from genarm.play.connection import Connection
    from genarm.play.served import ServedWriter
    from genarm.play.server import launch
    from genarm.play.settings import PlaySettings

    with GuidedServer(script).running() as server:
        connection = Connection(server.address, KEY)
        model = connection.model()
        names = tuple(model.weights)
        defaults = PlaySettings(prompt="Once", weights=model.weights, colour=names[0], axes=names)
        writer = ServedWriter(connection, model, defaults, f"Server: {server.address}.", True)
        page, found = launch(writer, [], model.longest, "127.0.0.1", None)
        yield found
        page.close(verbose=False)


def test_a_slider_of_the_servers_reward_model_changes_the_text(visit: Opener, address: str) -> None:
    page = visit(address)
    run(page, 1)
    assert text(page, "base") == "Once plain words</s>" and text(page, "guided") == "Once art 1</s>"
    titles = page.eval_on_selector_all("#guided .text span[title]", "all => all.map(one => one.title)")
    assert titles[:2] == ["log π art -1.00, base -1.00 nats", "log π art -1.00, base -2.00 nats"]
    slide(page, "weight-0", 2.0)
    wait_for(page, 2)
    assert text(page, "guided") == "Once art 2</s>"
    assert page.get_attribute("#plot figure", "aria-label").startswith("Plot of 2 runs, art to the right and risk")
    assert [page.inner_text(f"#weight-{place} label") for place in range(2)] == ["Weight of art", "Weight of risk"]


def test_what_a_server_does_not_have_is_not_on_the_page(visit: Opener, address: str) -> None:
    page = visit(address, "?prompt=Once&base_min_p=0.1")
    wait_for(page, 1)
    page.get_by_text("More settings").click()
    page.get_by_text("Most new tokens").wait_for()
    assert page.get_by_text("base_min_p", exact=True).count() == 0


def test_a_refusal_is_said_and_the_page_goes_on(visit: Opener, address: str, script: Script) -> None:
    page = visit(address)
    script.refusal = (400, {"error": {"message": "this is <b>too</b> long"}})
    page.click("#run")
    page.wait_for_selector("#status .error")
    assert "The server says: this is <b>too</b> long" in page.inner_text("#status")
    script.refusal = None
    run(page, 1)
