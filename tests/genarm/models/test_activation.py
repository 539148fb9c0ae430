"""Activated adapters decode as a literal loop has them, on prompts of any length, with ordinary ones beside them; PEFT
reads them the same; and where one would be run as an ordinary one it is refused."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from activated_cases import CONFIG, LiteralLoop, activated, as_ordinary, rewrite
from families import make_model, random_prompts, save_adapter, with_adapter
from peft import PeftModel
from torch import Tensor

from genarm import GuidedDecoder, LoadingError, PromptError, UnsupportedAdapterError
from genarm.evaluation.soups import soup
from genarm.models.activation import AT_LAST, TOKENS, Activation
from genarm.models.adapters import read_adapter
from genarm.models.loading import load_model
from genarm.models.options import Source
from genarm.models.preference_adapters import read_preference_adapter
from genarm.models.scalar import load_trajectory_rm

FAMILIES = ("llama", "gpt2", "gemma3", "qwen2")
LENGTHS = [6, 11, 1, 8]
STEPS = 4
SOURCE = Source(torch.float32, torch.device("cpu"))


def assert_reads_as(found: Tensor, loop: LiteralLoop, text: Tensor, start: int) -> None:
    """``found`` [n, V] log-probabilities of what follows the text's last tokens."""
    expected = loop.logits(text, start)[-len(found) :].log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def log_probs_of(decoder: GuidedDecoder, prompts: list[Tensor], tokens: Tensor) -> list[Tensor]:
    """Each reward model's log-probabilities [B, STEPS] of tokens [B] that are forced again and again."""
    forced = torch.full((len(prompts), decoder.vocab_size), -torch.inf).scatter(1, tokens[:, None], 0.0)
    out = decoder.generate(prompts, logit_bias=forced, max_new_tokens=STEPS, eos_token_id=[], return_logprobs=True)
    assert out.model_logprobs is not None
    return list(out.model_logprobs.unbind(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_ordinary_and_activated_adapters_beside_the_base(family: str, tmp_path: Path) -> None:
    base = make_model(family, seed=1)
    sleeping = [activated(base, family, tmp_path / name, seed) for name, seed in (("a", 4), ("b", 5))]
    ordinary = save_adapter(base, family, tmp_path / "c", seed=6)
    decoder = GuidedDecoder(base, {"a": sleeping[0], "c": ordinary, "b": sleeping[1]}, max_batch_size=4)
    prompts, tokens = random_prompts(LENGTHS, seed=1), random_prompts([4], seed=2)[0]
    _, a, c, b = log_probs_of(decoder, prompts, tokens)
    plain = with_adapter(base, ordinary)
    for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
        text = torch.cat([prompt, token.expand(STEPS - 1)])
        for found, folder in ((a, sleeping[0]), (b, sleeping[1])):
            expected = LiteralLoop(base, folder).logits(text, len(prompt) - 1).log_softmax(-1)[:, token]
            torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=0)
        with torch.no_grad():
            expected = plain(input_ids=text[None]).logits[0, -STEPS:].log_softmax(-1)[:, token]
        torch.testing.assert_close(c[row], expected, atol=1e-4, rtol=0)
    assert (
        decoder.describe()[1]["awake from"] == "the prompt's last token" and "awake from" not in decoder.describe()[2]
    )


def test_a_sleeping_adapter_says_something_else_than_an_awake_one(base: Any, tmp_path: Path) -> None:
    folder = activated(base, "llama", tmp_path / "a", 4)
    decoder = GuidedDecoder(base, [folder, as_ordinary(folder)])
    prompts, tokens = random_prompts([6, 11], seed=1), random_prompts([2], seed=2)[0]
    _, sleeping, awake = log_probs_of(decoder, prompts, tokens)
    assert (sleeping - awake).abs().max() > 0.1
    _, sleeping, awake = log_probs_of(decoder, random_prompts([1, 1], seed=1), tokens)
    torch.testing.assert_close(sleeping, awake)  # a prompt of one token is awake whole


TOKENS_OF = (7, 9)
PROMPTS = [  # once at the end, with tokens behind, twice, and once the tokens alone
    [3, 4, 5, 7, 9],
    [3, 7, 9, 4, 4, 6],
    [7, 9, 3, 3, 7, 9, 8],
    [7, 9],
]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_peft_reads_tokens_that_wake_an_adapter_as_we_do(family: str, tmp_path: Path) -> None:
    """To the token, by PEFT's own aLoRA, which reads a whole text at once or generates."""
    base = make_model(family, seed=1)
    folder = activated(base, family, tmp_path / "a", 4, TOKENS_OF)
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
    prompts, tokens = [torch.tensor(prompt) for prompt in PROMPTS], torch.tensor([20, 21, 22, 23])
    _, found = log_probs_of(GuidedDecoder(base, [folder]), prompts, tokens)
    for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
        text = torch.cat([prompt, token.expand(STEPS - 1)])
        with torch.no_grad():
            expected = theirs(input_ids=text[None]).logits[0, -STEPS:].log_softmax(-1)[:, token]
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=0)
        ours = GuidedDecoder(base, [folder]).generate(
            prompt[None], weights={"reward_0": 1.0}, base_weight=0.0, temperature=0.0, max_new_tokens=6, eos_token_id=[]
        )
        own = theirs.generate(input_ids=prompt[None], max_new_tokens=6, do_sample=False, eos_token_id=None)
        assert ours.tokens[0].tolist() == own[0, len(prompt) :].tolist()


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")
def test_peft_runs_one_that_wakes_at_the_last_token_where_it_is_told_and_else_the_base(
    base: Any, tmp_path: Path
) -> None:
    folder = activated(base, "llama", tmp_path / "a", 4)
    with pytest.warns(UserWarning, match=AT_LAST):
        theirs = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
    prompt, text = random_prompts([6, 9], seed=1)
    with torch.no_grad():
        told = theirs(input_ids=text[None], alora_offsets=[len(text) - len(prompt) + 1]).logits[0]
        untold, plain = theirs(input_ids=text[None]).logits[0], base(input_ids=text[None]).logits[0]
    expected = LiteralLoop(base, folder).logits(text, len(prompt) - 1)
    torch.testing.assert_close(told[len(prompt) - 1 :], expected, atol=1e-4, rtol=0)
    assert torch.equal(untold, plain)
    theirs.save_pretrained(str(tmp_path / "again"))  # without what PEFT does not know
    assert AT_LAST not in json.loads((tmp_path / "again" / CONFIG).read_text())
    assert read_adapter(tmp_path / "again").activation == Activation()


