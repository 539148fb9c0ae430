"""A prompt begins with one BOS, a response is its own tokens and one EOS, and cutting keeps to its rules."""

import os
import random
from pathlib import Path

import pytest
from chat_families import FAMILIES, make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from genarm.embedded import BASE
from genarm.errors import InvalidArgumentError
from genarm.preferences.encoding import encode_pairs, encode_response
from genarm.preferences.pairs import PreferencePair

DATA = Path(os.environ.get("GENARM_DATA", Path(__file__).parents[4] / "shared" / "data"))
TEXTS = ["yes", " yes", "two words\n", "é 🎨", "\n\n", "<b>", "  ", "'s"]


@pytest.fixture(scope="module")
def embedded():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def gpt2():
    if not DATA.is_dir():
        pytest.skip(f"NOT RUN: no tokenizer under {DATA}; set GENARM_DATA to the data directory to run this test")
    return AutoTokenizer.from_pretrained(DATA / "gpt2_tokenizer")


@pytest.fixture(scope="module", params=["embedded", "gpt2", "zephyr", "chatml"])
def tokenizer(request):
    if request.param in FAMILIES:
        return make_tokenizer(FAMILIES[request.param])
    return request.getfixturevalue(request.param)


def encode(tokenizer, prompt, chosen, rejected="another", **options):
    encoded = encode_pairs(tokenizer, [PreferencePair(prompt, chosen, rejected)], **options)
    assert encoded.kept == [0]
    return encoded.pairs[0]


def test_a_text_prompt_is_read_as_it_is_when_it_is_decoded_from(tokenizer):
    for text in (*TEXTS, "say </s> or <|endoftext|> or <|im_end|>"):
        assert encode(tokenizer, text, "yes")["prompt_ids"] == tokenizer(text)["input_ids"]


def test_a_response_is_its_own_text_and_one_eos(tokenizer):
    eos, end = tokenizer.eos_token, tokenizer.eos_token_id
    for text in (*TEXTS, f"type {eos} to stop"):  # special tokens that are spelled out are read as anywhere
        *response, last = encode(tokenizer, "Tell me:", text)["chosen_ids"]
        assert last == end and (eos in text or tokenizer.decode(response) == text)
        assert response == tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = encode(tokenizer, "p", "yes")["chosen_ids"]
    for text in (f"yes{eos}", f"yes{eos}\n", f"yes{eos}{eos}"):  # an EOS at the end is not doubled
        assert encode(tokenizer, "p", text)["chosen_ids"] == expected
    assert encode(tokenizer, "p", eos)["chosen_ids"] == [end]


def test_a_prompt_has_one_bos_whether_or_not_its_text_begins_with_it(embedded):
    for tokenizer in (embedded, make_tokenizer(FAMILIES["zephyr"])):
        for prompt in ("<s>Tell me:", "<s><s>Tell me:", "Tell me:"):
            ids = encode(tokenizer, prompt, "yes")["prompt_ids"]
            assert ids == tokenizer("Tell me:")["input_ids"] and ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", ["zephyr", "chatml", "llama-3", "phi-3"])
