"""Drafts from the command line: the same texts, what is said of them, runs that resume, and what is refused."""

import io
import json
import sys

import pytest

from genarm import GuidedDecoder
from genarm.request.drafts import MOST
from genarm.request.speculation import read_speculation
from genarm.runs.rows import COUNTS

ROWS = [{"id": f"row {index}", "prompt": "so it goes " * (1 + index % 3)} for index in range(5)]


@pytest.mark.parametrize("draft", ["ngram", "model"])
def test_rows_are_those_without_and_say_what_came_of_the_drafts(cli, draft):
    source = cli.file("in.jsonl", ROWS)
    run = ["--input", source, "--output", cli.output, "--temperature", 0.5]
    assert cli.generate(*run).status == 0
    plain = cli.rows()
    drafts = ["--speculate", cli.models / "base" if draft == "model" else draft, "--gamma", 3]
    found = cli.generate(*run, "--overwrite", *drafts)
    rows = cli.rows()
    assert found.status == 0 and all(rows[name]["text"] == row["text"] for name, row in plain.items())
    for row in rows.values():
        drafted, accepted, steps = (row[name] for name in COUNTS)
        assert 0 <= accepted <= drafted <= 3 * steps
        assert row["token_count"] <= 1 + steps + accepted, "the prompt's pass gives the first"
    drafted, accepted, steps = (sum(row[name] for row in rows.values()) for name in COUNTS)
    words = f"{drafted} drafted, {accepted} accepted in {steps} steps (mean accepted length {1 + accepted / steps:.2f})"
    assert found.errors[-1].endswith(words) and (drafted or draft == "ngram")
    assert all(name not in row for name in COUNTS for row in plain.values())


def test_a_run_resumes_with_the_same_drafts_alone(cli):
    source = cli.file("in.jsonl", ROWS)
    run = ["--input", source, "--output", cli.output, "--speculate", cli.models / "base"]
    assert cli.generate(*run).status == 0
    whole = cli.output.read_bytes()
    cli.output.write_bytes(whole[: len(whole) // 2])
    assert cli.generate(*run).status == 0 and cli.output.read_bytes() == whole
    settings = json.loads((cli.folder / "out.jsonl.meta.json").read_text())["settings"]
    assert settings["content of the draft model"].startswith("sha256:")
    other = cli.generate(*run, "--gamma", 2)
    assert other.status == 1 and "speculate" in other.line


def test_a_reader_gets_the_text_and_figures_on_request(cli):
    plain = cli.generate("so it goes so it goes", "--max-new-tokens", 12)
    found = cli.generate("so it goes so it goes", "--max-new-tokens", 12, "--speculate", "ngram", "--stats")
    assert found.status == 0 and found.text == plain.text
    assert all("drafted" in line and "mean accepted length" in line for line in found.errors) and len(found.errors) == 2


def test_a_conversation_says_the_same(cli, monkeypatch):
    lines = ["--base", cli.models / "base", f"--reward=first={cli.models / 'first'}:1", "--max-new-tokens", 8]
    found = []
    for drafts in ([], ["--speculate", "ngram", "--gamma", "auto"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("hi hi hi hi\nand you?\n"))
        found.append(cli("chat", *lines, *drafts))
    assert found[0] == found[1] and found[0].status == 0 and found[0].text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gamma", "3"], "--gamma is about drafts: give --speculate too"),
        (["--speculate", "ngram", "--gamma", "0"], "--gamma is '0': give a whole number from 1 to 7, or auto"),
        (["--speculate", "ngram", "--gamma", str(MOST + 1)], "--gamma is '8'"),
        (["--speculate", "ngram", "--gamma", "some"], "--gamma is 'some'"),
        (["--speculate", "/nowhere/draft"], "/nowhere/draft"),
        (["--speculate", "ngram", "--particles", "2"], "choose one of them"),
    ],
)
def test_what_is_wrong_with_them_is_said_before_models_are_loaded(cli, monkeypatch, arguments, words):
    monkeypatch.setattr(GuidedDecoder, "from_pretrained", pytest.fail)
    found = cli.generate("x", *arguments)
    assert found.status in (1, 2) and words in found.line


def test_what_cannot_draft_here_is_refused_before_anything_is_written(cli):
    source = cli.file("in.jsonl", [{"prompt": "x", "speculate": "ngram"}])
    run = ["--input", source, "--output", cli.output]
    cli.generate(*run, "--speculate", "reward").assert_refused(2, "weights of its own")
    assert not cli.output.exists()
    assert cli.generate(*run).status == 1 and "use the option --speculate" in cli.rows()[1]["error"]
    assert read_speculation({"draft": "ngram", "gamma": MOST}).gamma == MOST
