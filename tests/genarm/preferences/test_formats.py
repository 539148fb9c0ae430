"""Preference data as it is published, a row of each shape with contents of our own; what is no pairs names its cure."""

import json
import re
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from genarm.errors import InvalidArgumentError
from genarm.preferences.pairs import PreferencePair, read_pairs
from genarm.preferences.reading import PairReading, pair_reading


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


HH = {
    "chosen": "\n\nHuman: What is tea?\n\nAssistant: A drink.\n\nHuman: Is it hot?\n\nAssistant: Often it is hot.",
    "rejected": "\n\nHuman: What is tea?\n\nAssistant: A drink.\n\nHuman: Is it hot?\n\nAssistant: Often it is blue.",
}
ULTRAFEEDBACK = {
    "prompt": "Name a colour.",
    "prompt_id": "5e1f",
    "chosen": [user("Name a colour."), assistant("Green.")],
    "rejected": [user("Name a colour."), assistant("Seven.")],
    "messages": [user("Name a colour."), assistant("Green.")],
    "score_chosen": 8.0,
    "score_rejected": 3.5,
}
ORCA = {"system": "Be brief.", "question": "Name a colour.", "chosen": "Green.", "rejected": "Seven."}
PKU = {
    "prompt": "How do I open a lock?\n",
    "response_0": "Force it.",
    "response_1": "Call a locksmith.",
    "prompt_source": "made up",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "better_response_id": 0,
    "safer_response_id": 1,
}
HELPSTEER = {
    "split": "train",
    "prompt": "Name a colour.",
    "response_1": "Green.",
    "response_2": "Seven.",
    "preference_strength": -2,
    "preference_statement": "the first is one",
}
REWARD_BENCH = {
    "prompt": "Name a colour.\n",
    "chosen": "Green.",
    "chosen_model": "one",
    "rejected": "Seven.",
    "rejected_model": "two",
    "subset": "easy",
    "id": 7,
}


@pytest.fixture
def read(tmp_path):
    def read(*rows, **options):
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return read_pairs(path, reading=pair_reading(**options))

    return read


def texts(pair):
    return pair.prompt, pair.chosen, pair.rejected


def test_hh_rlhf_is_parted_before_its_last_reply_whatever_the_replies_share(read):
    prompt = "\n\nHuman: What is tea?\n\nAssistant: A drink.\n\nHuman: Is it hot?\n\nAssistant:"
    assert texts(read(HH)[0]) == (prompt, " Often it is hot.", " Often it is blue.")
    other = {**HH, "rejected": HH["rejected"].replace("Often it is blue.", "No.")}
    assert {pair.prompt for pair in read(HH, other, {**HH, "prompt": ""})} == {prompt}  # one question is one prompt
    earlier = {**HH, "rejected": HH["rejected"].replace("A drink.", "A car.")}
    empty = {**HH, "rejected": prompt}
    with pytest.warns(UserWarning) as said:
        assert len(read(HH, earlier, empty)) == 1
    assert ["part before their last reply in 1 of 3" in str(each.message) for each in said] == [True, False]
    assert "a reply is empty in 1 of 3 pairs, left out" in str(said[1].message)


def test_ultrafeedback_binarized_is_its_conversations(read):
    (pair,) = read(ULTRAFEEDBACK)
    assert texts(pair) == ([user("Name a colour.")], [assistant("Green.")], [assistant("Seven.")])
    assert pair.columns["score_chosen"] == 8.0


def test_orca_s_system_and_question_are_turns_also_where_a_row_s_system_is_empty(read):
    with pytest.warns(UserWarning, match="system is read as the system turn of the chat template"):
        first, second = read(ORCA, {**ORCA, "system": ""})
    assert texts(first) == ([system("Be brief."), user("Name a colour.")], "Green.", "Seven.")
    assert second.prompt == [user("Name a colour.")]
    (written,) = read(ORCA, prompt_template="{system}\\n{question}\\n")
    assert written.prompt == "Be brief.\nName a colour.\n" and not written.columns
    (passed_by,) = read(ORCA, maps=["system="], prompt_column="question")
    assert passed_by.prompt == "Name a colour."


