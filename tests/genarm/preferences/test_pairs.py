"""Rows in TRL's formats become pairs of a prompt and two responses; what cannot is refused by row."""

import json
import os
import random
import warnings
from pathlib import Path

import pytest

from genarm.errors import InvalidArgumentError
from genarm.preferences.pairs import PreferencePair, read_pairs
from genarm.preferences.reading import PairReading

DATA = Path(os.environ.get("GENARM_DATA", Path(__file__).parents[4] / "shared" / "data"))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SHORT = [user("p"), assistant("a")]
LONG = [*SHORT, user("q"), assistant("r")]


@pytest.fixture
def read(tmp_path):
    def read(*rows, **options):
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return read_pairs(path, **options)

    return read


@pytest.fixture
def read_one(read):
    def read_one(**row):
        pair = read(row)[0]
        return pair.prompt, pair.chosen, pair.rejected

    return read_one


def test_a_prompt_goes_with_the_responses_beside_it(read_one):
    assert read_one(prompt="p ", chosen=" a", rejected="b") == ("p ", " a", "b")
    assert read_one(prompt="", chosen="the a", rejected="the b") == ("", "the a", "the b")
    turns = [{"role": "system", "content": "s"}, user("p")]
    answers = [assistant("a")], [assistant("b")]
    assert read_one(prompt=turns, chosen=answers[0], rejected=answers[1]) == (turns, *answers)
    assert read_one(prompt=turns, chosen="a", rejected="b") == (turns, "a", "b")
    null = [{"role": "user", "content": "p", "name": None}]  # as good as a missing key
    assert read_one(prompt=null, chosen="a", rejected="b")[0] == [user("p")]


def test_whole_conversations_share_their_first_messages_as_the_prompt(read_one):
    turns = [user("p"), assistant("q"), user("r")]
    whole = [*turns, assistant("a")], [*turns, assistant("b")]
    expected = (turns, [assistant("a")], [assistant("b")])
    assert read_one(chosen=whole[0], rejected=whole[1]) == expected
    for prompt in (None, "p"):  # a prompt in text beside whole conversations is their own
        assert read_one(prompt=prompt, chosen=whole[0], rejected=whole[1]) == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Human: hi\n\nAssistant: Yes", "Human: hi\n\nAssistant: No", "Human: hi\n\nAssistant:"),
        ("Q?\n\nYes", "Q?\n\nYou", "Q?\n\n"),
        ("I like cats", "I like cars", ""),
        ("a b", "a b c", ""),
        ("same words here", "same words here\nand more", ""),
        ("one two", "one\ttwo", ""),
        ("art", "arts", ""),
        ("yes", "no", ""),
        (" a", " b", ""),
    ],
)
def test_whole_texts_are_parted_where_no_word_is_cut(read_one, chosen, rejected, prompt):
    for sides in ((chosen, rejected), (rejected, chosen)):
        found, *responses = read_one(chosen=sides[0], rejected=sides[1])
        assert found == prompt
        assert [found + response for response in responses] == list(sides)


def test_parting_whole_texts_loses_nothing_and_leaves_no_side_empty(read):
    draw = random.Random(0)
    rows = []
    while len(rows) < 300:
        start = "".join(draw.choices("ab \n\té", k=draw.randrange(12)))
        sides = [start + "".join(draw.choices("ab \n\té", k=draw.randrange(1, 6))) for _ in range(2)]
        if sides[0] != sides[1]:
            rows.append({"chosen": sides[0], "rejected": sides[1]})
    for row, pair in zip(rows, read(*rows), strict=True):
        assert pair.prompt + pair.chosen == row["chosen"] and pair.prompt + pair.rejected == row["rejected"]
        assert pair.chosen and pair.rejected
        for response in (pair.chosen, pair.rejected):
            assert not pair.prompt or response[0].isspace() or pair.prompt[-1].isspace()


def test_other_columns_are_kept_and_chosen_by(read):
    rows = [
        {"objective": "x", "score": 3, "prompt": "p", "chosen": "a", "rejected": "b"},
        {"objective": "y", "score": 4, "chosen": "c", "rejected": "d"},
        {"objective": "y", "score": 3, "chosen": "e", "rejected": "f"},
    ]
    assert next(pair.columns for pair in read(*rows)) == {"objective": "x", "score": 3}
    assert read(*rows, objective="x") == [PreferencePair("p", "a", "b", {"objective": "x", "score": 3})]
    assert [pair.chosen for pair in read(*rows, where={"score": "3"})] == ["a", "e"]
    assert [pair.chosen for pair in read(*rows, where={"score": "3"}, objective="y")] == ["e"]


