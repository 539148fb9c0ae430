"""A conversation as lines of text, for models whose tokenizer has no chat template."""

from __future__ import annotations

from collections.abc import Sequence

from .text import ChatMessage

NAMES = {"user": "User:", "assistant": "Assistant:"}
STOPS = tuple(f"\n{name}" for name in NAMES.values())  # before which an answer ends


def transcript(messages: Sequence[ChatMessage]) -> str:
    """The lines of a conversation up to where the assistant begins to speak. A system message stands before them by
    itself."""
    lines = [
        f"{message['content']}\n" if message["role"] == "system" else f"{NAMES[message['role']]} {message['content']}"
        for message in messages
    ]
    return "\n".join([*lines, NAMES["assistant"]])
