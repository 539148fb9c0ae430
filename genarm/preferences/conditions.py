"""COLUMN=VALUE on a command line: which rows of a file are meant."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidArgumentError


def conditions(texts: Iterable[str]) -> dict[str, str]:
    """{column: value} of every ``--where``; the text is split at its first equals sign.

    Raises:
        InvalidArgumentError: a text without column or equals sign, or a column named twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not column or not equals:
            raise InvalidArgumentError(f"--where {text!r} cannot be read: write COLUMN=VALUE")
        if column in found:
            raise InvalidArgumentError(f"--where names the column {column!r} twice: a row has one value of it")
        found[column] = value
    return found
