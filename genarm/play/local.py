"""Writes with the models of this process: the base's own text and the guided one are two rows of one batch."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import genarm_kernels

from ..decoder import GuidedDecoder
from ..engine.batch import Batch
from ..errors import InvalidArgumentError
from ..request.detokenize import Pieces, TokenText
from ..request.output import GenerationOutput
from ..request.text import PromptEncoder
from ..request.transcript import STOPS, transcript
from .asked import check_prompt, messages
from .settings import CHAT, PlaySettings
from .written import WrittenPair, WrittenText, WrittenToken

ENDINGS = {"eos": "ended by itself", "length": "reached the most new tokens", "stop": "ended by itself"}


@dataclass(slots=True)
class LocalWriter:
    """Decodes with ``decoder``, which must have a tokenizer."""

    decoder: GuidedDecoder
    defaults: PlaySettings
    about: str
    names: tuple[str, ...] = field(init=False)
    has_chat_template: bool = field(init=False)
    one_at_a_time: bool = True  # pages would only slow one another down
    has_base_min_p: bool = True

    def __post_init__(self) -> None:
        if self.decoder.tokenizer is None:
            raise InvalidArgumentError(
                "the base model has no tokenizer beside it: put its tokenizer.json into the folder"
            )
        self.names = tuple(self.decoder.reward_names)
        self.has_chat_template = bool(getattr(self.decoder.tokenizer, "chat_template", None))

    def write(self, settings: PlaySettings) -> Generator[WrittenPair]:
        """See ``Writer``. Both rows have one seed: without weights the texts are the same."""
        check_prompt(settings)
        ids, stops = self._prompt(settings)
        request = self.decoder.prepare(
            [ids, ids],
            weights=[dict.fromkeys(self.names, 0.0), dict(settings.weights)],
            beta=settings.beta,
            temperature=settings.temperature,
            base_min_p=settings.base_min_p,
            max_new_tokens=settings.new_tokens,
            seed=genarm_kernels.row_seeds(settings.seed, 1).repeat(2),
            stop=stops or None,
            return_logprobs=True,
        )
        running = self.decoder.start(request)
        rows = [_Row(self.decoder.tokenizer, ids) for _ in range(2)]
        with running.steps() as steps:
            for step in steps:
                assert step.texts is not None
                for row, tokens, text in zip(rows, step.tokens, step.texts, strict=True):
                    row.push(tokens.tolist(), text)
                live = running.live_logprobs()
                if live is not None:
                    yield WrittenPair(*(row.written(values) for row, values in zip(rows, live, strict=True)))
        yield self._finished(rows, running)

    def _prompt(self, settings: PlaySettings) -> tuple[list[int], Sequence[str]]:
        """The ids that stand before an answer, and what ends one."""
        encoder = PromptEncoder(self.decoder.tokenizer)
        if settings.mode != CHAT:
            return encoder.text(settings.prompt), ()
        if self.has_chat_template:
            return encoder.chat(messages(settings)), ()
        return encoder.text(transcript(messages(settings))), STOPS

    def _finished(self, rows: Sequence[_Row], running: Batch) -> WrittenPair:
        output: GenerationOutput = running.output()
        for error in output.errors.values():
            raise error
        assert output.model_logprobs is not None
        pairs = zip(rows, output.model_logprobs, output.finish_reasons, strict=True)
        return WrittenPair(*(row.written(values, ENDINGS[reason]) for row, values, reason in pairs))


class _Row:
    """One text as it grows: the piece of each token, of which the last may wait for what a stop string hides."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._pieces = Pieces(TokenText(tokenizer), prompt)
        self._marks = _marks(tokenizer)
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._final = 0  # characters of the text that are final

    def push(self, tokens: Sequence[int], text: str) -> None:
        """New tokens, and the text that has become final with them."""
        self._ids += tokens
        self._texts += map(self._pieces.push, tokens)
        self._final += len(text)

    def written(self, values: Tensor, ending: str = "") -> WrittenText:
        """The row with its models' log-probabilities [n, M]. The end that a model drew is a token of its own."""
        texts = list(self._texts)
        if ending and texts:
            texts[-1] += self._pieces.rest()
        found, room = [], self._final
        for token, text, (base, *rewards) in zip(self._ids, texts, values.tolist(), strict=False):
            shown, mark = text[:room], self._marks.get(token, "")
            room -= len(shown)
            if shown or not text:
                found.append(WrittenToken(shown or mark, base, tuple(rewards), is_mark=not shown and bool(mark)))
        return WrittenText(tuple(found), ending)


def _marks(tokenizer: Any) -> Mapping[int, str]:
    ids = list(tokenizer.all_special_ids)
    return dict(zip(ids, map(str, tokenizer.convert_ids_to_tokens(ids)), strict=True))
