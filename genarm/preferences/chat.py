"""A conversation through a tokenizer's chat template: the text before the response, and the response's own.

With it go the tokenizer that pairs are encoded with, the base's, and which tokens end a turn beside its EOS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from ..errors import InvalidArgumentError, LoadingError
from ..models.files import model_source
from ..models.loading import load_tokenizer
from .texts import Message, Text, shared_length

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
    for the model to continue, but not before a response that has none), it ends where the two part.

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


def turn_ends(tokenizer: Any) -> list[str]:
    """The other tokens that generation from the tokenizer's model stops at, such as Llama 3's <|eot_id|>.

    They are in the generation_config.json beside the tokenizer; none without one.
    """
    if not tokenizer.name_or_path:  # made in memory
        return []
    try:
        config = GenerationConfig.from_pretrained(model_source(tokenizer.name_or_path))
    except (OSError, ValueError):
        return []
    ids = config.eos_token_id
    listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return [tokenizer.decode([number]) for number in listed if number != tokenizer.eos_token_id]


def pair_tokenizer(base: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of ``base`` (a folder or hub id), with a padding token: its own, or its end of sequence.

    Raises:
        LoadingError: there is none.
        InvalidArgumentError: it has no end-of-sequence token.
    """
    tokenizer = load_tokenizer(base, trust_remote_code)
    if tokenizer is None:
        model_source(base)  # which says so where it is the model that is missing
        raise LoadingError(f"{base}: has no tokenizer, and texts must become ids: save one beside the model")
    if tokenizer.eos_token_id is None:
        raise InvalidArgumentError(
            f"{base}: its tokenizer has no end-of-sequence token, which every response ends in: set eos_token"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer
