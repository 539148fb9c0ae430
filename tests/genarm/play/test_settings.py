"""Settings as links, and what a link cannot say."""

from __future__ import annotations

from types import SimpleNamespace
from urllib.parse import parse_qsl

import pytest

from genarm.play.links import address_of, link_to, opened
from genarm.play.settings import CHAT, PlaySettings, from_query

DEFAULTS = PlaySettings(
    prompt="Once", weights={"a b": 1.0, "c&d": 0.0}, seed=3, new_tokens=20, colour="a b", axes=("a b", "base")
)


def test_a_link_says_every_setting() -> None:
    settings = PlaySettings(
        prompt="50% of\n“x” & <y> + z",
        mode=CHAT,
        turns=(("hi?", "ho & so"), ("1\n2", "é")),
        system="be = kind",
        weights={"a b": -1.25, "c&d": 0.3},
        beta=0.35,
        temperature=0.0,
        base_min_p=0.02,
        new_tokens=7,
        seed=2**31 - 1,
        colour="c&d",
        over_base=False,
        axes=("c&d", "a b"),
    )
    link = link_to("http://here/", settings)
    found, notes, linked = opened(dict(parse_qsl(link.partition("?")[2], keep_blank_values=True)), DEFAULTS)
    assert linked and notes == []
    assert found == settings


def test_what_a_link_does_not_say_is_the_pages_own() -> None:
    assert from_query({"__theme": "dark", "weight.c&d": "2"}, DEFAULTS)[0].weights == {"a b": 1.0, "c&d": 2.0}
    assert opened({"__theme": "dark"}, DEFAULTS) == (DEFAULTS, [], False)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("weight.e", "1", "weighs e"),
        ("weight.a b", "nan", "weight.a b"),
        ("weight.a b", "1e9", "beyond 4"),
        ("beta", "0", "beyond 0.1"),
        ("temperature", "hot", "'hot'"),
        ("seed", "-1", "beyond 0"),
        ("new_tokens", "1e400", "new_tokens"),
        ("mode", "sing", "prompt, chat"),
        ("turns", '[["alone"]]', "turns"),
        ("turns", "[[1, 2]]", "turns"),
        ("turns", "{", "turns"),
        ("colour", "e", "a b, c&d"),
        ("x", "e", "a b, c&d, base"),
        ("over_base", "yes", "over_base"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(key: str, value: str, said: str) -> None:
    found, notes = from_query({key: value, "prompt": "kept"}, DEFAULTS)
    assert len(notes) == 1 and said in notes[0]
    assert found.prompt == "kept" and from_query(dict(parse_qsl(found.to_query())), DEFAULTS)[1] == []


def test_a_link_that_would_be_cut_is_none() -> None:
    assert link_to("http://here/", PlaySettings(prompt="é" * 1500, weights={})) == ""


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        (
            {"referer": "https://far.example/play/?prompt=x", "origin": "https://far.example"},
            "https://far.example/play/",
        ),
        ({"origin": "https://far.example"}, "https://far.example/"),
        ({"origin": "null"}, "http://127.0.0.1:7860/"),
        ({}, "http://127.0.0.1:7860/"),
    ],
)
def test_a_link_leads_to_where_the_browser_is(headers: dict[str, str], address: str) -> None:
    request = SimpleNamespace(headers=headers, request=SimpleNamespace(base_url="http://127.0.0.1:7860/"))
    assert address_of(request) == address
