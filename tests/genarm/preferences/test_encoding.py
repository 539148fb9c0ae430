"""A prompt begins with one BOS, a response is its own tokens and one EOS, and cutting keeps to its rules."""

import os
import random
from pathlib import Path

import pytest
from chat_families import FAMILIES, REWRITING, make_tokenizer
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


def test_progress_changes_nothing(embedded, capsys):
    pairs = [PreferencePair("p", "a", "b")] * 3
    assert encode_pairs(embedded, pairs, progress=True) == encode_pairs(embedded, pairs)
    assert not capsys.readouterr().out


CONVERSATION = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hello\nthere"},
    {"role": "assistant", "content": "<think>a greeting</think>hi"},
    {"role": "user", "content": "a é 🎨?"},
]
ANSWERS = ["it is art", "A", "im_end", "<b>é</b>"]


def answer(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.mark.parametrize("text", ANSWERS)
def test_prompt_and_response_are_the_rendered_conversation(family, text):
    tokenizer = make_tokenizer(family)
    pair = encode(tokenizer, CONVERSATION, answer(text), answer("no"), extra_eos=family.extra_eos)
    rendered = tokenizer.apply_chat_template([*CONVERSATION, *answer(text)], tokenize=False)
    end = family.extra_eos[0] if family.extra_eos else family.eos
    last = rendered.rindex(end) + len(end)
    bos = family.bos if family.bos and not rendered.startswith(family.bos) else ""
    assert tokenizer.decode(pair["prompt_ids"] + pair["chosen_ids"]) == bos + rendered[:last]
    assert tokenizer.decode(pair["chosen_ids"]) == text + end


def test_a_chat_prompt_is_the_one_that_is_decoded_from_with_one_bos(family):
    tokenizer = make_tokenizer(family)
    ids = encode(tokenizer, CONVERSATION, answer("yes"), extra_eos=family.extra_eos)["prompt_ids"]
    decoded_from = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True)["input_ids"]
    opened = tokenizer("<think>\n", add_special_tokens=False)["input_ids"]
    without_thought = decoded_from[: -len(opened)] if decoded_from[-len(opened) :] == opened else decoded_from
    assert ids in (without_thought, [tokenizer.bos_token_id, *without_thought])
    if family.bos:
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


def test_a_chat_response_ends_once_and_at_its_end(family):
    tokenizer = make_tokenizer(family)
    ends = {tokenizer.convert_tokens_to_ids(token) for token in (family.eos, *family.extra_eos)}
    for text in (*ANSWERS, f"I say {family.eos} and go on", f"done{family.eos}"):
        response = encode(tokenizer, CONVERSATION, answer(text), answer("no"), extra_eos=family.extra_eos)["chosen_ids"]
        assert [token in ends for token in response] == [False] * (len(response) - 1) + [True]
        assert tokenizer.decode(response[:-1]) == text.removesuffix(family.eos)


def test_special_tokens_in_a_chat_message_stay_text_and_the_template_s_do_not(family):
    tokenizer = make_tokenizer(family)
    said = [{"role": "user", "content": f"what does {family.eos} mean?"}]
    plain = [{"role": "user", "content": "what does it mean?"}]
    pair, other = (encode(tokenizer, turns, answer("yes"), extra_eos=family.extra_eos) for turns in (said, plain))
    specials = [[token for token in item["prompt_ids"] if token >= 256] for item in (pair, other)]
    assert specials[0] == specials[1] and family.eos in tokenizer.decode(pair["prompt_ids"])


def test_a_template_without_an_end_gets_the_eos():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "")
    ids = encode(tokenizer, CONVERSATION, answer("yes"))["chosen_ids"]
    assert tokenizer.decode(ids) == "yes\n<|im_end|>"


def test_an_end_of_turn_that_is_no_eos_is_kept_before_it():
    tokenizer = make_tokenizer(FAMILIES["chatml, another eos"])
    ids = encode(tokenizer, CONVERSATION, answer("yes"))["chosen_ids"]
    assert tokenizer.decode(ids) == "yes<|im_end|>\n<|endoftext|>"


def test_a_response_in_text_to_a_chat_prompt_is_an_assistant_s(family):
    tokenizer = make_tokenizer(family)
    assert encode(tokenizer, CONVERSATION, "yes", "no") == encode(tokenizer, CONVERSATION, answer("yes"), answer("no"))


def test_earlier_thoughts_are_left_out_and_the_response_s_own_kept():
    tokenizer = make_tokenizer(FAMILIES["thinking"])
    pair = encode(tokenizer, CONVERSATION, answer("<think>hm</think>yes"))
    assert "greeting" not in tokenizer.decode(pair["prompt_ids"])
    assert tokenizer.decode(pair["chosen_ids"]) == "<think>hm</think>yes<|im_end|>"


def test_a_response_that_goes_on_with_an_opened_thought_begins_after_it():
    tokenizer = make_tokenizer(FAMILIES["opening"])
    thoughts = [answer(f"<think>\nhm</think>{text}") for text in ("yes", "no")]
    pair = encode(tokenizer, CONVERSATION, *thoughts)
    assert tokenizer.decode(pair["prompt_ids"]).endswith("<|assistant|><think>\n")
    assert tokenizer.decode(pair["chosen_ids"]) == "hm</think>yes</s>"
    with pytest.raises(InvalidArgumentError, match="two prompts for the two responses"):
        encode(tokenizer, CONVERSATION, thoughts[0], answer("no"))


def test_a_template_that_rewrites_the_prompt_is_named_as_the_cause():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = REWRITING
    with pytest.raises(InvalidArgumentError, match="pair 1: the chat template writes the prompt or the response other"):
        encode(tokenizer, CONVERSATION, answer("yes"))


def test_a_template_that_fails_is_named_with_the_pair():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    pairs = [PreferencePair("p", "a", "b"), PreferencePair(CONVERSATION, "a", "b")]
    with pytest.raises(InvalidArgumentError, match=r"pair 2: the chat template fails .*no system here"):
        encode_pairs(tokenizer, pairs)


def test_chat_messages_need_a_chat_template(embedded):
    with pytest.raises(InvalidArgumentError, match="no chat template"):
        encode(embedded, CONVERSATION, answer("yes"))


def test_messages_after_a_prompt_in_text_are_refused(embedded):
    with pytest.raises(InvalidArgumentError, match="write it as messages"):
        encode(embedded, "p", answer("yes"), answer("no"))


def test_an_unknown_end_of_turn_is_refused(embedded):
    with pytest.raises(InvalidArgumentError, match=r"'<\|eot_id\|>' is no single token"):
        encode(embedded, "p", "yes", extra_eos=("<|eot_id|>",))


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
