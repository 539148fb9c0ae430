"""A conversation is its template's rendering, parted where the assistant begins to speak."""

import pytest
from chat_families import FAMILIES, REWRITING, make_tokenizer
from transformers import AutoTokenizer, GenerationConfig

from genarm.embedded import BASE
from genarm.errors import InvalidArgumentError
from genarm.preferences.chat import turn_ends
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import PreferencePair

CONVERSATION = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hello\nthere"},
    {"role": "assistant", "content": "<think>a greeting</think>hi"},
    {"role": "user", "content": "a é 🎨?"},
]
ANSWERS = ["it is art", "A", "im_end", "<b>é</b>"]


def answer(text):
    return [{"role": "assistant", "content": text}]


def encode(tokenizer, prompt, chosen, rejected="another", **options):
    return encode_pairs(tokenizer, [PreferencePair(prompt, chosen, rejected)], **options).pairs[0]


@pytest.fixture(scope="module")
def embedded():
    return AutoTokenizer.from_pretrained(BASE)


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
    assert tokenizer.decode(pair["prompt_ids"] + pair["chosen_ids"]) == rendered[:last]
    assert tokenizer.decode(pair["chosen_ids"]) == text + end


def test_a_chat_prompt_is_the_one_that_is_decoded_from(family):
    tokenizer = make_tokenizer(family)
    ids = encode(tokenizer, CONVERSATION, answer("yes"), extra_eos=family.extra_eos)["prompt_ids"]
    decoded_from = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True)["input_ids"]
    opened = tokenizer("<think>\n", add_special_tokens=False)["input_ids"]
    without_thought = decoded_from[: -len(opened)] if decoded_from[-len(opened) :] == opened else decoded_from
    assert ids == without_thought
    assert ids.count(tokenizer.bos_token_id) == int("bos_token" in family.template)


def test_a_chat_response_ends_once_and_at_its_end(family):
    tokenizer = make_tokenizer(family)
    ends = {tokenizer.convert_tokens_to_ids(token) for token in (family.eos, *family.extra_eos)}
    for text in (*ANSWERS, f"I say {family.eos} and go on", f"done{family.eos}"):
        response = encode(tokenizer, CONVERSATION, answer(text), answer("no"), extra_eos=family.extra_eos)["chosen_ids"]
        assert [token in ends for token in response] == [False] * (len(response) - 1) + [True]
        assert tokenizer.decode(response[:-1]) == text.removesuffix(family.eos)


def test_special_tokens_in_a_chat_message_stay_text_and_the_template_s_do_not(family):
    tokenizer = make_tokenizer(family)
    plain = encode(tokenizer, [{"role": "user", "content": "p"}], answer("yes"), extra_eos=family.extra_eos)
    for token in (family.eos, *family.others):
        text = f"what does {token} mean?"
        pair = encode(tokenizer, [{"role": "user", "content": text}], answer(text), extra_eos=family.extra_eos)
        for side in ("prompt_ids", "chosen_ids"):
            specials = [[token for token in item[side] if token >= 256] for item in (pair, plain)]
            assert specials[0] == specials[1] and text in tokenizer.decode(pair[side])


@pytest.mark.parametrize("text", ANSWERS)
def test_what_a_template_writes_after_the_end_of_a_turn_is_no_part_of_it(text):
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|im_end|> (end of turn)")
    ids = encode(tokenizer, CONVERSATION, answer(text))["chosen_ids"]
    assert tokenizer.decode(ids) == f"{text}<|im_end|>"


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


def test_a_long_chat_loses_its_beginning_whole_where_its_template_writes_no_bos():
    for name in ("zephyr", "llama-3"):
        tokenizer = make_tokenizer(FAMILIES[name])
        turns = [{"role": "user", "content": "what is it " * 20}]
        whole = encode(tokenizer, turns, answer("yes"))["prompt_ids"]
        cut = encode(tokenizer, turns, answer("yes"), max_length=60)["prompt_ids"]
        kept = len(cut) - 1 if name == "llama-3" else len(cut)
        assert cut == (whole[:1] if name == "llama-3" else []) + whole[-kept:]


def test_the_ends_of_turns_are_those_that_generation_stops_at(tmp_path):
    made = make_tokenizer(FAMILIES["llama-3, another eos"])
    ends = [made.eos_token_id, made.convert_tokens_to_ids("<|eot_id|>")]
    made.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert turn_ends(tokenizer) == []
    assert encode(tokenizer, CONVERSATION, answer("yes"))["chosen_ids"][-2:] == [ends[1], ends[0]]
    GenerationConfig(eos_token_id=ends).save_pretrained(tmp_path)
    assert turn_ends(tokenizer) == ["<|eot_id|>"]
    assert encode(tokenizer, CONVERSATION, answer("yes"))["chosen_ids"][-2:] == [ord_of(tokenizer, "s"), ends[1]]
    GenerationConfig(eos_token_id=ends[0]).save_pretrained(tmp_path)
    assert turn_ends(tokenizer) == []


def ord_of(tokenizer, letter):
    return tokenizer(letter, add_special_tokens=False)["input_ids"][0]