def test_what_a_configuration_says_is_what_is_read(base: Any, tmp_path: Path) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    assert read_adapter(folder).activation is None
    for settings, expected in (
        ({TOKENS: []}, None),
        ({TOKENS: [5, 6]}, Activation((5, 6))),
        ({TOKENS: [-1]}, Activation()),
        ({TOKENS: None, AT_LAST: True}, Activation()),
        (Activation().settings(), Activation()),
        (Activation((5,)).settings(), Activation((5,))),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_adapter(rewrite(folder, **{TOKENS: None, AT_LAST: None, **settings})).activation == expected
    for damaged in ({TOKENS: [5, -2]}, {TOKENS: "5"}, {TOKENS: [5], AT_LAST: True}, {TOKENS: [1.5]}):
        with pytest.raises(LoadingError, match=r"damaged .*save the adapter again"):
            read_adapter(rewrite(folder, **{TOKENS: None, AT_LAST: None, **damaged}))


def test_a_prompt_that_would_leave_an_adapter_asleep_is_that_rows_error(base: Any, tmp_path: Path) -> None:
    folder = activated(base, "llama", tmp_path / "a", 4, TOKENS_OF)
    out = GuidedDecoder(base, {"a": folder}).generate([[3, 7, 9], [3, 9, 7]], weights={"a": 1.0}, max_new_tokens=2)
    assert list(out.errors) == [1] and isinstance(out.errors[1], PromptError)
    assert "row 1: reward model 'a': a prompt does not hold the tokens [7, 9]" in str(out.errors[1])


def test_greedy_tokens_are_those_of_the_literal_loop_for_any_way_to_draft(base: Any, tmp_path: Path) -> None:
    folders = [activated(base, "llama", tmp_path / name, seed) for name, seed in (("a", 4), ("b", 5))]
    loops = [LiteralLoop(base, folder) for folder in folders]
    decoder = GuidedDecoder(base, folders)
    prompts = random_prompts([7, 3, 1], seed=1)
    expected = []
    for prompt in prompts:
        text = prompt
        for _ in range(8):
            with torch.no_grad():
                scores = base(input_ids=text[None]).logits[0, -1].log_softmax(-1)
            for loop in loops:
                scores = scores + 0.7 * loop.logits(text, len(prompt) - 1)[-1].log_softmax(-1)
            text = torch.cat([text, scores.argmax()[None]])
        expected.append(text[len(prompt) :].tolist())
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 8, "eos_token_id": []}
    weights = {"reward_0": 0.7, "reward_1": 0.7}
    for more in ({}, {"speculate": "ngram"}, {"speculate": make_model("llama", seed=9)}):
        out = decoder.generate(prompts, weights=weights, **options, **more)
        assert [row.tolist() for row in out.tokens] == expected


