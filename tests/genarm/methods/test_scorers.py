"""The models that a method is given beside the base: read as they are at each call, and never what they cannot read."""

from __future__ import annotations

import copy
import gc
import math
from weakref import ref

import pytest
import torch
from families import make_model, random_prompts, word_tokenizer
from method_cases import make_scorer, score_of
from peft import LoraConfig, get_peft_model
from torch import nn

from genarm import GuidedDecoder, methods
from genarm.errors import GenARMError, NumericalError, PromptError
from genarm.evaluation.tabular_models import lm_from_tables, scorer_from_values
from genarm.methods.scoring import response_scores
from genarm.scalars import scalar, text_scores

TEXT = [5, 6, 7, 8]


def score(decoder, scorer):
    return float(text_scores(scalar(decoder, scorer, "trajectory_rm"), [TEXT], decoder)[0])


def test_a_scorer_that_is_trained_on_is_read_anew():
    decoder, scorer = GuidedDecoder(make_model("llama")), make_scorer("llama", seed=7)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False)
    wrapped = get_peft_model(scorer, config).eval()
    before = score(decoder, wrapped)
    assert score(decoder, wrapped) == before
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-3)
    merged = score_of(copy.deepcopy(wrapped).merge_and_unload(), TEXT)
    assert score(decoder, wrapped) == pytest.approx(merged, abs=1e-3) and abs(before - merged) > 0.01


def test_a_scorer_with_another_head_is_read_anew_and_keeps_its_mode():
    decoder, scorer = GuidedDecoder(make_model("llama")), make_scorer("llama", seed=7)
    scorer.train()
    score(decoder, scorer)
    assert all(part.training for part in scorer.modules())
    scorer.score = nn.Linear(scorer.config.hidden_size, 1, bias=False)
    assert score(decoder, scorer) == pytest.approx(score_of(scorer, TEXT), abs=1e-3)


