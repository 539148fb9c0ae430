"""Inputs: what becomes a row, what is said about the lines that do not, and how texts become tokens and back."""

import gzip
import json

import pytest
from chat_families import byte_tokenizer

from genarm.errors import GenARMError, RunError
from genarm.runs.rows import Row, encode, prompt_rows, read_input


@pytest.fixture
def read(tmp_path):
    def read(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_input(tmp_path / name)

    return read


def test_plain_text_is_one_prompt_per_line(read):
    found = read("prompts.txt", "one\n two \n\nfour\n")
    assert found.rows == [Row(0, 1, "one"), Row(1, 2, " two "), Row(2, 3, ""), Row(3, 4, "four")]
    assert found.problems == []
    for content in ("one\r\ntwo\r\n", "\ufeffone\ntwo"):
        assert [row.prompt for row in read("prompts.txt", content).rows] == ["one", "two"]
    for line in ('["a"]', "{not json", "7"):  # nothing of JSONL
        assert read("p.txt", line).rows == [Row(0, 1, line)]


def test_only_a_newline_ends_a_line(read):
    prompt = "a\u2028b\x0bc\x85d"
    assert read("prompts.txt", prompt).rows[0].prompt == prompt
    line = json.dumps({"prompt": prompt}, ensure_ascii=False)
    assert read("prompts.jsonl", line).rows[0].prompt == prompt


def test_a_row_of_jsonl_has_its_own_id_or_its_lines_number(read):
    lines = ['{"prompt": "a"}', "", '{"id": "x", "prompt": "b", "source": 1}']
    lines += ['{"id": 9, "prompt": "c", "weights": {}}']
    found = read("prompts.jsonl", "\n".join(lines))
    assert found.rows == [Row(0, 1, "a"), Row(2, "x", "b"), Row(3, 9, "c", {})]


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.JSONL.gz", "p", "p.txt"])
def test_jsonl_is_known_by_its_name_or_its_first_line_and_gzip_by_its_content(read, name):
    content = b'\n{"prompt": "a"}\n'
    plain, packed = read(name, content), read(name, gzip.compress(content))
    assert plain.rows == packed.rows == [Row(1, 2, "a")]
    assert packed.digest == plain.digest != read(name, content * 2).digest


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a"', "is not JSON (Expecting ',' delimiter at column 15)"),
        ("null", "is null, not an object"),
        ('{"id": 1}', "has no prompt"),
        ('{"prompt": 3}', "has a prompt that is a number"),
        ('{"prompt": "a", "id": [1]}', "has an id that is a list"),
        ('{"prompt": "a", "id": true}', "has an id that is true or false"),
        ('{"prompt": "\\ud800"}', "holds half of a surrogate pair"),
        ("[" * 100_000, "is nested too deeply"),
        ("1" * 5000, "is not JSON (Exceeds the limit"),
        ('{"prompt": "c", "id": "x"}', "has the id 'x' of line 1"),
        ('{"prompt": "c", "id": 3}', "has the id 3 of line 3"),
    ],
)
def test_a_line_that_is_no_row_is_named_and_the_others_are_read(read, line, reason):
    found = read("p.jsonl", f'{{"prompt": "a", "id": "x"}}\n\n{{"prompt": "b"}}\n{line}\n{{"prompt": "e"}}')
    assert [row.prompt for row in found.rows] == ["a", "b", "e"]
    assert len(found.problems) == 1 and found.problems[0].startswith(f"{found.name} line 4 {reason}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\n\n", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"one\ntw\xff\n", "line 2: byte 0xff is not UTF-8"),
        (gzip.compress(b"one\ntwo" * 99, mtime=0)[:-9], "cut short or corrupt"),
        (b"\x1f\x8bnonsense", "cut short or corrupt"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(read, content, reason):
    with pytest.raises(RunError, match=reason):
        read("p.txt", content)


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    for path, reason in ((tmp_path / "none", "no such file"), (tmp_path, r"cannot be read .Is a directory")):
        with pytest.raises(RunError, match=reason):
            read_input(path)


def test_prompts_of_the_command_line_are_numbered_from_one():
    assert prompt_rows(["a", "b"]).rows == [Row(0, 1, "a"), Row(1, 2, "b")]
    assert prompt_rows(["a", "b"]).digest != prompt_rows(["a\nb"]).digest


def test_chat_renders_one_user_turn_with_one_bos():
    tokenizer = byte_tokenizer()
    (chat,), (plain,) = (encode(tokenizer, ["hi"], chat=chat) for chat in (True, False))
    assert tokenizer.decode(chat) == "<bos>[user]hi[assistant]" and chat.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(plain) == "<bos>hi"
    assert encode(tokenizer, [], chat=True) == []
    for template, words in (
        (
            "{{ raise_exception('no users here') }}",
            r"fails on messages of user .no users here.: write the turns it knows, or repair it",
        ),
        (None, "has no chat template: leave --chat out"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(GenARMError, match=words):
            encode(tokenizer, ["hi"], chat=True)
