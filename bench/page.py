"""Parts of a page that a command writes: what stands between <!-- name --> and <!-- /name -->, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def write(page: Path, parts: Mapping[str, str]) -> None:
    """Put each part between its markers in the page; the file is left alone where the markers of one are missing."""
    text = page.read_text(encoding="utf-8")
    for name, content in parts.items():
        text = filled(text, name, content)
    page.write_text(text, encoding="utf-8")


def stale(page: Path, parts: Mapping[str, str]) -> list[str]:
    """The names of the parts that the page does not have as they are given."""
    text = page.read_text(encoding="utf-8")
    return [name for name, content in parts.items() if part(text, name) != content.strip()]


def part(text: str, name: str) -> str:
    """What stands between the markers of this name, without the space around it.

    Raises:
        ValueError: the markers are not there.
    """
    return _marked(text, name)[2].strip()


def filled(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of this name replaced.

    Raises:
        ValueError: the markers are not there.
    """
    found = _marked(text, name)
    content = f"{content.strip()}\n" if content.strip() else ""
    return text[: found.start()] + found[1] + content + found[3] + text[found.end() :]


def _marked(text: str, name: str) -> re.Match[str]:
    name = re.escape(name)
    found = re.search(rf"(<!-- {name} -->\n)(.*?)(<!-- /{name} -->)", text, re.DOTALL)
    if found is None:
        raise ValueError(f"there is no <!-- {name} --> … <!-- /{name} --> in the page")
    return found
