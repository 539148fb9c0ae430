"""How rows become pairs where the rows leave it open: settings, and the same from a command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from string import Formatter
from typing import Any

from ..errors import InvalidArgumentError

PREFERENCES = ("better", "safer")


@dataclass(frozen=True, slots=True)
class PairReading:
    """What `read_pairs` is told about rows.

    Attributes:
        columns: {"prompt": "question"} reads the column question as prompt; {"system": ""} leaves system unread.
        prompt_template: a text with columns in braces ("Q: {question}\\nA:") that every prompt in text is written by.
        chat: prompts in text are a user's turn of the chat template, responses the assistant's.
        response_marker: the text that stands before a response in rows without a prompt of their own ("### Reply:").
        preference: "better" or "safer", where rows hold both labels (PKU-SafeRLHF).
        skip_bad_rows: leave rows that are no pair out with a warning, instead of refusing them all.

    Raises:
        InvalidArgumentError: settings that contradict each other or cannot be read.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    prompt_template: str | None = None
    chat: bool = False
    response_marker: str | None = None
    preference: str | None = None
    skip_bad_rows: bool = False

    def __post_init__(self) -> None:
        if self.preference not in (None, *PREFERENCES):
            raise InvalidArgumentError(f"the preference {self.preference!r} is unknown: choose better or safer")
        if self.prompt_template is not None:
            if self.chat:
                raise InvalidArgumentError("a prompt template and chat were both asked for: choose one of them")
            if not template_columns(self.prompt_template):
                raise InvalidArgumentError(
                    f"the prompt template {self.prompt_template!r} names no column: write one in braces, as in "
                    "'Q: {prompt}\\nA:'"
                )
        if self.response_marker == "":
            raise InvalidArgumentError("the response marker is empty: write the text that stands before a response")

    def as_record(self) -> dict[str, Any]:
        """The settings that differ from the defaults, for a run's record."""
        found = {**asdict(self), "columns": dict(self.columns)}
        return {name: value for name, value in found.items() if value not in (None, False, {})}


def template_columns(template: str) -> list[str]:
    """The columns that a prompt template names in braces; {{ and }} are braces themselves."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InvalidArgumentError(
            f"the prompt template {template!r} cannot be read ({error}): name columns in braces, and write {{{{ and "
            "}} for braces themselves"
        ) from None
    names = [name for _, name, _, _ in parts if name is not None]
    if any(not name or spec or conversion for _, name, spec, conversion in parts if name is not None):
        raise InvalidArgumentError(
            f"the prompt template {template!r} holds braces that name no column: write {{{{ and }}}} for braces "
            "themselves"
        )
    return names


def pair_reading(
    maps: Iterable[str] = (),
    prompt_column: str | None = None,
    prompt_template: str | None = None,
    chat: bool = False,
    response_marker: str | None = None,
    preference: str | None = None,
    skip_bad_rows: bool = False,
) -> PairReading:
    """The settings from a command line; ``\\n`` and ``\\t`` in a template or marker are a line break and a tab.

    Raises:
        InvalidArgumentError: a --map that cannot be read, a column mapped twice, settings that contradict each other.
    """
    columns = assignments("--map", maps, "COLUMN=COLUMN")
    if prompt_column is not None:
        if "prompt" in columns:
            raise InvalidArgumentError("--prompt-column and --map prompt=... were both given: choose one of them")
        columns["prompt"] = prompt_column
    return PairReading(
        columns=columns,
        prompt_template=_unescaped(prompt_template),
        chat=chat,
        response_marker=_unescaped(response_marker),
        preference=preference,
        skip_bad_rows=skip_bad_rows,
    )


def conditions(texts: Iterable[str]) -> dict[str, str]:
    """{column: value} of every ``--where``; the text is split at its first equals sign.

    Raises:
        InvalidArgumentError: a text without column or equals sign, or a column named twice.
    """
    return assignments("--where", texts, "COLUMN=VALUE")


def assignments(option: str, texts: Iterable[str], form: str) -> dict[str, str]:
    """{left: right} of a repeatable option's values, each split at its first equals sign."""
    found: dict[str, str] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not column or not equals:
            raise InvalidArgumentError(f"{option} {text!r} cannot be read: write {form}")
        if column in found:
            raise InvalidArgumentError(f"{option} names the column {column!r} twice: a row has one value of it")
        found[column] = value
    return found


def _unescaped(text: str | None) -> str | None:
    return None if text is None else text.replace("\\n", "\n").replace("\\t", "\t")
