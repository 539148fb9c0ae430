"""A conversation through a tokenizer's chat template: the text before the response, and the response's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArgumentError
from .pairs import Message, Text, shared_length

NO_TEMPLATE = (
    "the pairs are chat messages and the tokenizer has no chat template: use the tokenizer of a chat model, put a "
    "chat_template.jinja beside it, or write prompt, chosen and rejected as strings"
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the template writes it, up to where the assistant begins to speak, and what it writes after that."""

    prompt: str
    response: str


def render(tokenizer: Any, prompt: list[Message], response: Text) -> Rendered:
    """Apply the chat template to a prompt, and to the prompt with its response.

    The prompt is rendered as for generation. Where the whole does not begin with that (a template that opens a thought
    for the model to go on with, but not before a response that has none), it ends where the two part.

    Raises:
        InvalidArgumentError: no chat template, or one that fails, or that rewrites the prompt's turns when a response
            follows them, so that there is no prompt to speak of.
    """
    answer = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
    before = _apply(tokenizer, prompt, add_generation_prompt=True)
    whole = _apply(tokenizer, [*prompt, *answer], add_generation_prompt=False)
    if whole.startswith(before):
        return Rendered(before, whole[len(before) :])
    turns = _apply(tokenizer, prompt, add_generation_prompt=False).rstrip()
    cut = min(shared_length(before, whole), whole.rfind(answer[-1]["content"].strip()))
    if cut < len(turns) or not whole.startswith(turns):
        raise InvalidArgumentError(
            "the chat template writes the prompt or the response otherwise once the one follows the other, so that the "
            "response's tokens cannot be told apart: use a template that leaves turns as they are, or pairs of strings"
        )
    return Rendered(whole[:cut], whole[cut:])


def _apply(tokenizer: Any, messages: list[Message], add_generation_prompt: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidArgumentError(NO_TEMPLATE)
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # templates raise what they like
        roles = ", ".join(message["role"] for message in messages)
        raise InvalidArgumentError(
            f"the chat template fails on messages of {roles} ({error}): write the turns it knows, or repair it"
        ) from error
    return text
