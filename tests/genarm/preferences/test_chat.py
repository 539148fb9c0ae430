"""A conversation is its template's rendering, parted where the assistant begins to speak; and whose tokenizer it is."""

import pytest
from chat_families import FAMILIES, REWRITING, make_tokenizer
from families import make_model
from training_cases import save_base
from transformers import AutoTokenizer, GenerationConfig

from genarm.embedded import BASE
from genarm.errors import InvalidArgumentError, LoadingError
from genarm.preferences.chat import pair_tokenizer, turn_ends
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


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def test_a_pair_is_the_rendered_conversation_from_the_prompt_that_is_decoded_from(family):
    tokenizer = make_tokenizer(family)
    end = family.extra_eos[0] if family.extra_eos else family.eos
    decoded_from = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True)["input_ids"]
    opened = tokenizer("<think>\n", add_special_tokens=False)["input_ids"]
    without_thought = decoded_from[: -len(opened)] if decoded_from[-len(opened) :] == opened else decoded_from
    for text in ANSWERS:
        pair = encode(tokenizer, CONVERSATION, answer(text), answer("no"), extra_eos=family.extra_eos)
        rendered = tokenizer.apply_chat_template([*CONVERSATION, *answer(text)], tokenize=False)
        last = rendered.rindex(end) + len(end)
        assert tokenizer.decode(pair["prompt_ids"] + pair["chosen_ids"]) == rendered[:last]
        assert tokenizer.decode(pair["chosen_ids"]) == text + end
        assert pair["prompt_ids"] == without_thought
        assert pair["prompt_ids"].count(tokenizer.bos_token_id) == int("bos_token" in family.template)
        # a response in text to a chat prompt is an assistant's
        assert pair == encode(tokenizer, CONVERSATION, text, "no", extra_eos=family.extra_eos)


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


@pytest.mark.parametrize(
    ("name", "end", "ends"),
    [
        ("chatml", "<|im_end|> (end of turn)", "<|im_end|>"),  # what comes after the end of a turn is no part of it
        ("chatml", "", "\n<|im_end|>"),  # a template without an end gets the EOS
        ("chatml, another eos", "<|im_end|>", "<|im_end|>\n<|endoftext|>"),  # an end that is no EOS is kept before it
    ],
)
def test_a_turn_ends_with_one_eos_however_its_template_ends_it(name, end, ends):
    tokenizer = make_tokenizer(FAMILIES[name])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", end)
    for text in ANSWERS:
        assert tokenizer.decode(encode(tokenizer, CONVERSATION, answer(text))["chosen_ids"]) == text + ends


def test_earlier_thoughts_are_left_out_and_the_response_s_own_begins_where_the_prompt_opens_none():
    tokenizer = make_tokenizer(FAMILIES["thinking"])
    pair = encode(tokenizer, CONVERSATION, answer("<think>hm</think>yes"))
    assert "greeting" not in tokenizer.decode(pair["prompt_ids"])
    assert tokenizer.decode(pair["chosen_ids"]) == "<think>hm</think>yes<|im_end|>"
    tokenizer = make_tokenizer(FAMILIES["opening"])
    thoughts = [answer(f"<think>\nhm</think>{text}") for text in ("yes", "no")]
    pair = encode(tokenizer, CONVERSATION, *thoughts)
    assert tokenizer.decode(pair["prompt_ids"]).endswith("<|assistant|><think>\n")
    assert tokenizer.decode(pair["chosen_ids"]) == "hm</think>yes</s>"
    with pytest.raises(InvalidArgumentError, match="two prompts for the two responses"):
        encode(tokenizer, CONVERSATION, thoughts[0], answer("no"))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (REWRITING, "pair 2: the chat template writes the prompt or the response other"),
        ("{{ raise_exception('no system here') }}", r"pair 2: the chat template fails .*no system here"),
        (None, "pair 2: the pairs are chat messages and the tokenizer has no chat template"),
    ],
)
def test_a_template_that_cannot_render_a_pair_is_named_with_it(template, reason):
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = template
    with pytest.raises(InvalidArgumentError, match=reason):
        encode_pairs(tokenizer, [PreferencePair("p", "a", "b"), PreferencePair(CONVERSATION, "a", "b")])


TOOLS = [{"type": "function", "function": {"name": "look"}}]
CALLING = """{% if tools %}{{ tools | tojson }}
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if thinking is false %}<think></think>{% endif %}{% endif %}"""


def test_tools_and_a_row_s_keywords_reach_the_template():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    pair = PreferencePair([{"role": "user", "content": "p"}], "yes", "no", options={"tools": TOOLS})
    with pytest.raises(InvalidArgumentError, match=r"pair 1: the chat template has no use for the row's tools"):
        encode_pairs(tokenizer, [pair])
    tokenizer.chat_template = CALLING
    (found,) = encode_pairs(tokenizer, [pair]).pairs
    assert tokenizer.decode(found["prompt_ids"]).startswith('[{"type": "function"')
    assert tokenizer.decode(found["chosen_ids"]) == "yes<|im_end|>"
    without = encode_pairs(tokenizer, [PreferencePair(pair.prompt, "yes", "no")]).pairs[0]
    assert tokenizer.decode(found["prompt_ids"]).endswith(tokenizer.decode(without["prompt_ids"]))
    tokenizer.chat_template = CALLING.replace("{% if tools", "{{ style }}{% if tools")
    (styled,) = encode_pairs(tokenizer, [PreferencePair(pair.prompt, "yes", "no", options={"style": "S"})]).pairs
    assert tokenizer.decode(styled["prompt_ids"]).startswith("S<|im_start|>")


def test_a_tool_call_s_arguments_are_written_as_an_object_however_they_are_stored():
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = CALLING
    asked, found = [{"role": "user", "content": "p"}], []
    for arguments in ({"city": "Rome"}, '{"city": "Rome"}'):
        call = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "look", "arguments": arguments}}],
        }
        found.append(encode(tokenizer, asked, [call], answer("no"))["chosen_ids"])
        found.append(encode(tokenizer, [*asked, call, *asked], answer("yes"), answer("no"))["prompt_ids"])
    assert tokenizer.decode(found[0]) == '{"city": "Rome"}<|im_end|>' and found[:2] == found[2:]


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
    (letter,) = tokenizer("s", add_special_tokens=False)["input_ids"]
    assert encode(tokenizer, CONVERSATION, answer("yes"))["chosen_ids"][-2:] == [letter, ends[1]]
    GenerationConfig(eos_token_id=ends[0]).save_pretrained(tmp_path)
    assert turn_ends(tokenizer) == []


def test_padding_is_the_tokenizer_s_own_or_its_eos(tmp_path):
    own = pair_tokenizer(str(BASE))
    assert own.pad_token_id not in (None, own.eos_token_id)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert pair_tokenizer(str(tmp_path)).pad_token_id == tokenizer.eos_token_id


def test_a_base_without_a_tokenizer_or_an_end_of_sequence_is_refused(tmp_path):
    make_model("llama").save_pretrained(tmp_path / "mute")
    with pytest.raises(LoadingError, match="has no tokenizer"):
        pair_tokenizer(str(tmp_path / "mute"))
    tokenizer = AutoTokenizer.from_pretrained(save_base(tmp_path / "endless"))
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(InvalidArgumentError, match="no end-of-sequence token"):
        pair_tokenizer(str(tmp_path / "endless"))
