"""Inputs: what becomes a row, and what is said about the entries that do not."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from genarm.errors import RunError
from genarm.runs.rows import Row, prompt_rows, read_input, row_key


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
    assert found.rows == [Row(0, 1, "a"), Row(2, "x", "b", columns={"source": 1}), Row(3, 9, "c", {})]


def test_a_row_keeps_its_other_columns_and_has_settings_of_its_own(read):
    row = {"prompt": "a", "topic": ["x"], "seed": 4, "top_k": None, "text": "b", "error": None, "do_sample": True}
    (found,) = read("p.jsonl", json.dumps(row)).rows
    assert found.settings == {"seed": 4, "do_sample": True}
    kept = {"topic": ["x"], "seed": 4, "top_k": None, "input_text": "b", "input_error": None, "do_sample": True}
    assert found.columns == kept and found.head == {"id": 1, "prompt": "a", **kept}


def test_a_prompt_may_be_messages_or_token_ids(read):
    turn = {"role": "user", "content": "hi"}
    lines = [{"messages": [turn]}, {"prompt": [turn, turn]}, {"prompt": [5, 6]}]
    found = read("p.jsonl", "\n".join(map(json.dumps, lines))).rows
    assert [row.prompt for row in found] == [[turn], [turn, turn], [5, 6]]
    assert found[0].head == {"id": 1, "messages": [turn]} and found[2].head == {"id": 3, "prompt": [5, 6]}


def test_an_array_of_json_is_its_items(read):
    rows = [{"prompt": "a", "id": "x"}, {"prompt": 3}, {"prompt": "c"}]
    for name, indent in (("p.json", 1), ("p.json.gz", None), ("p", 2)):
        found = read(name, json.dumps(rows, indent=indent))
        assert found.rows == [Row(0, "x", "a"), Row(2, 3, "c")]
        assert [problem.removeprefix(found.name) for problem in found.problems] == [
            " item 2 has a prompt that is a number: write text, token ids, or messages like {'role': 'user', "
            "'content': 'text'} (the item is left out)"
        ]
    assert read("p.json", '["a", "b"]').rows == [Row(0, 1, "a"), Row(1, 2, "b")]


def test_a_dash_is_the_standard_input(monkeypatch):
    for content, prompts in (
        (b"one\ntwo\n", ["one", "two"]),
        (b'{"prompt": "a"}', ["a"]),
        (gzip.compress(b"z", mtime=0), ["z"]),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        found = read_input(Path("-"))
        assert ([row.prompt for row in found.rows], found.name) == (prompts, "standard input")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", b"prompt\na\n", "is CSV, and prompts are read from text, JSONL or JSON: convert it to rows.jsonl"),
        ("p.tsv.gz", gzip.compress(b"prompt\na\n", mtime=0), "is TSV"),
        ("p.parquet", b"PAR1", "is Parquet"),
        ("p", b"PAR1...", "is Parquet"),
        ("p.arrow", b"ARROW1", "is Arrow"),
    ],
)
def test_a_table_is_refused_with_the_command_that_converts_it(read, name, content, words):
    with pytest.raises(RunError) as caught:
        read(name, content)
    assert words in str(caught.value) and 'python -c "import ' in str(caught.value)


def test_the_command_that_converts_csv_does(read, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text('prompt,topic\n"a, b",x\n')
    with pytest.raises(RunError) as caught:
        read_input(table)
    code = str(caught.value).split('"')[1]
    done = subprocess.run([sys.executable, "-c", code, table], capture_output=True, text=True, check=True)
    assert read("rows.jsonl", done.stdout).rows == [Row(0, 1, "a, b", columns={"topic": "x"})]


def test_a_prompt_may_have_several_samples(read):
    found = read("p.jsonl", '{"prompt": "a", "id": "x"}\n{"prompt": "b"}').sampled(2)
    assert [(row.index, row.key) for row in found.rows] == [(0, ("x", 1)), (1, ("x", 2)), (2, (2, 1)), (3, (2, 2))]
    assert [row_key(row.head) for row in found.rows] == [row.key for row in found.rows]


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
        ('{"question": "a", "prompt": null}', "has no prompt but null (its columns: 'question', 'prompt')"),
        ('{"prompt": ["a", "b"]}', "has a list of texts as its prompt: write one row per prompt"),
        ('{"prompt": "a", "messages": [{"role": "user"}]}', "has both a prompt and messages"),
        ('{"messages": "a"}', "has messages that are text of another form: write messages like"),
        ('{"prompt": "a", "temperature": NaN}', "holds NaN or an infinity"),
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