def test_scores_of_responses_are_those_of_the_literal_loop(base: Any, tmp_path: Path) -> None:
    folder = activated(base, "llama", tmp_path / "a", 4)
    prompts, responses = random_prompts([6, 2], seed=1), random_prompts([5, 3], seed=2)
    out = GuidedDecoder(base, [folder]).score(prompts, [row.tolist() for row in responses], weights={"reward_0": 1.0})
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        logits = LiteralLoop(base, folder).logits(torch.cat([prompt, response])[:-1], len(prompt) - 1)
        expected = logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
        torch.testing.assert_close(out.model_logprobs[row, : len(response), 1], expected, atol=1e-4, rtol=0)


def test_an_activated_adapter_is_no_part_of_a_model(base: Any, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path / "base")
    folder = activated(base, "llama", tmp_path / "a", 4, base_model_name_or_path=str(tmp_path / "base"))
    rewrite(folder, base_model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(UnsupportedAdapterError, match=r"asleep on a prompt .* and the adapter as a reward model"):
        load_model(folder, SOURCE)
    with pytest.raises(UnsupportedAdapterError, match="as a reward model"):
        GuidedDecoder(base).generate([[3, 4]], speculate=str(folder), max_new_tokens=2)


def test_a_loaded_activated_lora_is_refused_until_it_is_off(base: Any, tmp_path: Path) -> None:
    """PEFT looks for the tokens in every pass by itself, one of a step among them."""
    folder = activated(base, "llama", tmp_path / "a", 4, TOKENS_OF)
    own = copy.deepcopy(base)
    peft = PeftModel.from_pretrained(own, str(folder)).eval()
    for given in ([peft], {"itself": peft}):
        with pytest.raises(UnsupportedAdapterError, match="pass the adapter's path"):
            GuidedDecoder(base, given)
    with pytest.raises(UnsupportedAdapterError, match="base is a PeftModel whose active adapter is an activated LoRA"):
        GuidedDecoder(peft)
    peft.base_model.disable_adapter_layers()
    decoder = GuidedDecoder(peft)
    decoder.generate([[3, 4]], max_new_tokens=2)
    peft.base_model.enable_adapter_layers()
    with pytest.raises(UnsupportedAdapterError, match="pass the adapter's path"):
        decoder.generate([[3, 4]], max_new_tokens=2)


def test_kinds_are_not_averaged_together(base: Any, tmp_path: Path) -> None:
    a, b = (read_adapter(activated(base, "llama", tmp_path / name, seed)) for name, seed in (("a", 4), ("b", 5)))
    ordinary = read_adapter(save_adapter(base, "llama", tmp_path / "c", seed=6))
    assert soup([a, b], [0.5, 0.5], base).activation == Activation()
    assert soup([ordinary, ordinary], [0.5, 0.5], base).activation is None
    with pytest.raises(UnsupportedAdapterError, match=r"from the prompt's last token and .* from the first token"):
        soup([a, ordinary], [0.5, 0.5], base)


def test_what_reads_whole_texts_or_preferences_takes_none(base: Any, tmp_path: Path) -> None:
    folder = activated(base, "llama", tmp_path / "a", 4)
    with pytest.raises(UnsupportedAdapterError, match="a score is one of a whole text"):
        load_trajectory_rm("judge", str(folder), SOURCE, None)
    rewrite(folder, peft_type="PBLORA", r1=2, r2=2, obj_num=2)
    with pytest.raises(UnsupportedAdapterError, match=f"a PBLORA adapter with {TOKENS}"):
        read_preference_adapter(folder)