@pytest.mark.parametrize("name", ["prompt", "question", "input"])
def test_a_system_column_is_read_beside_a_prompt_by_any_name_and_before_messages(read, name):
    with pytest.warns(UserWarning, match="system is read"):
        (pair,) = read({"system": "Be brief.", name: "Hi.", "chosen": "Yes", "rejected": "No"})
    assert pair.prompt == [system("Be brief."), user("Hi.")]
    with pytest.warns(UserWarning, match="system is read"):
        (pair,) = read({"system": "Be brief.", "prompt": [user("Hi.")], "chosen": "Yes", "rejected": "No"})
    assert pair.prompt == [system("Be brief."), user("Hi.")]


def test_pku_safe_rlhf_is_two_objectives_and_one_is_chosen(read):
    assert texts(read(PKU, preference="better")[0]) == (PKU["prompt"], "Force it.", "Call a locksmith.")
    assert texts(read(PKU, preference="safer")[0]) == (PKU["prompt"], "Call a locksmith.", "Force it.")
    with pytest.raises(InvalidArgumentError, match=r"two labels.*choose by --preference better or --preference safer"):
        read(PKU)
    assert "safer_response_id" not in read(PKU, preference="safer")[0].columns  # it is read
    single = {name: value for name, value in PKU.items() if name != "safer_response_id"}
    assert read(single)[0].chosen == "Force it."
    with pytest.raises(InvalidArgumentError, match="safer was asked for and the row has better_response_id alone"):
        read(single, preference="safer")
    assert read({**PKU, "safer_response_id": "1"}, preference="safer")[0].chosen == "Call a locksmith."  # from CSV
    with pytest.raises(InvalidArgumentError, match="safer_response_id is None, not a number"):
        read({**PKU, "safer_response_id": None}, preference="safer")


def test_helpsteer_s_strength_says_which_response_and_its_turns_are_messages(read):
    assert texts(read(HELPSTEER)[0]) == ([user("Name a colour.")], "Green.", "Seven.")
    turns = "Hi\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nName a colour."
    tie, other = {**HELPSTEER, "preference_strength": 0}, {**HELPSTEER, "preference_strength": 3, "prompt": turns}
    with pytest.warns(UserWarning, match="preference_strength prefers neither response in 1 of 2 pairs, left out"):
        (pair,) = read(tie, other)
    assert texts(pair) == ([user("Hi"), assistant("Hello."), user("Name a colour.")], "Seven.", "Green.")
    third = {"context": [user("Hi")], "response1": "a", "response2": "b", "overall_preference": 1}
    assert texts(read(third)[0]) == ([user("Hi")], "b", "a")


def test_reward_bench_keeps_its_columns_and_can_be_read_as_turns(read):
    (pair,) = read(REWARD_BENCH)
    assert texts(pair) == ("Name a colour.\n", "Green.", "Seven.") and pair.columns["subset"] == "easy"
    assert read(REWARD_BENCH, chat=True)[0].prompt == [user("Name a colour.\n")]


def test_the_rows_on_the_page_are_read(read):
    page = Path(__file__).parents[3] / "docs" / "preference-data.md"
    blocks = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    rows = [json.loads(line) for block in blocks for line in block.splitlines()]
    assert len(rows) == 11
    for row in rows:
        with warnings.catch_warnings(record=True):
            assert read(row, preference="better")


