"""A row's prompt -> token ids, by the base model's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArgumentError, PromptError
from ..request.text import PromptEncoder
from .rows import Row


@dataclass(frozen=True, slots=True)
class RowEncoder:
    """How the rows of a run are encoded: texts as they are, or under ``chat`` as a user's turn in the chat template;
    ``system`` is what every conversation begins with that has no system message of its own, in it or in a column.
    """

    encoder: PromptEncoder
    chat: bool = False
    system: str | None = None

    @classmethod
    def of(cls, tokenizer: Any, chat: bool, system: str | None) -> RowEncoder:
        """Raises InvalidArgumentError: there is no tokenizer, or, where one is asked for, no chat template that takes
        a user's turn."""
        if tokenizer is None:
            raise InvalidArgumentError(
                "the base model has no tokenizer beside it: put its tokenizer.json into the folder"
            )
        found = cls(PromptEncoder(tokenizer), chat, system)
        if chat:
            if not getattr(tokenizer, "chat_template", None):
                raise InvalidArgumentError(
                    "--chat: the base model's tokenizer has no chat template: leave --chat out, or put a "
                    "chat_template.jinja into its folder"
                )
            try:
                found.encode(Row(0, 1, "x"))
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"--chat: {error}") from error
        return found

    def encode(self, row: Row) -> list[int]:
        """The ids of its prompt.

        Raises:
            GenARMError: it is empty, or the chat template fails on it.
        """
        if not row.prompt:
            raise PromptError("the prompt is empty: give it some text")
        if isinstance(row.prompt, list):
            messages = [message for message in row.prompt if isinstance(message, Mapping)]
            return self._chat(messages, row) if messages else list(row.prompt)  # type: ignore[arg-type]
        if not self.chat:
            return self.encoder.text(row.prompt)
        return self._chat([{"role": "user", "content": row.prompt}], row)

    def _chat(self, messages: list[Any], row: Row) -> list[int]:
        own = row.columns.get("system")
        system = own if isinstance(own, str) else self.system
        if system is not None and not any(message["role"] == "system" for message in messages):
            messages = [{"role": "system", "content": system}, *messages]
        return self.encoder.chat(messages)