@pytest.mark.parametrize("kind", ["classifier", "adapter", "head of one row"])
def test_a_scorer_that_was_given_is_not_kept_alive_by_the_base(kind):
    decoder, scorer = GuidedDecoder(make_model("llama")), make_scorer("llama", seed=7)
    if kind == "adapter":
        scorer = get_peft_model(scorer, LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"))
    elif kind == "head of one row":
        scorer = scorer_from_values(97, [torch.zeros(97**t, dtype=torch.float64) for t in range(2)])
    score(decoder, scorer)
    scored = ref(scorer)
    del scorer
    gc.collect()
    assert scored() is None


def test_a_scorer_runs_as_its_decoder_does():
    base, scorer = make_model("llama"), make_scorer("llama", seed=7)
    kinds = [
        scalar(GuidedDecoder(base, engine=engine), scorer, "trajectory_rm").backbones[0].kind
        for engine in ("auto", "hf")
    ]
    assert kinds[0] == "fused" and kinds[1] != "fused"


def of_transformers(scorer, text):
    """What its own forward pass says of a text in a padded batch."""
    pad = scorer.config.pad_token_id
    with torch.no_grad():
        return float(scorer(input_ids=torch.tensor([[*text, pad, pad], [5] * (len(text) + 2)])).logits[0, 0])


SILENT = {
    "args": {"candidates": 97, "choice": "stochastic"},
    "best_of_n": {"draws": 4},
    "cards": {"target": 1.0, "shortest": 1, "temperature": 1.0},
    "transfer_q": {"candidates": 20, "choice": "stochastic", "lookahead": 2},
}


@pytest.mark.parametrize("name", sorted(SILENT))
def test_a_trajectory_rm_that_pads_with_the_end_of_texts_is_read_before_it(name):
    scorer = make_scorer("llama", seed=7)
    prompts, bias = random_prompts([5, 3, 4, 6]), torch.zeros(97)
    bias[2] = 3.0  # so that answers end
    found = {}
    for pad in (0, 2):
        scorer.config.pad_token_id = pad
        decoder = GuidedDecoder(make_model("llama"))
        policy = {"policy": make_model("llama", seed=5)} if name == "transfer_q" else {}
        settings = {"trajectory_rm": scorer, **policy, **SILENT[name]}
        out = methods[name].generate(decoder, prompts, **settings, logit_bias=bias, max_new_tokens=6, seed=4)
        texts = [[*prompt.tolist(), *row.tolist()] for prompt, row in zip(prompts, out.tokens, strict=True)]
        assert "eos" in out.finish_reasons
        expected = [of_transformers(scorer, text) for text in texts]
        assert out.scores.tolist() == pytest.approx(expected, abs=1e-3)
        found[pad] = out.scores.tolist()
        given = [row.tolist() for row in out.tokens]
        judged = response_scores(decoder, scalar(decoder, scorer, "trajectory_rm"), prompts, given)
        assert judged.tolist() == pytest.approx(expected, abs=1e-3)
    assert found[0] != pytest.approx(found[2], abs=1e-3)
    assert scalar(decoder, scorer, "value_head").silent is None  # which was trained at every token


NARROW = {
    "args": {"trajectory_rm": 90, "candidates": 96, "weight": 0.0},
    "best_of_n": {"trajectory_rm": 90, "draws": 2},
    "cards": {"trajectory_rm": 90, "temperature": 9.0, "top_k": 0, "attempts": 1},
    "transfer_q": {"policy": "twin", "trajectory_rm": 90, "lookahead": 1, "candidates": 2},
    "vas": {"value_head": 90, "candidates": 96},
    "search": {"reward": "narrow"},
}


@pytest.mark.parametrize("name", NARROW)
def test_ids_that_a_model_lacks_are_neither_read_nor_drawn(name):
    base = make_model("llama", vocab=96)
    with torch.no_grad():
        base.lm_head.weight[90:] = 2.0 * base.lm_head.weight[3]  # the likeliest wherever id 3 would be likely
    decoder = GuidedDecoder(base, {"narrow": make_model("llama", seed=5, vocab=90), "twin": base})
    scorer = make_scorer("llama", seed=7, vocab=90)
    settings = {key: scorer if value == 90 else value for key, value in NARROW[name].items()}
    options = {"max_new_tokens": 4, "eos_token_id": [], "seed": 1, **settings}
    prompts = [torch.tensor([5, 6, 93]), *random_prompts([4, 4, 4], vocab=90)]
    with pytest.warns(UserWarning, match="from 90 on cannot be drawn") as caught:
        out = methods[name].generate(decoder, prompts, **options)
    assert caught
    assert list(out.errors) == [0] and isinstance(out.errors[0], PromptError)
    assert out.finish_reasons[0] == "error" and math.isnan(out.scores[0])
    assert all(len(row) == 4 and int(row.max()) < 90 for row in out.tokens[1:])
    with pytest.raises(GenARMError, match="token id 93"):
        methods[name].generate(decoder, prompts[:1], **options)


def test_scores_that_are_infinite_fail_their_row():
    zeros = [torch.zeros(3**t, 3, dtype=torch.float64) for t in range(2)]
    values = [torch.zeros(3**t, dtype=torch.float64) for t in range(3)]
    values[1][1] = -math.inf
    decoder = GuidedDecoder(lm_from_tables(zeros))
    for name, setting in (("vas", "value_head"), ("args", "trajectory_rm"), ("search", "value")):
        with pytest.raises(NumericalError, match=setting):
            methods[name].generate(decoder, [[0]], max_new_tokens=2, **{setting: scorer_from_values(3, values)})


def test_rows_that_fail_together_leave_the_others_their_answers():
    zeros = [torch.zeros(3**t, 3, dtype=torch.float64) for t in range(2)]
    base, values = lm_from_tables(zeros), [torch.zeros(3**t, dtype=torch.float64) for t in range(3)]
    values[1][:] = math.nan
    decoder = GuidedDecoder(base, max_batch_size=1)
    with pytest.raises(NumericalError):
        methods["search"].generate(
            decoder, [[0], [1]], kind="sample", max_new_tokens=2, value=scorer_from_values(3, values)
        )


def test_parts_of_a_decoder_are_told_apart_by_what_they_are():
    prompts = random_prompts([5, 3])
    rewards = {"policy": make_model("llama", seed=9), "art": make_model("llama", seed=11)}
    decoder = GuidedDecoder(make_model("llama"), rewards)
    decoder.only("policy", "art")
    out = methods["dpo"].generate(decoder, prompts, policy="art", max_new_tokens=6, temperature=0)
    plain = GuidedDecoder(rewards["art"]).generate(prompts, max_new_tokens=6, temperature=0)
    assert [row.tolist() for row in out.tokens] == [row.tolist() for row in plain.tokens]


def test_parts_of_a_decoder_write_text_by_the_tokenizer_it_has_now():
    decoder = GuidedDecoder(make_model("llama"))
    assert decoder.only().generate(random_prompts([3]), max_new_tokens=2).texts is None
    decoder.tokenizer = word_tokenizer(bos_token="w1", eos_token="w2", pad_token="w0")
    assert decoder.only().generate(random_prompts([3]), max_new_tokens=2).texts