def test_asking_for_what_no_row_has_says_what_there_is(read):
    row = {"objective": "x", "chosen": "a", "rejected": "b"}
    with pytest.raises(InvalidArgumentError, match="no row has objective = z: objective is one of x"):
        read(row, objective="z")
    with pytest.raises(InvalidArgumentError, match="there is no column kind"):
        read(row, where={"kind": "topic"})


def test_pairs_that_teach_nothing_are_left_out_and_counted(read):
    equal, telling = {"chosen": "a", "rejected": "a"}, {"chosen": "a", "rejected": "b"}
    with pytest.warns(UserWarning, match="chosen equals rejected in 2 of 3 pairs"):
        pairs = read(equal, telling, equal)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("a", "b")]
    with pytest.raises(InvalidArgumentError, match="equals rejected in every pair"):
        read(equal)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a"}, "rejected is missing or null"),
        ({"chosen": "", "rejected": "b"}, "chosen is empty"),
        ({"chosen": 3, "rejected": "b"}, "chosen is of type int"),
        ({"chosen": [], "rejected": [user("b")]}, "chosen is an empty list"),
        ({"chosen": "[{'role': 'user', 'content': 'a'}]", "rejected": "b"}, "as Python prints them, which is not JSON"),
        ({"chosen": [{"role": "user", "content": [{"type": "image"}]}], "rejected": "b"}, "part of type 'image'"),
        ({"prompt": [user("")], "chosen": "a", "rejected": "b"}, "prompt is empty in a message of user"),
        ({"chosen": [{"role": "user", "content": ["x"]}], "rejected": [user("b")]}, "a chat message is"),
        ({"prompt": [user("p")], "chosen": "a", "rejected": [assistant("b")]}, "write both in one format"),
        ({"prompt": "p", "chosen": [assistant("a")], "rejected": [assistant("b")]}, "write it as messages"),
        ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "share no first message"),
        ({"prompt": [user("p")], "chosen": [user("a")], "rejected": [user("b")]}, "messages of user after the prompt"),
        (
            {"prompt": [user("p")], "chosen": LONG[1:], "rejected": SHORT[1:]},
            "chosen is messages of assistant, user, a",
        ),
        ({"chosen": "\ud83c", "rejected": "b"}, "half of a surrogate pair"),
        ({"prompt": [user("\ud83c")], "chosen": "a", "rejected": "b"}, "half of a surrogate pair"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_by_its_number(read, row, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        read({"chosen": "a", "rejected": "b"}, row)
    assert "pairs.jsonl, row 2" in str(caught.value)


def test_all_bad_rows_are_said_at_once_and_can_be_left_out(read):
    good, empty, missing = {"chosen": "a", "rejected": "b"}, {"chosen": "", "rejected": "b"}, {"chosen": "a", "n": 1}
    rows = [good, empty, missing, *[empty] * 9]
    with pytest.raises(InvalidArgumentError) as caught:
        read(*rows)
    for words in ("rows 2, 4, 5, 6, 7 and 5 more: chosen is empty", "row 3: rejected is missing", "--skip-bad-rows"):
        assert words in str(caught.value)
    assert "(the columns are chosen, rejected, n)" in str(caught.value)
    with pytest.warns(
        UserWarning, match="11 rows that are no pairs are left out: rows 2, 4.*row 3: rejected is missing"
    ):
        assert len(read(*rows, reading=PairReading(skip_bad_rows=True))) == 1
    with pytest.raises(InvalidArgumentError, match="chosen is empty"):
        read(empty, reading=PairReading(skip_bad_rows=True))


def test_a_prompt_that_both_responses_repeat_is_read_once(read):
    row = {"prompt": "Q: x\nA:", "chosen": "Q: x\nA: y", "rejected": "Q: x\nA: z"}
    with pytest.warns(UserWarning, match="begin with the prompt in 1 of 1 pairs, where it is read once"):
        assert read(row) == [PreferencePair("Q: x\nA:", " y", " z")]
    with pytest.warns(UserWarning, match="a reply is empty in 1 of 2"):
        assert len(read(row, {**row, "rejected": row["prompt"]})) == 1
    by_chance = {"prompt": "No", "chosen": "No way", "rejected": "Not at all"}
    with pytest.warns(UserWarning, match="in 1 of 3 pairs, which are left so"):
        assert read(by_chance, {**by_chance, "chosen": "a"}, {**by_chance, "chosen": "b"})[0].chosen == "No way"
    turns = [user("p")]
    assert read({"prompt": turns, "chosen": [*turns, assistant("a")], "rejected": [*turns, assistant("b")]}) == [
        PreferencePair(turns, [assistant("a")], [assistant("b")])
    ]


def test_messages_are_read_as_they_are_stored(read_one):
    turns, answers = [user("p")], ([assistant("a")], [assistant("b")])
    expected = (turns, *answers)
    stored = [json.dumps(text) for text in expected]
    assert read_one(prompt=stored[0], chosen=stored[1], rejected=stored[2]) == expected
    assert read_one(prompt=turns[0], chosen=answers[0][0], rejected=answers[1][0]) == expected
    spoken = [{"from": "human", "value": "p"}], {"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}
    assert read_one(prompt=spoken[0], chosen=spoken[1], rejected=spoken[2]) == expected
    parts = [{"role": "user", "content": [{"type": "text", "text": "p"}]}]
    assert read_one(prompt=parts, chosen=answers[0], rejected=answers[1]) == expected
    for text in ("[1] is a source", "{not json}", '["a"]', '{"a": 1}'):
        assert read_one(prompt=text, chosen="a", rejected="b")[0] == text


def test_a_system_message_may_be_empty_and_a_call_of_tools_silent(read_one):
    call = {"tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"n": None}}}]}
    turns = [{"role": "system", "content": ""}, user("p"), {"role": "assistant", "content": None, **call}]
    turns.append({"role": "tool", "content": ""})
    found, chosen, _ = read_one(prompt=turns, chosen=[{"role": "assistant", **call}], rejected="b" and [assistant("b")])
    assert found == [*turns[:2], {"role": "assistant", "content": "", **call}, turns[3]]
    assert chosen == [{"role": "assistant", "content": "", **call}]


def test_what_a_template_is_given_is_kept_and_refused_where_there_is_none(read):
    tools, row = [{"type": "function"}], {"prompt": [user("p")], "chosen": "a", "rejected": "b"}
    for given in (tools, json.dumps(tools)):
        (pair,) = read({**row, "tools": given, "chat_template_kwargs": {"thinking": False}})
        assert pair.options == {"tools": tools, "thinking": False} and not pair.columns
    assert read({**row, "tools": [], "chat_template_kwargs": None})[0].options == {}
    for more, reason in (
        ({"prompt": "p", "tools": tools}, "tools reaches no chat template"),
        ({"prompt": "p", "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs reaches no chat template"),
        ({"tools": {"a": 1}}, "tools is of type dict"),
        ({"tools": "look"}, "tools is text and not JSON"),
        ({"chat_template_kwargs": {"tokenize": True}}, "sets tokenize"),
        ({"images": ["a.png"]}, "images is not empty, and only text is read"),
    ):
        with pytest.raises(InvalidArgumentError, match=reason):
            read({**row, **more})
    with pytest.warns(UserWarning, match="the column weight is not read: every pair counts the same"):
        read({**row, "weight": 2.0})


def test_strings_are_turns_under_chat_and_need_a_prompt_for_it(read):
    chat = PairReading(chat=True)
    assert read({"prompt": "p", "chosen": "a", "rejected": "b"}, reading=chat) == [
        PreferencePair([user("p")], "a", "b")
    ]
    with pytest.raises(InvalidArgumentError, match="no user's turn to write where there is no prompt"):
        read({"prompt": "", "chosen": "a", "rejected": "b"}, reading=chat)


def test_rows_are_numbered_as_in_the_file_whatever_is_asked_for(read):
    rows = [{"kind": "x", "chosen": "a", "rejected": "b"}, {"kind": "y", "chosen": "a"}]
    with pytest.raises(InvalidArgumentError, match="row 2"):
        read(*rows, kind="y")
    assert len(read(*rows, kind="x")) == 1
    with pytest.raises(InvalidArgumentError, match="is empty"):
        read()


@pytest.mark.skipif(not DATA.is_dir(), reason=f"NOT RUN: no preference data under {DATA}; set GENARM_DATA to it")
def test_real_pairs_keep_their_prompts_when_these_are_written_into_both_sides(tmp_path):
    path = DATA / "hh_harmless.test.jsonl.gz"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = read_pairs(path)
    rows = [{"chosen": pair.prompt + pair.chosen, "rejected": pair.prompt + pair.rejected} for pair in pairs]
    (tmp_path / "whole.json").write_text(json.dumps(rows), encoding="utf-8")
    parted = read_pairs(tmp_path / "whole.json")
    assert len(parted) == len(pairs) == 391
    for pair, own in zip(parted, pairs, strict=True):
        assert (pair.prompt, pair.chosen, pair.rejected) == (own.prompt, own.chosen, own.rejected)
