"""What happens on the page: runs that stream, links, examples, runs gone back to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from . import controls as made
from .board import Board
from .colours import pair_html
from .controls import Controls
from .links import address_of, link_to, opened
from .parts import Example, PageParts
from .plot import plot_svg
from .settings import CHAT, PlaySettings
from .worker import Worker, Workers
from .written import Writer

LOOK = 0.1  # seconds from one look at a run to the next
SETTLE = 0.25  # seconds for which a slider has to rest before it runs
REPLACE_ADDRESS = "link => { if (link) history.replaceState(null, '', link); }"
TOO_LONG = "These settings are too long for a link: forget the conversation, or shorten the prompt."
Update = list[Any]


def connect(
    page: Any, controls: Controls, parts: PageParts, workers: Workers, writer: Writer, examples: Sequence[Example]
) -> None:
    """Say what each control of the page does."""
    Events(page, controls, parts, workers, writer, examples).connect()


class Events:
    """The handlers of one page. Those that show texts have ``_shown`` as their outputs, in this order."""

    def __init__(
        self,
        page: Any,
        controls: Controls,
        parts: PageParts,
        workers: Workers,
        writer: Writer,
        examples: Sequence[Example],
    ) -> None:
        self._page, self._controls, self._parts = page, controls, parts
        self._workers, self._writer, self._examples = workers, writer, examples
        self._shown = [parts.status, parts.base, parts.guided, parts.legend, parts.plot, parts.runs, parts.link]
        self._asked = [parts.board, *controls.components()]
        self._filled = [*controls.components(), parts.group, parts.before]
        self._quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self._runs = self._quiet | {"trigger_mode": "multiple", "concurrency_limit": None}

    def connect(self) -> None:
        controls, parts = self._controls, self._parts
        gr.on([parts.run.click, controls.prompt.submit], self.run, self._asked, self._shown, **self._runs)
        moved = [one.input for one in (*controls.sliders.values(), controls.beta, controls.temperature)]
        gr.on(moved, self.move, [parts.live, *self._asked], self._shown, **self._runs)
        parts.stop.click(self.stop, None, None, queue=False, **self._quiet)
        self._page.unload(self.stop)
        gr.on(
            [one.input for one in (controls.colour, controls.over_base, controls.x, controls.y)],
            self.repaint,
            self._asked,
            self._shown,
            **self._quiet,
        )
        filled = self._filled
        parts.runs.input(self.go_back, [parts.runs, parts.board], [*self._shown, *filled], **self._quiet)
        parts.examples.click(self.take_example, [parts.examples, *self._asked], filled, **self._quiet).then(
            self.run, self._asked, self._shown, **self._runs
        )
        controls.mode.input(self.change_mode, controls.mode, [parts.group, controls.prompt], **self._quiet)
        talk = [controls.turns, controls.prompt, parts.before, parts.status]
        parts.keep.click(self.keep_answer, [parts.board, controls.turns], talk, **self._quiet)
        parts.forget.click(lambda: [(), gr.skip(), "", ""], None, talk, **self._quiet)
        parts.link.change(None, parts.link, None, js=REPLACE_ADDRESS, **self._quiet)
        self._page.load(self.open, None, [parts.status, parts.linked, *filled], **self._quiet).then(
            self.run_link, [parts.linked, *self._asked], self._shown, **self._runs
        )

    async def run(self, request: gr.Request, board: Board, *found: Any) -> AsyncGenerator[Update]:
        """Run what the controls say, and show it while it comes."""
        settings = made.settings(found, self._writer.names)
        worker = self._workers.start(request.session_hash, settings)
        async for update in self._follow(worker, board, address_of(request)):
            yield update

    async def move(self, request: gr.Request, live: bool, board: Board, *found: Any) -> AsyncGenerator[Update]:
        """A slider was moved: run once it rests. What runs ends at once."""
        if not live:
            yield self._nothing()
            return
        worker = self._workers.reserve(request.session_hash, made.settings(found, self._writer.names))
        await asyncio.sleep(SETTLE)
        if worker.is_replaced:
            yield self._nothing()
            return
        worker.start()
        async for update in self._follow(worker, board, address_of(request)):
            yield update

    async def run_link(self, request: gr.Request, linked: bool, board: Board, *found: Any) -> AsyncGenerator[Update]:
        """Run what a link asks for; a page that was opened without one waits for its user."""
        if linked:
            async for update in self.run(request, board, *found):
                yield update
        else:
            yield self._nothing()

    def stop(self, request: gr.Request) -> None:
        """End the page's run."""
        self._workers.stop(request.session_hash)

    def open(self, request: gr.Request) -> Update:
        """Take the settings of the link that the page was opened with. Without one the page stays as it is: its user
        may have begun to write."""
        settings, notes, linked = opened(dict(request.query_params), self._writer.defaults)
        if settings.base_min_p and not self._writer.has_base_min_p:
            settings = replace(settings, base_min_p=0.0)
            notes.append("The link's base_min_p is left out: this page's server has no such filter.")
        filled = self._fill(settings) if linked or notes else [gr.skip()] * len(self._filled)
        return [_note(" ".join(notes)), linked, *filled]

    def repaint(self, board: Board, *found: Any) -> Update:
        """Other colours and axes for what is there."""
        asked = made.settings(found, self._writer.names)
        texts = [gr.skip()] * 3
        if board.shown is not None:
            settings, pair = board.shown
            settings = replace(settings, colour=asked.colour, over_base=asked.over_base, axes=asked.axes)
            board.shown = settings, pair
            texts = list(pair_html(pair, settings, self._writer.names))
        plot = plot_svg(board.tried, asked.axes, board.current)
        return [gr.skip(), *texts, plot, gr.skip(), gr.skip()]

    def go_back(self, number: int, board: Board) -> Update:
        """Show a run of before, with its settings; what runs goes on unseen and is kept."""
        found = board.back_to(number)
        if found is None:
            return [gr.skip()] * (len(self._shown) + len(self._filled))
        texts = pair_html(found.pair, found.settings, self._writer.names)
        plot = plot_svg(board.tried, found.settings.axes, number)
        said = f"Run {number}, with its settings."
        return [said, *texts, plot, gr.skip(), gr.skip(), *self._fill(found.settings)]

    def take_example(self, place: int, board: Board, *found: Any) -> Update:
        """An example's prompt and weights; all else stays."""
        example = self._examples[place]
        settings = made.settings(found, self._writer.names)
        weights = {name: example.weights.get(name, 0.0) for name in self._writer.names}
        return self._fill(replace(settings, prompt=example.prompt, weights=weights))

    def change_mode(self, mode: str) -> Update:
        """Only a chat has a conversation."""
        return [gr.update(visible=mode == CHAT), gr.update(label="Message" if mode == CHAT else "Prompt")]

    def keep_answer(self, board: Board, turns: Sequence[Any]) -> Update:
        """The guided answer becomes a part of the conversation, and there is room for the next message."""
        if board.shown is None or not board.shown[1].guided.text.strip():
            skip = gr.skip()
            return [skip, skip, skip, _error("There is no answer to keep yet: run the message first.")]
        settings, pair = board.shown
        kept = (*(tuple(turn) for turn in turns), (settings.prompt, pair.guided.text.strip()))
        return [kept, "", _turns_html(kept), ""]

    async def _follow(self, worker: Worker, board: Board, address: str) -> AsyncGenerator[Update]:
        """A run as it goes on, until it is over or another takes its place."""
        skip, settings, names = gr.skip(), worker.settings, self._writer.names
        link = link_to(address, settings)
        seen = None
        while True:
            is_over, pair = worker.is_over, worker.pair
            if worker.is_replaced:  # Gradio shows the last update once more when a handler ends: it must say nothing
                yield self._nothing()
                return
            if pair is not seen or is_over:
                first, seen = seen is None, pair
                board.show(settings, pair)
                texts = pair_html(pair, settings, names)
                if is_over:
                    break
                yield [_writing(worker), *texts, skip, skip, link if first else skip]
            await asyncio.sleep(LOOK)
        if worker.error is not None:
            yield [_error(str(worker.error)), *texts, skip, skip, link]
            return
        if not pair.is_finished:
            yield ["Stopped. Only finished runs get a place in the plot.", *texts, skip, skip, link]
            return
        board.keep(settings, pair, names)
        plot = plot_svg(board.tried, settings.axes, board.current)
        choices = [(one.label(), one.number) for one in reversed(board.tried)]
        runs = gr.update(choices=choices, value=board.current)
        yield [f"Run {board.current} is finished." if link else _note(TOO_LONG), *texts, plot, runs, link]

    def _nothing(self) -> Update:
        """Leaves all as it is. A handler without any update would empty what it can show."""
        return [gr.skip()] * len(self._shown)

    def _fill(self, settings: PlaySettings) -> Update:
        """Values of all controls, and of what stands beside them in a chat."""
        values = made.values(settings)
        return [*values, gr.update(visible=settings.mode == CHAT), _turns_html(settings.turns)]


def _writing(worker: Worker) -> str:
    return "Writing…" if worker.pair.guided.tokens else "Waiting for the models…"


def _turns_html(turns: Sequence[Sequence[str]]) -> str:
    parts = (f"<p><b>You:</b> {escape(asked)}</p><p><b>Guided:</b> {escape(answer)}</p>" for asked, answer in turns)
    return "".join(parts)


def _error(text: str) -> str:
    return f"<div class='error' role='alert'>{escape(text)}</div>"


def _note(text: str) -> str:
    return f"<div class='note'>{escape(text)}</div>" if text else ""
