"""`genarm evaluate rewards`: one page of token rewards; errors in one line."""

import re

import pytest

from .test_evaluate_accuracy import PAIRS

REWARDS = ["evaluate", "rewards", "--device", "cpu", "--output"]


def test_the_command_writes_one_page_without_scripts(cli):
    page = cli.folder / "page.html"
    found = cli(*REWARDS, page, "--reward", "art", "--reward", "risk", "--data", cli.file("few.jsonl", PAIRS))
    assert found.status == 0
    assert re.search(r"art: [45] of 5 pairs ordered right", found.text) and str(page) in found.text
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;" in text and "http" not in text
    assert text.count('class="pair"') == 5 and text.count('class="side"') == 5 * 2 * 2
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--prompt", "I", "--chosen", " love painting", "--rejected", " love money"], '<div class="prompt">I</div>'),
        (["--data", "FILE", "--where", "kind=stance", "--limit", "1"], "boring"),
    ],
)
def test_one_given_or_chosen_pair_makes_a_page(cli, arguments, shown):
    page, file = cli.folder / "page.html", str(cli.file("few.jsonl", PAIRS))
    found = cli(*REWARDS, page, "--reward", "art", *(file if text == "FILE" else text for text in arguments))
    assert found.status == 0 and "art: 1 of 1 pairs" in found.text
    text = page.read_text(encoding="utf-8")
    assert text.count('class="pair"') == 1 and shown in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--data FILE", "give --reward"),
        ("--reward art --chosen a", "give --data FILE, or --chosen TEXT"),
        ("--reward art --chosen a --rejected a", "two texts that differ"),
        ("--reward art --data FILE --chosen a", "choose one of them"),
        ("--reward art --data no/such.jsonl", "no such file"),
    ],
)
def test_what_cannot_be_shown_is_one_line(cli, line, words):
    file = str(cli.file("few.jsonl", PAIRS))
    cli(*REWARDS, cli.folder / "page.html", *line.replace("FILE", file).split()).assert_refused(2, words)
