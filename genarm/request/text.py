"""Prompts in text or as chat messages -> token ids: one encoding for decoding, training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidArgumentError, PromptError

# {"role": …, "content": …}, and whatever else the tokenizer's template reads
ChatMessage = Mapping[str, Any]


class PromptEncoder:
    """One tokenizer's way with prompts.

    A text begins with what the tokenizer itself puts before a text, exactly once (BOS for most, nothing for GPT-2's),
    whether or not it was spelled out, as in what a chat template has rendered. What a tokenizer puts behind a text,
    such as EOS, is left out: a prompt goes on.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        start: what it puts before every text, [BOS] or nothing.
        specials: its special tokens, by their text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.start = text_start(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        self.specials = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)

    def text(self, text: str) -> list[int]:
        """Ids of a prompt in text. An empty one is BOS, or EOS where there is no BOS, so that something stands before
        what follows; nothing where there is neither."""
        ids, bos = self.ids(text), self.tokenizer.bos_token
        if self.start and bos and ids[: len(self.start)] != self.start:  # one that reads spelled-out tokens as text
            while text.startswith(bos):
                text = text[len(bos) :]
                ids = self.ids(text)
        return self.begun(ids)

    def chat(self, messages: Sequence[ChatMessage], **template: Any) -> list[int]:
        """Ids of a conversation through the tokenizer's chat template, up to where the assistant begins to speak.

        Where the last message is the assistant's, it is continued. The template alone says whether there is a BOS.
        Special tokens that a message spells out stay text. ``template``: further keywords of ``apply_chat_template``.

        Raises:
            InvalidArgumentError: no chat template, or one that fails on these messages.
        """
        text = render_chat(self.tokenizer, messages, **template)
        return self.rendered(text, [message.get("content") for message in messages]) or self.begun([])

    def rendered(self, text: str, contents: Sequence[object]) -> list[int]:
        """Ids of what a template rendered: its special tokens are tokens, and those in ``contents`` text."""
        texts = [content.strip() for content in contents if isinstance(content, str)]
        suspect = [content for content in texts if any(token in content for token in self.specials)]
        ids: list[int] = []
        for content in suspect:
            before, found, after = text.partition(content)
            if found:
                ids += self.ids(before, split_special_tokens=False) + self.ids(found, split_special_tokens=True)
                text = after
        return ids + self.ids(text, split_special_tokens=False)

    def begun(self, ids: list[int]) -> list[int]:
        """Ids of a text with the tokenizer's own start before them, once."""
        count = len(self.start)
        if not count or ids[:count] != self.start:
            ids = self.start + ids
        while count and ids[count : 2 * count] == self.start:
            ids = ids[count:]
        if ids:
            return ids
        ends = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return [token for token in ends if token is not None][:1]

    def ids(self, text: str, **options: bool) -> list[int]:
        """Ids of a text by itself. ``options``: further keywords of the tokenizer's call.

        Raises:
            PromptError: it holds half of a surrogate pair.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise PromptError(
                f"the text holds {half!r}, half of a surrogate pair, which is no text: repair it"
            ) from None
        # verbose would warn of texts over the tokenizer's own length, which is not the models'
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False, **options)["input_ids"]
        return ids


def render_chat(tokenizer: Any, messages: Sequence[ChatMessage], **template: Any) -> str:
    """A conversation as the tokenizer's chat template writes it before an answer, or before the rest of one."""
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidArgumentError(
            "chat messages were given and the tokenizer has no chat template: use the tokenizer of a chat model, set "
            "its chat_template, or pass the prompt as text"
        )
    roles = [str(message.get("role")) for message in messages]
    goes_on = roles[-1:] == ["assistant"]
    how = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on, **template}
    try:
        text: str = tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False, **how)
    except Exception as error:  # templates raise what they like
        raise InvalidArgumentError(
            f"the chat template fails on messages of {', '.join(roles)} ({error}): write the turns it knows, or repair "
            "it"
        ) from error
    return text


def text_start(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before any text by itself."""
    alone: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    places = range(len(whole) - len(alone) + 1)
    return next((whole[:place] for place in places if whole[place : place + len(alone)] == alone), [])