def test_a_rendered_conversation_in_text_is_read_as_its_template_s_tokens_once(name):
    family = FAMILIES[name]
    tokenizer, turns = make_tokenizer(family), [{"role": "user", "content": "Tell me."}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    answers = [[{"role": "assistant", "content": text}] for text in ("yes", "no")]
    whole = [tokenizer.apply_chat_template([*turns, *answer], tokenize=False) for answer in answers]
    texts = [text.removeprefix(prompt) for text in whole]
    found = encode_pairs(tokenizer, [PreferencePair(prompt, *texts)], extra_eos=family.extra_eos)
    expected = encode_pairs(tokenizer, [PreferencePair(turns, *answers)], extra_eos=family.extra_eos).pairs[0]
    # text begins with the tokenizer's BOS, once, also where the template writes none
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    assert found.pairs == [{**expected, "prompt_ids": bos + [id for id in expected["prompt_ids"] if id not in bos]}]
    special = family.others[0]
    thought = encode_pairs(tokenizer, [PreferencePair(prompt, f"{special}hm{special}yes", "no")])
    assert thought.pairs[0]["chosen_ids"].count(tokenizer.convert_tokens_to_ids(special)) == 2
    assert any("1 responses in text spell out special tokens" in note for note in thought.notes)


def test_a_response_that_begins_with_bos_adds_none(embedded):
    assert encode(embedded, "", "<s>yes") == encode(embedded, "", "yes")
    assert encode(embedded, "Tell me:", "<s> yes", "<s> no") == encode(embedded, "Tell me:", " yes", " no")


def test_a_prompt_and_a_response_that_run_into_each_other_are_spoken_of(embedded):
    def notes(*texts):
        return encode_pairs(embedded, [PreferencePair(text, "Yes", "No") for text in texts]).notes

    assert not notes("Is it? ", "Is it?\n", "Is it?") and not notes("", "")
    (note,) = notes("", "Is it?", "Is it really?", "Well ")
    assert "in 2 of 3 pairs" in note and "'Is it?Yes'" in note and "--chat" in note


def test_an_empty_prompt_is_bos_or_what_stands_for_it(embedded, gpt2):
    chatml = make_tokenizer(FAMILIES["chatml"])
    assert chatml.bos_token_id is None
    for tokenizer, first in (
        (embedded, embedded.bos_token_id),
        (gpt2, gpt2.eos_token_id),
        (chatml, chatml.eos_token_id),
    ):
        assert encode(tokenizer, "", "yes")["prompt_ids"] == [first]
    # a tokenizer that adds no BOS gets none
    assert encode(gpt2, "Tell me:", "yes")["prompt_ids"] == gpt2("Tell me:", add_special_tokens=False)["input_ids"]


def test_a_tokenizer_that_ends_texts_itself_adds_one_eos_still(embedded):
    ending = AutoTokenizer.from_pretrained(BASE)
    ids = [("<s>", ending.bos_token_id), ("</s>", ending.eos_token_id)]
    ending.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    assert ending("yes")["input_ids"][-1] == ending.eos_token_id
    assert encode(ending, "Tell me:", "yes") == encode(embedded, "Tell me:", "yes")


def test_what_cannot_be_encoded_is_refused(embedded):
    endless = make_tokenizer(FAMILIES["chatml"])
    endless.eos_token = None
    answer = [{"role": "assistant", "content": "yes"}]
    for tokenizer, response, options, reason in (
        (endless, "yes", {}, "no EOS token"),
        (embedded, "yes", {"max_length": 7}, "at least 8"),
        (embedded, "yes", {"extra_eos": ("<|eot_id|>",)}, r"'<\|eot_id\|>' is no single token"),
        (embedded, answer, {}, "write it as messages"),
    ):
        with pytest.raises(InvalidArgumentError, match=reason):
            encode(tokenizer, "p", response, **options)


def test_one_response_keeps_itself_and_bos_when_its_prompt_is_cut(embedded):
    ids, length = encode_response(embedded, "Tell me:", "yes")
    pair = encode(embedded, "Tell me:", "yes")
    assert (ids[:length], ids[length:]) == (pair["prompt_ids"], pair["chosen_ids"])
    whole, length = encode_response(embedded, "one two three four five six", "yes")
    cut = encode_response(embedded, "one two three four five six", "yes", len(whole) - 2)
    assert cut == (whole[:1] + whole[3:], length - 2)
    alone = encode_response(embedded, "", "yes")
    assert encode_response(embedded, "one two", "yes", len(alone[0])) == alone
    with pytest.raises(InvalidArgumentError, match="does not fit"):
        encode_response(embedded, "", "yes", len(alone[0]) - 1)


def test_neither_long_texts_nor_progress_are_spoken_of_on_the_standard_output(embedded, caplog, capfd):
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.model_max_length = 16
    encode(tokenizer, "p" * 100, "a" * 100, max_length=16)
    assert not caplog.text and not capfd.readouterr().err
    pairs = [PreferencePair("p", "a", "b")] * 3
    assert encode_pairs(embedded, pairs, progress=True) == encode_pairs(embedded, pairs)
    assert not capfd.readouterr().out


def random_pairs(seed, count=60):
    draw = random.Random(seed)
    letters = ["a", "word ", "é", "🎨", "\n", " ", "字", "</s>", "\u200d", "x" * 9]
    texts = [["".join(draw.choices(letters, k=draw.randrange(1, 30))) for _ in range(3)] for _ in range(count)]
    return [PreferencePair(*each) for each in texts if each[1].rstrip() != each[2].rstrip()]


@pytest.mark.parametrize("max_length", [8, 9, 33, 4096])
def test_cutting_keeps_to_its_rules_whatever_the_texts(tokenizer, max_length):
    start = [] if not tokenizer("a")["input_ids"][1:] else tokenizer("a")["input_ids"][:-1]
    pairs = random_pairs(max_length)
    whole, cut = encode_pairs(tokenizer, pairs), encode_pairs(tokenizer, pairs, max_length)
    assert len(whole.kept) - len(cut.kept) == cut.truncation.pairs_dropped - whole.truncation.pairs_dropped
    for index, pair in zip(cut.kept, cut.pairs, strict=True):
        before = whole.pairs[whole.kept.index(index)]
        prompt, sides = pair["prompt_ids"], [pair["chosen_ids"], pair["rejected_ids"]]
        old_prompt, old_sides = before["prompt_ids"], [before["chosen_ids"], before["rejected_ids"]]
        assert prompt[: len(start)] == start
        assert prompt[len(start) :] == old_prompt[len(old_prompt) - len(prompt) + len(start) :]
        assert all(side and side == old[: len(side)] for side, old in zip(sides, old_sides, strict=True))
        assert sides[0] != sides[1]
        longest = len(prompt) + max(map(len, sides))
        assert longest <= max_length
        if prompt != old_prompt:
            assert len(prompt) >= max_length // 2 and longest == max_length
        if sides != old_sides:
            assert len(prompt) <= max_length // 2 and longest == max_length
        for side, old in zip(sides, old_sides, strict=True):
            assert len(side) == min(len(old), max_length - len(prompt))
            assert side[-1] == tokenizer.eos_token_id or side != old


def test_what_is_cut_is_counted(embedded):
    texts = [("p", "a", "b"), ("x " * 20, "a", "b" * 30), ("p", "a" * 40, "a" * 50), ("p" * 3, "a" * 40, "b" * 50)]
    pairs = [PreferencePair(*each) for each in texts]
    whole, cut = encode_pairs(embedded, pairs), encode_pairs(embedded, pairs, 16)
    assert cut.kept == [0, 1, 3] and len(cut.pairs) == 3
    truncation = cut.truncation
    assert (truncation.prompts_cut, truncation.responses_cut, truncation.pairs_dropped) == (1, 5, 1)
    assert truncation.prompt_tokens_dropped == len(whole.pairs[1]["prompt_ids"]) - len(cut.pairs[1]["prompt_ids"])
    kept, there = (
        sum(len(pair[side]) for pair in found.pairs for side in ("chosen_ids", "rejected_ids"))
        for found in (cut, whole)
    )
    room = 16 - len(whole.pairs[2]["prompt_ids"])
    assert truncation.response_tokens_dropped == there - kept - 2 * room
    summary = truncation.summary()
    assert "\n" not in summary and "1 prompt " in summary and "5 responses" in summary and "1 pair " in summary
    assert whole.truncation.summary() == "nothing was cut"
