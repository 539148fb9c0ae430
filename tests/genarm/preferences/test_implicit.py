"""Rows without a prompt of their own: one question is one prompt, and no later turn is trained on."""

import json
import warnings

import pytest
from chat_families import FAMILIES, make_tokenizer

from genarm.errors import InvalidArgumentError
from genarm.preferences.implicit import LeftOutError, part
from genarm.preferences.pairs import read_pairs
from genarm.preferences.reading import PairReading

TURNS = [{"role": "user", "content": "What is tea?"}]
REPLIES = ["It is a drink.", "It is a car.", "A drink."]


def texts(parted):
    return parted.prompt, parted.chosen, parted.rejected


@pytest.mark.parametrize("name", FAMILIES)
def test_text_that_a_template_rendered_is_cut_where_the_assistant_speaks(name):
    tokenizer = make_tokenizer(FAMILIES[name])
    prompt = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True).removesuffix("<think>\n")
    whole = [
        tokenizer.apply_chat_template([*TURNS, {"role": "assistant", "content": text}], tokenize=False)
        for text in REPLIES
    ]
    for sides in ((0, 1), (0, 2), (1, 2)):
        found = part(*(whole[side] for side in sides))
        assert found.prompt == prompt and not found.by_lines
        assert [found.prompt + found.chosen, found.prompt + found.rejected] == [whole[side] for side in sides]


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ("\n\nHuman: Tea?\n\nAssistant:", "\n\nHuman: More?\n\nAssistant:"),
        ("USER: Tea? ASSISTANT:", " USER: More? ASSISTANT:"),
        ("### Instruction:\nTea?\n\n### Response:\n", "\n### Instruction:\nMore?\n\n### Response:\n"),
        ("Q: Tea?\nA:", "\nQ: More?\nA:"),
        ("[INST] Tea? [/INST]", "[INST] More? [/INST]"),
        (
            "<start_of_turn>user\nTea?<end_of_turn>\n<start_of_turn>model\n",
            "<start_of_turn>user\nMore?\n<start_of_turn>model\n",
        ),
        ("<｜User｜>Tea?<｜Assistant｜>", "<｜User｜>More?<｜Assistant｜>"),
    ],
)
def test_the_last_common_mark_ends_the_prompt_and_a_row_that_parts_earlier_is_left_out(before, then):
    whole = before + "It is hot." + then
    assert texts(part(before + " It is a drink", before + " It is a car")) == (before, " It is a drink", " It is a car")
    assert texts(part(whole + " So a", whole + " So b")) == (whole, " So a", " So b")
    with pytest.raises(LeftOutError, match="part before their last reply"):
        part(whole + " yes", before + "It is cold.")
    with pytest.raises(LeftOutError, match="part before their last reply"):
        part("x" + whole, "y" + whole)
    with pytest.raises(LeftOutError, match="a reply is empty"):
        part(before, before + " yes")


def test_a_marker_of_the_data_s_own_is_used_in_place_of_those_known():
    sides = ["Ask: a\n\nAssistant: b\nReply> It is x", "Ask: a\n\nAssistant: b\nReply> It is y"]
    assert texts(part(*sides, marker="Reply>"))[1:] == (" It is x", " It is y")
    with pytest.raises(InvalidArgumentError, match="'Answer>' is not in what both sides begin with"):
        part(*sides, marker="Answer>")


def test_without_a_mark_a_question_s_shortest_prompt_is_that_of_all_its_rows(tmp_path):
    question = "What is tea?\n"
    replies = [
        ("Sure.\nIt is a drink", "Sure.\nIt is a car"),
        ("A drink", "A car"),
        ("Sure.\nYes.\na", "Sure.\nYes.\nb"),
    ]
    rows = [{"chosen": question + first, "rejected": question + second} for first, second in replies]
    rows.append({"chosen": "I like art", "rejected": "I like cars"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="3 of 4 rows have no prompt.*--response-marker"):
        pairs = read_pairs(path)
    assert [pair.prompt for pair in pairs] == [question] * 3 + [""]
    assert [(pair.chosen, pair.rejected) for pair in pairs[:3]] == replies
    (path).write_text(json.dumps({"chosen": "Ask> a Say> It is x", "rejected": "Ask> a Say> It is y"}))
    assert read_pairs(path, reading=PairReading(response_marker="Say>"))[0].prompt == "Ask> a Say>"


def test_prompts_that_are_empty_in_some_rows_or_in_the_column_named_are_counted(tmp_path):
    path = tmp_path / "pairs.jsonl"
    sides = {"chosen": "It is x", "rejected": "This is y"}
    some, all_of_them, none = [{"q": "What?", **sides}, {"q": None, **sides}], [{"q": "", **sides}], [sides]
    for rows, columns, words in (
        (some, {"prompt": "q"}, "1 of 2 pairs have an empty prompt"),
        (all_of_them, {"prompt": "q"}, "1 of 1 pairs have an empty prompt"),
    ):
        path.write_text("\n".join(map(json.dumps, rows)))
        with pytest.warns(UserWarning, match=words):
            read_pairs(path, reading=PairReading(columns=columns))
    path.write_text("\n".join(map(json.dumps, none)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_pairs(path)[0].prompt == ""