@pytest.mark.parametrize("chat", [False, True])
def test_every_shape_is_read_without_a_word_where_nothing_is_left_out(read, chat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in (ULTRAFEEDBACK, PKU, HELPSTEER, REWARD_BENCH, *([] if chat else [HH])):
            assert read(row, preference="better", chat=chat)


@pytest.mark.parametrize(
    ("row", "cure"),
    [
        ({"prompt": "p", "completion": "c", "label": True}, "jq -cs 'group_by(.prompt)"),
        ({"instruction": "p", "completions": []}, "sort_by(.overall_score)"),
        ({"prompt": "p", "answers": []}, "sort_by(.rank)"),
        ({"history": "p", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, "human_ref_A"),
        ({"conversation_a": [], "conversation_b": [], "winner": "tie"}, "model_a"),
        ({"prompt": "p", "response": "r", "helpfulness": 3}, "sort_by(.helpfulness)"),
        ({"question": "q", "response_j": "a", "response_k": "b"}, "--map prompt=question --map chosen=response_j"),
        ({"prompt": "p", "chosen": ["a"], "rejected": ["b", "c"]}, "rejected: .rejected[]"),
        ({"messages": [user("p")]}, "the columns are messages"),
    ],
)
def test_what_is_no_pairs_is_refused_with_what_converts_it(read, row, cure):
    with pytest.raises(InvalidArgumentError) as caught:
        read(row)
    assert "pairs.jsonl, row 1" in str(caught.value) and cure in str(caught.value)


@pytest.mark.skipif(shutil.which("jq") is None, reason="NOT RUN: jq is not installed")
@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "p", "completion": text, "label": text == "a"} for text in "ab"],
        [
            {
                "instruction": "p",
                "completions": [{"response": "b", "overall_score": 1}, {"response": "a", "overall_score": 2}],
            }
        ],
        [{"prompt": "p", "answers": [{"answer": "b", "rank": 2}, {"answer": "a", "rank": 1}]}],
        [{"history": "p", "human_ref_A": "b", "human_ref_B": "a", "labels": 0}],
        [{"info": {"post": "p"}, "summaries": [{"text": "b"}, {"text": "a"}], "choice": 1}],
        [{"instruction": "p", "output_1": "b", "output_2": "a", "preference": score} for score in (1.9, 1.5)],
        [{"prompt": "p", "response": text, "helpfulness": score} for text, score in (("b", 1), ("a", 3))],
    ],
)
def test_the_command_that_a_refusal_names_converts_the_rows(read, tmp_path, rows):
    with pytest.raises(InvalidArgumentError) as caught:
        read(*rows)
    (command,) = re.findall(r"`jq (.*) FILE > pairs.jsonl`", str(caught.value))
    arguments = ["jq", *shlex.split(command), str(tmp_path / "pairs.jsonl")]
    found = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert [texts(pair) for pair in read(*map(json.loads, found.splitlines()))] == [("p", "a", "b")]


@pytest.mark.parametrize("name", ["question", "instruction", "input", "query"])
def test_a_question_that_would_not_be_read_is_refused_and_read_by_its_name(read, name):
    for more in ({}, {"prompt": ""}, {"prompt": None}):
        row = {name: "Name a colour.", "chosen": "Green.", "rejected": "Seven.", **more}
        with pytest.raises(InvalidArgumentError, match=f"{name} would not be read.*--prompt-column {name}"):
            read(row)
        assert read(row, prompt_column=name)[0].prompt == "Name a colour."
        assert read(row, maps=[f"prompt={name}"])[0].prompt == "Name a colour."
    whole = {name: "Name one.", "chosen": "Name one.\nGreen.", "rejected": "Name one.\nSeven."}
    assert texts(read(whole)[0]) == ("Name one.\n", "Green.", "Seven.")  # it is there already


def test_two_columns_of_a_question_are_written_by_a_template(read):
    row = {"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4"}
    with pytest.raises(InvalidArgumentError, match=r"--prompt-template '\{input\}\\n\{instruction\}\\n'"):
        read(row)
    rows = read(row, {**row, "input": None}, prompt_template="{instruction} [{input}] {{}}:\\n")
    assert [pair.prompt for pair in rows] == ["Add. [1 2] {}:\n", "Add. [] {}:\n"]
    for template, reason in (("{nothing}", "no column 'nothing'"), ("{chosen", "cannot be read"), ("x", "no column")):
        with pytest.raises(InvalidArgumentError, match=reason):
            read(row, prompt_template=template)


def test_columns_are_read_under_other_names_and_none_that_is_not_there(read):
    row = {"q": "Name one.\n", "good": "Green.", "bad": "Seven.", "n": 1}
    expected = PreferencePair("Name one.\n", "Green.", "Seven.", {"n": 1})
    assert read(row, maps=["chosen=good", "rejected=bad"], prompt_column="q") == [expected]
    with pytest.raises(InvalidArgumentError, match=r"no column 'better'.*the columns are q, good, bad, n"):
        read(row, maps=["chosen=better", "rejected=bad"])
    with pytest.raises(InvalidArgumentError, match="unknown: choose better or safer"):
        PairReading(preference="worse")
