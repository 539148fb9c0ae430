"""A prompt begins with one BOS, a response is its own tokens and one EOS, and cutting keeps to its rules."""

import os
import random
from pathlib import Path

import pytest
from chat_families import FAMILIES, make_tokenizer
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


@pytest.mark.parametrize("text", TEXTS)
def test_a_response_is_its_own_text_and_one_eos(tokenizer, text):
    *response, end = encode(tokenizer, "Tell me:", text)["chosen_ids"]
    assert end == tokenizer.eos_token_id and end not in response
    assert tokenizer.decode(response) == text
    assert response == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_an_eos_that_the_text_ends_with_is_not_doubled(tokenizer):
    eos = tokenizer.eos_token
    expected = encode(tokenizer, "p", "yes")["chosen_ids"]
    for text in (f"yes{eos}", f"yes{eos}\n", f"yes{eos}{eos}"):
        assert encode(tokenizer, "p", text)["chosen_ids"] == expected
    assert encode(tokenizer, "p", eos)["chosen_ids"] == [tokenizer.eos_token_id]


def test_special_tokens_spelled_out_in_a_response_stay_text(tokenizer):
    text = f"type {tokenizer.eos_token} to stop"
    *response, end = encode(tokenizer, "p", text)["chosen_ids"]
    assert end == tokenizer.eos_token_id and end not in response
    assert tokenizer.decode(response) == text


@pytest.mark.parametrize("prompt", ["<s>Tell me:", "<s><s>Tell me:", "Tell me:"])
def test_a_prompt_has_one_bos_whether_or_not_its_text_begins_with_it(embedded, prompt):
    for tokenizer in (embedded, make_tokenizer(FAMILIES["zephyr"])):
        ids = encode(tokenizer, prompt, "yes")["prompt_ids"]
        assert ids == tokenizer("Tell me:")["input_ids"] and ids.count(tokenizer.bos_token_id) == 1


def test_an_empty_prompt_is_bos_or_what_stands_for_it(embedded, gpt2):
    assert encode(embedded, "", "yes")["prompt_ids"] == [embedded.bos_token_id]
    assert encode(gpt2, "", "yes")["prompt_ids"] == [gpt2.eos_token_id]
    chatml = make_tokenizer(FAMILIES["chatml"])
    assert chatml.bos_token_id is None
    assert encode(chatml, "", "yes")["prompt_ids"] == [chatml.eos_token_id]


def test_a_tokenizer_that_adds_no_bos_gets_none(gpt2):
    assert encode(gpt2, "Tell me:", "yes")["prompt_ids"] == gpt2("Tell me:", add_special_tokens=False)["input_ids"]


def test_a_tokenizer_that_ends_texts_itself_adds_one_eos_still(embedded):
    from tokenizers.processors import TemplateProcessing

    ending = AutoTokenizer.from_pretrained(BASE)
    ids = [("<s>", ending.bos_token_id), ("</s>", ending.eos_token_id)]
    ending.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    assert ending("yes")["input_ids"][-1] == ending.eos_token_id
    assert encode(ending, "Tell me:", "yes") == encode(embedded, "Tell me:", "yes")


def test_a_tokenizer_without_eos_is_refused():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.eos_token = None
    with pytest.raises(InvalidArgumentError, match="no EOS token"):
        encode(tokenizer, "p", "yes")


def test_one_response_is_encoded_with_the_length_of_its_prompt(embedded):
    ids, prompt_length = encode_response(embedded, "Tell me:", "yes")
    pair = encode(embedded, "Tell me:", "yes")
    assert (ids[:prompt_length], ids[prompt_length:]) == (pair["prompt_ids"], pair["chosen_ids"])


def test_one_response_keeps_itself_and_bos_when_its_prompt_is_cut(embedded):
    whole, length = encode_response(embedded, "one two three four five six", "yes")
    assert encode_response(embedded, "one two three four five six", "yes", len(whole) - 2) == (
        whole[:1] + whole[3:],
        length - 2,
    )
    alone = encode_response(embedded, "", "yes")
    assert encode_response(embedded, "one two", "yes", len(alone[0])) == alone
    with pytest.raises(InvalidArgumentError, match="does not fit"):
        encode_response(embedded, "", "yes", len(alone[0]) - 1)


def test_texts_longer_than_the_tokenizer_s_own_length_are_nothing_to_warn_of(caplog, capfd):
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.model_max_length = 16
    encode(tokenizer, "p" * 100, "a" * 100, max_length=16)
    assert not caplog.text and not capfd.readouterr().err


def test_progress_changes_nothing(embedded, capsys):
    pairs = [PreferencePair("p", "a", "b")] * 3
    assert encode_pairs(embedded, pairs, progress=True) == encode_pairs(embedded, pairs)
    assert not capsys.readouterr().out


def words(draw, count):
    return "".join(draw.choices(["a", "word ", "é", "🎨", "\n", " ", "字", "</s>", "\u200d", "x" * 9], k=count))


def random_pairs(seed, count=60):
    draw = random.Random(seed)
    texts = [[words(draw, draw.randrange(1, 30)) for _ in range(3)] for _ in range(count)]
    return [PreferencePair(*each) for each in texts if each[1].rstrip() != each[2].rstrip()]


@pytest.mark.parametrize("max_length", [8, 9, 16, 33, 64, 4096])
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
            assert (side[-1] == tokenizer.eos_token_id) == (side == old)


def test_what_is_cut_is_counted(embedded):
    pairs = [
        PreferencePair("p", "a", "b"),
        PreferencePair("x " * 20, "a", "b" * 30),
        PreferencePair("p", "a" * 40, "a" * 50),
        PreferencePair("p" * 3, "a" * 40, "b" * 50),
    ]
    whole, cut = encode_pairs(embedded, pairs), encode_pairs(embedded, pairs, 16)
    assert cut.kept == [0, 1, 3] and len(cut.pairs) == 3
    kept = dict(zip(cut.kept, cut.pairs, strict=True))
    truncation = cut.truncation
    assert (truncation.prompts_cut, truncation.responses_cut, truncation.pairs_dropped) == (1, 5, 1)
    assert truncation.prompt_tokens_dropped == len(whole.pairs[1]["prompt_ids"]) - len(kept[1]["prompt_ids"])
    lost = sum(len(pair[side]) for pair in whole.pairs for side in ("chosen_ids", "rejected_ids"))
    lost -= sum(len(pair[side]) for pair in cut.pairs for side in ("chosen_ids", "rejected_ids"))
    room = 16 - len(whole.pairs[2]["prompt_ids"])
    assert truncation.response_tokens_dropped == lost - 2 * room
    summary = truncation.summary()
    assert "\n" not in summary and "1 prompt " in summary and "5 responses" in summary and "1 pair " in summary
    assert encode_pairs(embedded, pairs).truncation.summary() == "nothing was cut"


def test_a_max_length_without_room_is_refused(embedded):
    with pytest.raises(InvalidArgumentError, match="at least 8"):
        encode(embedded, "p", "yes", max_length=7)
