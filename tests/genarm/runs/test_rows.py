"""Inputs: what becomes a row, and what is said about the lines that do not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from genarm.errors import RunError
from genarm.runs.rows import Row, prompt_rows, read_input


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_plain_text_is_a_prompt_a_line_and_a_last_newline_is_none(write) -> None:
    found = read_input(write("prompts.txt", "one\n two \n\nfour\n"))
    assert found.rows == [Row(0, 1, "one"), Row(1, 2, " two "), Row(2, 3, ""), Row(3, 4, "four")]
    assert found.problems == []


@pytest.mark.parametrize("content", ["one\r\ntwo\r\n", "\ufeffone\ntwo", "one\ntwo\n"])
def test_line_ends_and_a_byte_order_mark_are_no_part_of_a_prompt(write, content: str) -> None:
    assert [row.prompt for row in read_input(write("prompts.txt", content)).rows] == ["one", "two"]


def test_only_a_newline_ends_a_line(write) -> None:
    prompt = "a\u2028b\x0bc\x85d"
    assert read_input(write("prompts.txt", prompt)).rows[0].prompt == prompt
    line = json.dumps({"prompt": prompt}, ensure_ascii=False)
    assert read_input(write("prompts.jsonl", line)).rows[0].prompt == prompt


def test_a_row_of_jsonl_has_its_own_id_or_its_lines_number(write) -> None:
    lines = [
        '{"prompt": "a"}',
        "",
        '{"id": "x", "prompt": "b", "source": 1}',
        '{"id": 9, "prompt": "c", "weights": {}}',
    ]
    found = read_input(write("prompts.jsonl", "\n".join(lines)))
    assert found.rows == [Row(0, 1, "a"), Row(2, "x", "b"), Row(3, 9, "c", {})]


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.JSONL.gz", "p", "p.txt"])
def test_jsonl_is_known_by_its_name_or_its_first_line(write, name: str) -> None:
    assert read_input(write(name, '\n{"prompt": "a"}\n')).rows == [Row(1, 2, "a")]


@pytest.mark.parametrize("line", ['["a"]', "{not json", "7"])
def test_text_that_is_no_json_object_is_a_prompt(write, line: str) -> None:
    assert read_input(write("p.txt", line)).rows == [Row(0, 1, line)]


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.jsonl"])
def test_gzip_is_known_by_its_content_and_has_the_digest_of_what_is_in_it(write, name: str) -> None:
    content = b'{"prompt": "a"}\n'
    packed, plain = read_input(write(name, gzip.compress(content))), read_input(write("q.jsonl", content))
    assert packed.rows == plain.rows
    assert packed.digest == plain.digest != read_input(write("r.jsonl", content * 2)).digest


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a"', "is not JSON (Expecting ',' delimiter at column 15)"),
        ("[1]", "is a list, not an object"),
        ("null", "is null, not an object"),
        ('{"id": 1}', "has no prompt"),
        ('{"prompt": 3}', "has a prompt that is a number"),
        ('{"prompt": "a", "id": [1]}', "has an id that is a list"),
        ('{"prompt": "a", "id": true}', "has an id that is true or false"),
        ('{"prompt": "a", "id": 1.5}', "has an id that is a number: ids are text or integers"),
        ('{"prompt": "\\ud800"}', "holds half of a surrogate pair"),
        ("[" * 100_000, "is nested too deeply"),
        ("1" * 5000, "is not JSON (Exceeds the limit"),
        ('{"prompt": "c", "id": "x"}', "has the id 'x' of line 1"),
        ('{"prompt": "c", "id": 3}', "has the id 3 of line 3"),
    ],
)
def test_a_line_that_is_no_row_is_named_and_the_others_are_read(write, line: str, reason: str) -> None:
    path = write("p.jsonl", f'{{"prompt": "a", "id": "x"}}\n\n{{"prompt": "b"}}\n{line}\n{{"prompt": "e"}}')
    found = read_input(path)
    assert [row.prompt for row in found.rows] == ["a", "b", "e"]
    assert len(found.problems) == 1
    assert found.problems[0].startswith(f"{path} line 4 {reason}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"one\ntw\xff\n", "line 2: byte 0xff is not UTF-8"),
        (gzip.compress(b"one\ntwo" * 99, mtime=0)[:-9], "cut short or corrupt"),
        (b"\x1f\x8bnonsense", "cut short or corrupt"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(write, content: bytes, reason: str) -> None:
    with pytest.raises(RunError, match=reason):
        read_input(write("p.txt", content))


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        read_input(tmp_path / "none")
    with pytest.raises(RunError, match=r"cannot be read .Is a directory"):
        read_input(tmp_path)


def test_prompts_of_the_command_line_are_numbered_from_one() -> None:
    assert prompt_rows(["a", "b"]).rows == [Row(0, 1, "a"), Row(1, 2, "b")]
    assert prompt_rows(["a", "b"]).digest != prompt_rows(["a\nb"]).digest
