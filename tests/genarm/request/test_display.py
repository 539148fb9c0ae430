"""Results show themselves in one line, and in a notebook as text coloured by its token rewards."""

from __future__ import annotations

import pickle
import re
from typing import Any
from xml.etree import ElementTree

import torch
from chat_families import BYTE_VOCAB, byte_tokenizer
from families import make_model

from genarm import GuidedDecoder

TOKENIZER: Any = byte_tokenizer()
SETTINGS: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": [], "allowed_tokens": [13, *range(30, 98)]}


def make_decoder(tokenizer: Any = TOKENIZER) -> GuidedDecoder:
    models = [make_model("llama", seed=seed, vocab=BYTE_VOCAB, hidden=16) for seed in (1, 2)]
    return GuidedDecoder(models[0], {"kind": models[1]}, tokenizer)


def text_of(html: str) -> str:
    return "".join(ElementTree.fromstring(f"<div>{html}</div>").itertext())


def test_a_decoder_and_an_output_are_one_short_line() -> None:
    decoder = make_decoder()
    assert repr(decoder) == "GuidedDecoder(LlamaForCausalLM; reward models: kind; float32 on cpu, max_length 4,096)"
    out = decoder.generate(["one"] * 5, **SETTINGS)
    assert re.fullmatch(r"GenerationOutput\(5 rows: 5 length; 30 new tokens, texts=\[.{10,60}, …\]\)", repr(out))
    bare = make_decoder(None).generate([[5]], **SETTINGS)
    assert repr(bare) == "GenerationOutput(1 row: 1 length; 6 new tokens)" == text_of(bare._repr_html_())


def test_a_page_colours_each_token_by_what_the_reward_model_adds() -> None:
    decoder = make_decoder()
    out = decoder.generate(["one", "two"], return_logprobs=True, logit_bias={30: 4.0}, **SETTINGS)
    assert out.texts is not None and out.model_logprobs is not None
    html = out._repr_html_()
    spans = re.findall(r"<span style='([^']*)' title='([+-][\d.]+) nats'>(.*?)</span>", html, re.S)
    gains = (out.model_logprobs[..., 1] - out.model_logprobs[..., 0]).flatten()
    assert len(spans) == 12
    median = float(gains.quantile(0.5))
    for (style, shown, _), gain in zip(spans, gains.tolist(), strict=True):
        assert abs(float(shown) - gain) < 0.006
        assert ("rgba(33,102,172" if gain > median else "rgba(230,97,1") in style
        assert "border-bottom" not in style or ("solid" if gain > median else "dotted") in style
    assert all(text in text_of(html).replace("⏎", "") for text in out.texts), "what HTML means otherwise is escaped"
    assert any(letter in "".join(out.texts) for letter in "<>&")


def test_without_log_probabilities_there_is_plain_text_and_a_hint() -> None:
    out = make_decoder().generate(["one"] * 22, **SETTINGS)
    html = out._repr_html_()
    assert "return_logprobs=True" in html and "… and 2 more rows" in html and "rgba" not in html


def test_an_output_can_be_kept() -> None:
    out = make_decoder().generate("one", return_logprobs=True, **SETTINGS)
    again = pickle.loads(pickle.dumps(out))
    assert again.texts == out.texts and torch.equal(again.sequences, out.sequences)
    assert again._repr_html_() == out._repr_html_()
