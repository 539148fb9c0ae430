"""Preference pairs to token ids: a prompt as it is decoded from, and two responses that end in EOS.

Prompt and response are tokenised apart, as they meet when text is generated: the prompt's tokens stand before the
response has any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

from rich.console import Console
from rich.progress import track

from ..errors import GenARMError, InvalidArgumentError
from ..request.text import PromptEncoder
from .chat import render, turn_ends
from .pair import PreferencePair
from .seams import Seams
from .texts import Message, Text
from .truncation import Truncation, check_max_length, lengths_within


class EncodedPair(TypedDict):
    """Token ids of a prompt and, without it, of the two responses; none of the three is empty. ``margin`` is the row's
    own: how far apart a trajectory reward model's two scores should be at least. ``objective``: the place of what the
    pair prefers among several objectives."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: NotRequired[float]
    objective: NotRequired[int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """``kept[i]`` is the index, among the pairs given, of the one that ``pairs[i]`` was made from. ``notes`` say in
    words what a reader of the texts would not expect of the tokens."""

    pairs: list[EncodedPair]
    kept: list[int]
    truncation: Truncation
    notes: list[str] = field(default_factory=list)


def encode_pairs(
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    max_length: int | None = None,
    progress: bool = False,
    extra_eos: Sequence[str] | None = None,
) -> Encoded:
    """Token ids of preference pairs, in order.

    A prompt in text begins with what the tokenizer itself puts before a text, exactly once (BOS for most, nothing for
    GPT-2's), a chat with what its template writes, BOS or not, as `apply_chat_template` has it; a prompt that would be
    empty is BOS, or EOS where there is no BOS, so that a response's first token has something before it. A prompt in
    text is read as the tokenizer reads any text, just as when it is decoded from, and so is a response in text: special
    tokens that are spelled out, as in what a chat template has rendered, are these tokens. In chat messages they stay
    text. A response ends in one EOS.

    Args:
        tokenizer: a Hugging Face tokenizer with an EOS token; with a chat template for pairs of chat messages.
        pairs: strings or chat messages, see `read_pairs`.
        max_length: most tokens of a prompt and a response together. Longer prompts lose their beginning (never BOS),
            down to half of it; then responses lose their end, EOS with it. Pairs whose responses are the same tokens
            are dropped. None cuts nothing.
        progress: show a progress bar on standard error.
        extra_eos: tokens that end a turn beside the tokenizer's EOS ("<|eot_id|>"): a response that ends in one keeps
            it.

    Raises:
        InvalidArgumentError: a tokenizer without EOS, chat messages that its template cannot render, a max_length
            without room; the pair is named by its file and row, or by its place, counted from 1.
    """
    encoder = Encoder(tokenizer, turn_ends(tokenizer) if extra_eos is None else extra_eos)
    check_max_length(max_length, len(encoder.start))
    encoded = Encoded([], [], Truncation())
    console = Console(stderr=True)
    listed = track(pairs, "encoding pairs", console=console, disable=not progress, transient=True)
    for index, pair in enumerate(listed):
        try:
            whole = encoder.pair(pair)
        except GenARMError as error:
            raise InvalidArgumentError(f"{pair.source or f'pair {index + 1}'}: {error}") from error
        cut = whole if max_length is None else _cut(whole, max_length, encoder.start, encoded.truncation)
        if cut["chosen_ids"] == cut["rejected_ids"]:
            encoded.truncation.pairs_dropped += 1
            continue
        encoded.pairs.append(cut)
        encoded.kept.append(index)
    encoded.notes.extend(encoder.notes())
    return encoded


def encode_response(tokenizer: Any, prompt: str, response: str, max_length: int | None = None) -> tuple[list[int], int]:
    """Token ids of BOS, prompt, response, EOS, and how many of them are prompt.

    What goes over ``max_length`` is cut from the front of the prompt; a response that does not fit is an error.
    """
    encoder = Encoder(tokenizer)
    before, after = encoder.prompt(prompt), encoder.response(response)
    over = 0 if max_length is None else len(before) + len(after) - max_length
    if over > len(before) - len(encoder.start):
        raise InvalidArgumentError(f"a response of {len(after)} tokens does not fit max length {max_length}: raise it")
    before = _without_front(before, max(over, 0), encoder.start)
    return before + after, len(before)


class Encoder:
    """One tokenizer's way with prompts and responses.

    Attributes:
        start: what it puts before every text, [BOS] or nothing.
        ends: the tokens that may end a response, by their text.
    """

    def __init__(self, tokenizer: Any, extra_eos: Sequence[str] = ()) -> None:
        if tokenizer.eos_token_id is None:
            raise InvalidArgumentError(
                "the tokenizer has no EOS token, which every response ends in: set its eos_token"
            )
        self.tokenizer = tokenizer
        self.seams = Seams()
        self.prompts = PromptEncoder(tokenizer)
        self.start = self.prompts.start
        self.ends: dict[str, int] = {tokenizer.eos_token: tokenizer.eos_token_id}
        for token in extra_eos:
            ids = self._as_template(token)
            if len(ids) != 1:
                raise InvalidArgumentError(
                    f"extra_eos: {token!r} is no single token of the tokenizer: check its spelling"
                )
            self.ends[token] = ids[0]
        self.special_ids = {self.tokenizer.convert_tokens_to_ids(token) for token in self.prompts.specials}
        self.spelled = 0

    def pair(self, pair: PreferencePair) -> EncodedPair:
        """All of a pair's tokens, uncut."""
        if isinstance(pair.prompt, str):
            if not (isinstance(pair.chosen, str) and isinstance(pair.rejected, str)):
                raise InvalidArgumentError("the prompt is a string, the responses are messages: write it as messages")
            self.seams.count(pair.prompt, pair.chosen)
            encoded = EncodedPair(
                prompt_ids=self.prompt(pair.prompt),
                chosen_ids=self.response(pair.chosen),
                rejected_ids=self.response(pair.rejected),
            )
            return _with_margin(encoded, pair)
        prompt_ids, chosen_ids = self._chat(pair.prompt, pair.chosen, pair.options)
        other_ids, rejected_ids = self._chat(pair.prompt, pair.rejected, pair.options)
        if prompt_ids != other_ids:
            raise InvalidArgumentError(
                "the chat template writes two prompts for the two responses: use a template that leaves earlier turns "
                "as they are, or pairs of strings"
            )
        encoded = EncodedPair(prompt_ids=prompt_ids, chosen_ids=chosen_ids, rejected_ids=rejected_ids)
        return _with_margin(encoded, pair)

    def prompt(self, text: str) -> list[int]:
        """BOS and the prompt, read as the tokenizer reads any text."""
        return self.prompts.text(text)

    def response(self, text: str) -> list[int]:
        """The response, read as the tokenizer reads any text, and one EOS; a BOS before it belongs to the prompt."""
        body, end = self._split_end(text)
        bos = self.tokenizer.bos_token
        while self.start and bos and body.startswith(bos):
            body = body[len(bos) :]
        ids = self.prompts.ids(body)
        self.spelled += any(token in self.special_ids for token in ids)
        return [*ids, end]

    def notes(self) -> list[str]:
        """What was seen in the texts so far that their writer may not have meant."""
        found = self.seams.notes()
        if self.spelled:
            found.append(
                f"{self.spelled} responses in text spell out special tokens, which are read as these tokens, as the "
                "tokenizer reads them"
            )
        return found

    def _chat(self, prompt: list[Message], response: Text, options: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        rendered = render(self.tokenizer, prompt, response, options)
        content = response if isinstance(response, str) else response[-1]["content"]
        body, end = self._split_end(self._turn(rendered.response, content))
        asked = [message["content"] for message in prompt]
        prompt_ids = self.prompts.rendered(rendered.prompt, asked)
        return prompt_ids or self.prompts.begun([]), [*self.prompts.rendered(body, [content]), end]

    def _turn(self, text: str, content: str) -> str:
        """A rendered response up to the token that ends it; what a template writes after that is no part of it."""
        own = text.find(content.strip()) + len(content.strip()) if content.strip() in text else 0
        ends = [place + len(token) for token in self.ends if (place := text.find(token, own)) >= 0]
        return text[: min(ends, default=len(text))]

    def _split_end(self, text: str) -> tuple[str, int]:
        """The text before the tokens that end it, and the first of those."""
        end = self.tokenizer.eos_token_id
        while True:
            stripped = text.rstrip()
            token = next((token for token in self.ends if stripped.endswith(token)), None)
            if token is None:
                return text, end
            text, end = stripped[: -len(token)], self.ends[token]

    def _as_template(self, text: str) -> list[int]:
        return self.prompts.ids(text, split_special_tokens=False)


def _with_margin(encoded: EncodedPair, pair: PreferencePair) -> EncodedPair:
    """The ids with the row's margin, where it has one."""
    value = pair.columns.get("margin")
    if value is None:
        return encoded
    try:
        margin = float(value)
    except (TypeError, ValueError):
        margin = math.nan
    if not math.isfinite(margin):
        raise InvalidArgumentError(f"margin is {value!r:.40}: write a number, or pass it by with --map margin=")
    return {**encoded, "margin": margin}


def _cut(pair: EncodedPair, max_length: int, start: Sequence[int], truncation: Truncation) -> EncodedPair:
    prompt, chosen, rejected = pair["prompt_ids"], pair["chosen_ids"], pair["rejected_ids"]
    kept, (of_chosen, of_rejected) = lengths_within(max_length, len(prompt), (len(chosen), len(rejected)))
    truncation.count(len(prompt) - kept, (len(chosen) - of_chosen, len(rejected) - of_rejected))
    return {
        **pair,
        "prompt_ids": _without_front(prompt, len(prompt) - kept, start),
        "chosen_ids": chosen[:of_chosen],
        "rejected_ids": rejected[:of_rejected],
    }


def _without_front(prompt: list[int], dropped: int, start: Sequence[int]) -> list[int]:
    """The prompt without its first tokens, but for BOS where it begins with one."""
    kept = len(start) if prompt[: len(start)] == list(start) else 0
    return prompt[:kept] + prompt[kept + dropped :]
