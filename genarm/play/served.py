"""Writes with a running `genarm serve`: the base's own text and the guided one are two requests with one seed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidArgumentError, RunError
from ..request.transcript import STOPS, transcript
from ..serving.settings import ASK, WEIGHT
from .asked import check_prompt, messages
from .connection import Connection, ServedModel, StreamedAnswer
from .served_text import ServedText
from .settings import CHAT, PlaySettings
from .written import WrittenPair

IDLE = 0.5  # seconds after which a page may end a run that has nothing new
# What a server would otherwise take from the base's generation_config.json, which the page does not show.
PLAIN = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}

Said = tuple[int, Mapping[str, Any] | Exception | None]  # whose, and a choice, what went wrong, or None at the end


@dataclass(slots=True)
class ServedWriter:
    """Asks the server behind ``connection``, which serves ``model``."""

    connection: Connection
    model: ServedModel
    defaults: PlaySettings
    about: str
    has_chat_template: bool
    names: tuple[str, ...] = field(init=False)
    one_at_a_time: bool = False  # the server decodes all pages' runs in one batch
    has_base_min_p: bool = False

    def __post_init__(self) -> None:
        self.names = tuple(self.model.weights)

    def write(self, settings: PlaySettings) -> Generator[WrittenPair]:
        """See ``Writer``. Without weights both requests are the same, and so are the texts."""
        check_prompt(settings)
        if settings.base_min_p:
            raise InvalidArgumentError("The server has no base_min_p: set it to 0.")
        path, asked = self._asked(settings)
        plain = {**{WEIGHT + name: 0.0 for name in self.names}, "base_weight": 1.0}
        guided = {WEIGHT + name: settings.weights[name] for name in self.names} | {"beta": settings.beta}
        said: queue.Queue[Said] = queue.Queue()
        texts = [ServedText(self.names) for _ in range(2)]
        with ExitStack() as opened:
            for place, numbers in enumerate((plain, guided)):
                answer = self.connection.open(path, asked | {"vllm_xargs": {**numbers, ASK: True}})
                opened.enter_context(answer)
                threading.Thread(target=_read, args=(place, answer, said), name="genarm play", daemon=True).start()
            yield from _grown(said, texts)

    def _asked(self, settings: PlaySettings) -> tuple[str, dict[str, Any]]:
        """The path of both requests, and what they have in common."""
        asked: dict[str, Any] = {
            **PLAIN,
            "model": self.model.name,
            "max_tokens": settings.new_tokens,
            "temperature": settings.temperature,
        }
        if settings.temperature > 0:
            asked["seed"] = settings.seed
        if settings.mode == CHAT and self.has_chat_template:
            return "/v1/chat/completions", asked | {"messages": messages(settings), "logprobs": True}
        if settings.mode == CHAT:
            asked |= {"prompt": transcript(messages(settings)), "stop": list(STOPS)}
        else:
            asked["prompt"] = settings.prompt
        return "/v1/completions", asked | {"logprobs": 0}


def _read(place: int, answer: StreamedAnswer, said: queue.Queue[Said]) -> None:
    try:
        for choice in answer.choices():
            said.put((place, choice))
        said.put((place, None))
    except Exception as error:  # which the run's own thread raises
        said.put((place, error))


def _grown(said: queue.Queue[Said], texts: Sequence[ServedText]) -> Generator[WrittenPair]:
    """Both texts as they grow; now and then as they were, so that a run can be ended."""
    pair, open_ = WrittenPair(), len(texts)
    while open_:
        try:
            place, found = said.get(timeout=IDLE)
        except queue.Empty:
            yield pair
            continue
        if isinstance(found, Exception):
            raise found
        if found is None:
            open_ -= 1
            if not texts[place].is_over:
                raise RunError("the server's answer broke off before its end: see to the server, and run again")
            continue
        texts[place].push(found)
        pair = WrittenPair(*(text.written() for text in texts))
        yield pair
