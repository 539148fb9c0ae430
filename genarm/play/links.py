"""Links to a page with its settings, and what a page is opened with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .settings import LONGEST_LINK, PlaySettings, from_query


def link_to(address: str, settings: PlaySettings) -> str:
    """A link to these settings; "" where they make one that browsers or servers cut, as a long conversation does."""
    query = settings.to_query()
    return "" if len(query) > LONGEST_LINK else f"{address}?{query}"


def opened(query: Mapping[str, str], defaults: PlaySettings) -> tuple[PlaySettings, list[str], bool]:
    """The settings a page is opened with, sentences about what its link says in vain, and whether it is a link to
    settings at all."""
    settings, notes = from_query(query, defaults)
    return settings, notes, "prompt" in query


def address_of(request: Any) -> str:
    """The page's address as its browser writes it, without settings, of Gradio's request: also behind a proxy, where
    the server's own is another."""
    for name in ("referer", "origin"):
        parts = urlsplit(request.headers.get(name) or "")
        if parts.scheme in ("http", "https") and parts.netloc:
            return f"{parts.scheme}://{parts.netloc}{parts.path or '/'}"
    return str(request.request.base_url)
