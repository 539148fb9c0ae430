"""Prompts on the command line: text as it is written on the standard output, and nothing else there."""

import io
import json
import os
import pty
import re
import sys

from genarm.cli.streaming import Reader
from genarm.runs.rows import Row


def test_texts_are_shown_in_order_and_alone(cli):
    found = cli.generate("hello [bold]", "", "ccc", "--prompt", "dd dd", "--max-new-tokens", 2, "--batch-size", 3)
    assert found.status == 1 and found.errors == ["genarm: prompt 2 failed: the prompt is empty: give it some text"]
    shown = re.findall(r"--- (\d) of 4 ---\n(hello \[bold\]|ccc|dd dd)", found.text)
    assert shown == [("1", "hello [bold]"), ("3", "ccc"), ("4", "dd dd")]
    rows = [json.loads(line) for line in cli.generate("ccc", "--json", "-n", 2).text.splitlines()]
    assert [(row["id"], row["sample"]) for row in rows] == [(1, 1), (1, 2)]
    one = cli.generate("ccc")
    assert one.text.rstrip("\n") == "ccc" + rows[0]["text"].replace("\x00", "") or "\ufffd" in one.text
    assert one.errors == []


def test_a_conversation_shows_the_answer_alone_and_figures_go_to_the_standard_error(cli):
    found = cli.generate("hi there", "--chat", "--max-new-tokens", 2, "--stats")
    assert found.status == 0 and "hi there" not in found.text and "---" not in found.text
    assert (
        found.errors[0].startswith("genarm: prompt 1: length, 2 tokens, log p: base −")
        and ", second −" in found.errors[0]
    )
    assert found.errors[1].startswith("genarm: 2 tokens in ")


def test_text_cannot_drive_the_terminal(cli):
    found = cli.generate("a\x1b[31m\x9bb\u200d\n\u00a0c", "--max-new-tokens", 1)
    assert found.text.startswith("a\ufffd[31m\ufffdb\u200d\n\u00a0c")


def test_a_later_text_waits_for_its_turn(capsys):
    reader = Reader(3, echo=True)
    first, second, third = (reader.add(Row(index, index, f"p{index}")) for index in range(3))

    def step(*texts):
        for text, piece, done in texts:
            text.waiting += piece
            text.done = done
        reader.show()
        return capsys.readouterr().out

    assert step((first, " a", False), (second, " b", False)) == "--- 1 of 3 ---\np0 a"
    assert step((first, "c", False), (second, "d\n", True)) == "c"
    third.failed = third.done = True
    assert step((first, "e", True)) == "e\n\n--- 2 of 3 ---\np1 bd\n"


def test_a_terminal_shows_text_and_no_more_as_it_comes(cli, own_process, monkeypatch):
    """On a terminal, and on a stream that has ASCII only."""
    arguments = ("naïve", "--max-new-tokens", 40, "--top-k", 40)
    terminal, inner = pty.openpty()
    with os.fdopen(inner, "w", encoding="utf-8") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        found = own_process(*arguments)
        screen.flush()
        text = os.read(terminal, 1 << 16).decode().replace("\r\n", "\n")
    os.close(terminal)
    assert (found.status, found.errors) == (0, []) and text.startswith("\x1b[1mnaïve\x1b[0m") and text.endswith("\n")
    plain = text.replace("\x1b[1m", "", 1).replace("\x1b[0m", "", 1)
    assert "\x1b" not in plain
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert own_process(*arguments).status == 0
    assert ascii_only.buffer.getvalue().decode() == "".join(letter if letter.isascii() else "?" for letter in plain)


def test_a_reader_who_has_enough_ends_the_command_quietly(cli, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

        def fileno(self):
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr(sys, "stderr", sys.stderr)  # typer puts wrappers there
    monkeypatch.setattr(sys, "stdout", Closed())
    found = cli.generate("hello")
    assert (found.status, found.errors) == (141, [])


def test_a_system_message_that_no_conversation_takes_is_named(cli):
    path = cli.file("in.jsonl", [{"prompt": "a", "system": "Be brief."}])
    told = ["genarm: the column system is kept and not read: with --chat it is the system message of a text prompt"]
    assert cli.generate("--input", path).errors[:-1] == told
    assert cli.generate("--input", path, "--chat").errors[:-1] == []


def test_a_column_is_the_system_message_of_a_conversation_that_has_none(cli):
    said, told = {"role": "user", "content": "a"}, {"role": "system", "content": "Be brief."}
    rows = [
        {"messages": [said], "system": "Be brief."},
        {"messages": [told, said], "system": "x"},
        {"messages": [said]},
    ]
    own = ["--temperature", 0, "--system", "Be kind."]
    first, second, third = cli.generate("--input", cli.file("in.jsonl", rows), *own).text.splitlines()
    sums = [json.loads(line)["logprob_sums"] for line in (first, second, third)]
    assert sums[0] == sums[1] != sums[2]
    empty = cli.generate("--input", cli.file("no.jsonl", [{"messages": [{"role": "user"}]}]))
    assert empty.status == 1 and "line 1 has a message without content" in empty.line
