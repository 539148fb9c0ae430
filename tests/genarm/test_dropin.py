"""The drop-in: stock transformers models, stock ``generate``, greedy output equal to Hugging Face's own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, left_padded, make_model, plain_greedy, random_prompts, save_adapter, with_adapter
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

import genarm
from genarm import GenARMError, GuidedDecoder, UnsupportedGenerationError, custom_generate

PROMPTS = random_prompts([6, 11, 3], seed=1)
IDS, MASK = left_padded(PROMPTS)
BATCH = {"input_ids": IDS, "attention_mask": MASK}


@pytest.fixture(scope="module")
def model() -> Any:
    """EOS comes up for the first row after five tokens."""
    model = make_model("llama", seed=1)
    out = model.generate(PROMPTS[0][None], max_new_tokens=5, do_sample=False, eos_token_id=[])
    model.generation_config.eos_token_id = [2, int(out[0, -1])]
    return model


@pytest.fixture(scope="module")
def eos(model: Any) -> list[int]:
    return list(model.generation_config.eos_token_id)


class Ban:
    """A caller's processor: forbids the best token at every other step, and must see what transformers shows."""

    def __init__(self) -> None:
        self.seen: list[list[list[int]]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(input_ids.tolist())
        if input_ids.shape[1] % 2:
            scores = scores.scatter(1, scores.argmax(1, keepdim=True), -torch.inf)
        return scores


class Force:
    """Whatever the model says, the same token: at a constant, or at +inf."""

    def __init__(self, token: int, value: float) -> None:
        self.token, self.value = token, value

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = torch.full_like(scores, -torch.inf) if self.value < torch.inf else scores.clone()
        scores[:, self.token] = self.value
        return scores


class Level:
    """All of some tokens at one score: the lowest id wins."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = torch.full_like(scores, -torch.inf)
        scores[:, 30:60] = 0.1
        return scores


class StopAt:
    """A caller's criterion: stops a row after a token, looks at the scores it is given."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = torch.tensor(tokens)
        self.scores: list[Any] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.scores.append(None if scores is None else len(scores))
        return torch.isin(input_ids[:, -1], self.tokens)


def both(model: Any, make: Any) -> tuple[Any, Any]:
    """Hugging Face's own output and the drop-in's, for fresh arguments each."""
    torch.manual_seed(0)
    expected = model.generate(**make())
    torch.manual_seed(0)
    return expected, model.generate(**make(), custom_generate=custom_generate)


def assert_same_output(expected: Any, found: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
        return
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("scores", "logits"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert len(ours) == len(theirs)
            # a finished row goes on with other tokens inside, so its scores are of no use to anybody
            for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                live = expected.sequences[:, IDS.shape[1] + step] != 0
                torch.testing.assert_close(one[live], other[live], atol=1e-4, rtol=1e-4)


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "repetition_reward": {"repetition_penalty": 0.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[74], [68, 64], [24]]},
    "sequence_bias": {"sequence_bias": {(11,): 20.0, (74, 68): -30.0}},
    "min_new_tokens": {"min_new_tokens": 9},
    "min_length": {"min_length": 19},
    "forced_eos_token_id": {"forced_eos_token_id": 2},
    "forced_bos_token_id": {"forced_bos_token_id": 9},
    "suppress_tokens": {"suppress_tokens": [74, 68, 64]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [74, 24]},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (3, 1.5)},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 2.0},
    "renormalize_logits": {"renormalize_logits": True},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda batch, ids: [3 + batch, 40, 2 + len(ids)]},
    "guidance_scale": {"guidance_scale": 1.5},
    "several penalties": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_length": 15},
    "several eos": {"eos_token_id": [2, 74, 24, 53]},
    "one eos": {"eos_token_id": 74},
    "eos as padding": {"eos_token_id": 74, "pad_token_id": 74},
    "padding": {"pad_token_id": 33},
    "max_length": {"max_new_tokens": None, "max_length": 17},
    "both lengths": {"max_length": 13},
    "default length": {"max_new_tokens": None},
    "max_time": {"max_time": 1000.0},
    "config": {"max_new_tokens": None, "generation_config": GenerationConfig(max_new_tokens=7, repetition_penalty=1.4)},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "dict": {"return_dict_in_generate": True},
    "scores": {"return_dict_in_generate": True, "output_scores": True, "repetition_penalty": 1.3},
    "scores and logits": {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    "logits": {"return_dict_in_generate": True, "output_logits": True, "suppress_tokens": [74]},
    "one prompt": {"input_ids": PROMPTS[0][None], "attention_mask": None},
    "no mask": {"input_ids": torch.stack(random_prompts([5, 5], seed=8)), "attention_mask": None},
    "padding without a mask": {"attention_mask": None},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`:UserWarning")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_without_reward_models_it_is_generate(model: Any, options: dict[str, Any]) -> None:
    def make() -> dict[str, Any]:
        call = {**BATCH, "max_new_tokens": 10, "do_sample": False, **copy.deepcopy(options)}
        return {name: value for name, value in call.items() if value is not None}

    assert_same_output(*both(model, make))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_decodes_as_its_own_generate(family: str) -> None:
    model = make_model(family, seed=1)
    expected, found = both(model, lambda: {**BATCH, "max_new_tokens": 8, "do_sample": False, "repetition_penalty": 1.1})
    assert torch.equal(found, expected)


def test_padding_without_a_pad_id_is_the_first_eos() -> None:
    model = make_model("llama", seed=1)
    out = model.generate(PROMPTS[0][None], max_new_tokens=5, do_sample=False, eos_token_id=[])
    model.generation_config.pad_token_id = model.config.pad_token_id = None
    for eos in ([7, int(out[0, -1])], [int(out[0, -1]), 7], int(out[0, -1])):
        expected, found = both(
            model, lambda eos=eos: {**BATCH, "max_new_tokens": 9, "do_sample": False, "eos_token_id": eos}
        )
        assert torch.equal(found, expected)
        assert found[0, -1] == (eos[0] if isinstance(eos, list) else eos)
    plain = copy.deepcopy(model.generation_config)
    plain.update(max_length=20, do_sample=False, eos_token_id=out[0, -1:].tolist())
    found = custom_generate(model, IDS, generation_config=plain, attention_mask=MASK)
    assert isinstance(found, Tensor)
    assert found[0, -1] == out[0, -1]


def test_a_callers_processor_sees_and_does_what_it_would_in_generate(model: Any) -> None:
    bans: list[Ban] = []

    def make() -> dict[str, Any]:
        bans.append(Ban())
        processors = LogitsProcessorList([bans[-1]])
        return {
            **BATCH,
            "max_new_tokens": 8,
            "do_sample": False,
            "logits_processor": processors,
            "repetition_penalty": 1.2,
        }

    expected, found = both(model, make)
    assert torch.equal(found, expected)
    assert bans[0].seen == bans[1].seen


@pytest.mark.parametrize("processor", [Force(5, 0.0), Force(96, 7.25), Force(50, torch.inf), Level()])
def test_a_processor_may_set_scores_outright(model: Any, processor: Any) -> None:
    expected, found = both(
        model,
        lambda: {
            **BATCH,
            "max_new_tokens": 3,
            "do_sample": False,
            "logits_processor": LogitsProcessorList([processor]),
        },
    )
    assert torch.equal(found, expected)


def test_a_processor_cannot_bring_back_what_a_model_masks(model: Any) -> None:
    """The −inf of the base, or of a reward model with a weight, excludes a token whatever is done to the scores."""
    reward = make_model("llama", seed=2)

    class Raise:
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            return scores.index_fill(1, torch.tensor([50]), 100.0)

    def drawn(weight: float) -> set[int]:
        out = model.generate(
            **BATCH, max_new_tokens=3, do_sample=False, logits_processor=LogitsProcessorList([Raise()]),
            custom_generate=custom_generate, reward_models=[reward], reward_weights=[weight],
        )  # fmt: skip
        return set(out[:, 11:].flatten().tolist())

    def mask(_module: Any, _args: Any, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([50]), -torch.inf)

    assert drawn(0.5) == {50}
    hook = reward.lm_head.register_forward_hook(mask)
    assert 50 not in drawn(0.5)
    assert drawn(0.0) == {50}
    hook.remove()
    hook = model.lm_head.register_forward_hook(mask)
    assert 50 not in drawn(0.5)
    hook.remove()


@pytest.mark.parametrize("with_eos", [True, False])
@pytest.mark.parametrize("scores", [True, False])
def test_a_callers_stopping_criterion_stops_where_it_would_in_generate(
    model: Any, eos: list[int], with_eos: bool, scores: bool
) -> None:
    """Without an EOS, transformers pads nothing: stopped rows go on until all have stopped."""
    free = model.generate(**BATCH, max_new_tokens=10, do_sample=False, eos_token_id=[])[:, 11:]
    criteria: list[StopAt] = []

    def make() -> dict[str, Any]:
        criteria.append(StopAt([int(free[0, 2]), int(free[1, 5]), int(free[2, 7])]))
        return {
            **BATCH, "max_new_tokens": 10, "do_sample": False, "eos_token_id": eos if with_eos else [],
            "stopping_criteria": StoppingCriteriaList([criteria[-1]]),
            "return_dict_in_generate": scores, "output_scores": scores,
        }  # fmt: skip

    if not with_eos:
        saved, model.generation_config.eos_token_id = model.generation_config.eos_token_id, None
    try:
        expected, found = both(model, lambda: {k: v for k, v in make().items() if v != []})
    finally:
        if not with_eos:
            model.generation_config.eos_token_id = saved
    sequences = [out.sequences if scores else out for out in (expected, found)]
    assert torch.equal(sequences[1], sequences[0])
    assert sequences[0].shape[1] < 11 + 10, "all rows are to stop early"
    assert criteria[0].scores == criteria[1].scores
    assert criteria[0].scores[0] == (1 if scores else None)


def test_stop_strings_work_as_a_criterion(model: Any) -> None:
    """``stop_strings`` itself needs the tokenizer, which transformers does not hand on to a custom generate."""
    words = {f"w{index}": index for index in range(96)} | {"abcdef": 96}  # which the criterion looks for
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")))
    free = model.generate(**BATCH, max_new_tokens=6, do_sample=False)[:, 11:]
    stop = f"w{int(free[1, 3])}"
    expected = model.generate(**BATCH, max_new_tokens=6, do_sample=False, stop_strings=[stop], tokenizer=tokenizer)
    found = model.generate(
        **BATCH, max_new_tokens=6, do_sample=False, custom_generate=custom_generate,
        stopping_criteria=StoppingCriteriaList([StopStringCriteria(tokenizer, [stop])]),
    )  # fmt: skip
    assert torch.equal(found, expected)


def test_guided_greedy_is_the_plain_loop(model: Any, tmp_path: Path) -> None:
    adapter = save_adapter(model, "llama", tmp_path / "a", seed=4)
    reward = make_model("llama", seed=2, hidden=16)
    plain = [model, with_adapter(model, adapter), reward]
    for reward_models, weights in (
        ({"a": str(adapter), "b": reward}, {"a": 1.2, "b": -0.6}),
        ([adapter, reward], [1.2, -0.6]),
        ([adapter, reward], [{"reward_0": 1.2, "reward_1": -0.6}] * 3),
        ([adapter, reward], torch.tensor([[1.2, -0.6]] * 3)),
    ):
        out = model.generate(
            **BATCH, custom_generate=custom_generate, reward_models=reward_models, reward_weights=weights,
            max_new_tokens=8, do_sample=False, eos_token_id=2,
        )  # fmt: skip
        for row, prompt in enumerate(PROMPTS):
            expected = plain_greedy(plain, [1.0, 1.2, -0.6], prompt, 8)
            assert out[row, 11 : 11 + len(expected)].tolist() == expected


def test_every_keyword_of_its_own_reaches_the_decoder(model: Any) -> None:
    reward = make_model("llama", seed=2, hidden=16)
    prompts = random_prompts([4, 2, 7], seed=9)
    options: dict[str, Any] = {
        "reward_prompts": {"r": prompts}, "beta": 0.5, "base_weight": 0.8, "base_min_p": 0.05, "base_top_p": 0.95,
    }  # fmt: skip
    found = model.generate(
        **BATCH, custom_generate=custom_generate, reward_models={"r": reward}, reward_weights={"r": 0.7}, seed=11,
        max_new_tokens=8, do_sample=True, top_k=0, **options,
    )  # fmt: skip
    expected = GuidedDecoder(model, {"r": reward}).generate(
        IDS, MASK, weights={"r": 0.7}, seed=11, max_new_tokens=8, **options
    )
    assert torch.equal(found, expected.sequences)


def test_several_sequences_a_prompt_each_with_their_prompts_settings(model: Any) -> None:
    reward = make_model("llama", seed=2, hidden=16)
    call: dict[str, Any] = {"max_new_tokens": 6, "do_sample": True, "top_k": 0, "seed": 3, "num_return_sequences": 2}
    weights = [{"r": 0.0}, {"r": 1.0}, {"r": -2.0}]
    prompts = random_prompts([4, 2, 7], seed=9)
    found = model.generate(
        **BATCH, custom_generate=custom_generate, reward_models={"r": reward}, reward_weights=weights,
        reward_prompts={"r": prompts}, beta=[1.0, 2.0, 0.5], base_weight=torch.tensor([1.0, 0.5, 2.0]), **call,
    )  # fmt: skip
    assert found.shape == (6, 17)
    twice = [0, 0, 1, 1, 2, 2]
    expected = GuidedDecoder(model, {"r": reward}).generate(
        IDS[twice], MASK[twice], weights=[weights[row] for row in twice], seed=3, max_new_tokens=6,
        reward_prompts={"r": [prompts[row] for row in twice]}, beta=[1.0, 1.0, 2.0, 2.0, 0.5, 0.5],
        base_weight=[1.0, 1.0, 0.5, 0.5, 2.0, 2.0],
    )  # fmt: skip
    assert torch.equal(found, expected.sequences)
    assert not torch.equal(found[0], found[1]), "two sequences of one prompt differ"
    tensors = model.generate(
        **BATCH, custom_generate=custom_generate, reward_models={"r": reward},
        reward_weights=torch.tensor([[0.0], [1.0], [-2.0]]), beta=torch.tensor([1.0, 2.0, 0.5]),
        reward_prompts={"r": left_padded([prompts[0]] * 3)[0]}, **call,
    )  # fmt: skip
    assert tensors.shape[0] == 6


def test_a_number_a_reward_model_is_not_taken_for_one_a_prompt(model: Any) -> None:
    """Two prompts, two sequences each, two reward models: [w_0, w_1] are the models' weights."""
    rewards = [make_model("llama", seed=2, hidden=16), make_model("llama", seed=3, hidden=16)]
    call: dict[str, Any] = {
        "input_ids": IDS[:2], "attention_mask": MASK[:2], "max_new_tokens": 6, "do_sample": True, "seed": 3,
        "num_return_sequences": 2, "custom_generate": custom_generate, "reward_models": rewards,
    }  # fmt: skip
    expected = model.generate(**call, reward_weights={"reward_0": 1.5, "reward_1": -0.5})
    for weights in ([1.5, -0.5], torch.tensor([1.5, -0.5]), (1.5, -0.5)):
        assert torch.equal(model.generate(**call, reward_weights=weights), expected)


def test_row_seeds_are_one_for_each_returned_sequence(model: Any) -> None:
    call: dict[str, Any] = {**BATCH, "max_new_tokens": 6, "do_sample": True, "num_return_sequences": 2}
    out = model.generate(**call, custom_generate=custom_generate, seed=torch.arange(6))
    assert len({tuple(row) for row in out.tolist()}) == 6
    with pytest.raises(GenARMError, match=r"seed is torch\.int64"):
        model.generate(**call, custom_generate=custom_generate, seed=torch.arange(3))


def test_a_peft_model_generates_with_its_adapter_as_the_base(tmp_path: Path) -> None:
    base = make_model("llama", seed=1)
    policy = with_adapter(base, save_adapter(base, "llama", tmp_path / "policy", seed=4))
    expected, found = both(policy, lambda: {**BATCH, "max_new_tokens": 8, "do_sample": False})
    assert torch.equal(found, expected)
    assert not torch.equal(found, base.generate(**BATCH, max_new_tokens=8, do_sample=False))
    reward = make_model("llama", seed=2)
    out = policy.generate(
        **BATCH, custom_generate=custom_generate, reward_models=[reward], max_new_tokens=8, do_sample=False
    )
    for row, prompt in enumerate(PROMPTS):
        tokens = plain_greedy([policy, reward], [1.0, 1.0], prompt, 8)
        assert out[row, 11 : 11 + len(tokens)].tolist() == tokens


def test_the_model_and_its_configuration_are_left_alone(model: Any) -> None:
    before = model.generation_config.to_dict()
    flags = [part.training for part in model.modules()]
    model.generate(
        **BATCH, max_new_tokens=2, custom_generate=custom_generate, reward_models=[make_model("llama", seed=2)]
    )
    assert model.generation_config.to_dict() == before
    assert [part.training for part in model.modules()] == flags


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"num_beams": 2}, "num_beams = 2"),
        ({"num_beams": 2, "do_sample": True}, "num_beams = 2"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive"),
        ({"prompt_lookup_num_tokens": 3}, "assisted"),
        ({"dola_layers": "high"}, "dola"),
        ({"return_dict_in_generate": True, "output_attentions": True}, "output_attentions"),
        ({"return_dict_in_generate": True, "output_hidden_states": True}, "output_hidden_states"),
        ({"input_ids": None, "attention_mask": None, "inputs_embeds": torch.zeros(2, 3, 32)}, "inputs_embeds"),
        ({"inputs_embeds": torch.zeros(3, 11, 32)}, "inputs_embeds"),
    ],
)
def test_other_modes_and_inputs_are_refused_in_one_line(model: Any, options: dict[str, Any], cause: str) -> None:
    call = {**BATCH, "max_new_tokens": 4, **options}
    with pytest.raises(UnsupportedGenerationError) as caught:
        model.generate(**{k: v for k, v in call.items() if v is not None}, custom_generate=custom_generate)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_token_types_are_refused_where_the_model_would_read_them() -> None:
    with pytest.raises(UnsupportedGenerationError, match="token_type_ids was passed"):
        make_model("gpt2", seed=1).generate(
            **BATCH, token_type_ids=torch.ones_like(IDS), max_new_tokens=2, custom_generate=custom_generate
        )


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_are_refused_rather_than_left_out(config: Any) -> None:
    model = get_peft_model(make_model("llama", seed=1), config(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    with pytest.raises(GenARMError, match="virtual tokens"):
        model.generate(**BATCH, max_new_tokens=2, custom_generate=custom_generate)
    with pytest.raises(GenARMError, match="virtual tokens"):
        GuidedDecoder(model)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"reward_weights": {"x": 1.0}}, "'x', which is not loaded"),
        ({"reward_weights": [1.0, 2.0]}, "shape [2]"),
        ({"reward_models": 5}, "reward_models is a int"),
        ({"beta": 0.0}, "beta is 0"),
        ({"reward_prompts": {"r": [[], [3], [4]]}}, "row 0: the r prompt is empty"),
        ({"max_new_tokens": 600}, "max_length = 512"),
        ({"attention_mask": torch.tensor([[0] * 11, [1] * 11, [1] * 11])}, "row 0: the base prompt is empty"),
    ],
)
def test_bad_arguments_are_named_in_one_line(model: Any, options: dict[str, Any], cause: str) -> None:
    rewards = {"r": make_model("llama", seed=2)}
    call = {**BATCH, "max_new_tokens": 4, "reward_models": rewards, **options}
    with pytest.raises(GenARMError) as caught:
        model.generate(**call, custom_generate=custom_generate)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_that_fails_half_way_is_warned_of_and_the_others_finish(model: Any) -> None:
    reward = make_model("llama", seed=2)
    token = next(token for token in PROMPTS[1].tolist() if token not in {*PROMPTS[0].tolist(), *PROMPTS[2].tolist()})
    with torch.no_grad():
        reward.model.embed_tokens.weight[token] = torch.nan
    call: dict[str, Any] = {**BATCH, "custom_generate": custom_generate, "max_new_tokens": 4, "do_sample": False}
    with pytest.warns(UserWarning, match=r"row 1, new token 0: the logits of 'reward_0'"):
        out = model.generate(**call, reward_models=[reward], reward_weights=[0.01])
    assert out[1, 11:].tolist() == [0] * 4
    assert torch.equal(
        out[0], model.generate(**call, reward_models=[make_model("llama", seed=2)], reward_weights=[0.01])[0]
    )


def test_the_drop_in_may_be_called_without_a_batch_of_defaults(model: Any) -> None:
    """A plain call, as ``generate`` itself makes it."""
    config = copy.deepcopy(model.generation_config)
    config.update(max_length=15, do_sample=False)
    out = custom_generate(model, IDS, generation_config=config, attention_mask=MASK)
    assert isinstance(out, Tensor)
    assert torch.equal(out, model.generate(**BATCH, max_length=15, do_sample=False))
    config.return_dict_in_generate = True
    assert isinstance(custom_generate(model, IDS, generation_config=config), GenerateDecoderOnlyOutput)
    assert genarm.custom_generate is custom_generate
