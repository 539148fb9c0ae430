"""The drop-in: stock transformers models, stock ``generate``, greedy output equal to Hugging Face's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from families import FAMILIES, left_padded, make_model, random_prompts, word_tokenizer
from recorded import record_on_cpu
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

import genarm
from genarm import GuidedDecoder, custom_generate

PROMPTS = random_prompts([6, 11, 3], seed=1)
IDS, MASK = left_padded(PROMPTS)
BATCH = {"input_ids": IDS, "attention_mask": MASK}
GREEDY: dict[str, Any] = {**BATCH, "do_sample": False}


@pytest.fixture(scope="module")
def model() -> Any:
    """EOS comes up for the first row after five tokens."""
    model = make_model("llama", seed=1)
    out = model.generate(PROMPTS[0][None], max_new_tokens=5, do_sample=False, eos_token_id=[])
    model.generation_config.eos_token_id = [2, int(out[0, -1])]
    return model


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
    """Whatever the model says, some tokens: at a constant, where the lowest id wins, or at +inf."""

    def __init__(self, tokens: slice, value: float) -> None:
        self.tokens, self.value = tokens, value

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = torch.full_like(scores, -torch.inf) if self.value < torch.inf else scores.clone()
        scores[:, self.tokens] = self.value
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


# Each of the caller's settings at least once, several at a time where transformers makes processors of them.
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "penalties": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "encoder_repetition_penalty": 2.0},
    "biases": {
        "bad_words_ids": [[74], [68, 64], [24]], "sequence_bias": {(11,): 20.0, (74, 68): -30.0},
        "suppress_tokens": [74, 68, 64], "begin_suppress_tokens": [74, 24],
    },
    "min_new_tokens": {"min_new_tokens": 9},
    "min_length": {"min_length": 19, "repetition_penalty": 0.7},
    "length penalty": {"exponential_decay_length_penalty": (3, 1.5)},
    "forced tokens": {"forced_bos_token_id": 9, "forced_eos_token_id": 2, "renormalize_logits": True},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda batch, ids: [3 + batch, 40, 2 + len(ids)]},
    "guidance_scale": {"guidance_scale": 1.5},
    "several eos": {"eos_token_id": [2, 74, 24, 53]},
    "eos as padding": {"eos_token_id": 74, "pad_token_id": 74},
    "padding": {"pad_token_id": 33},
    "max_length": {"max_new_tokens": None, "max_length": 17},
    "both lengths": {"max_length": 13},
    "default length": {"max_new_tokens": None},
    "config": {"max_new_tokens": None, "generation_config": GenerationConfig(max_new_tokens=7, repetition_penalty=1.4)},
    "caches": {"cache_implementation": "static", "max_time": 1000.0},
    "no cache": {"use_cache": False},
    "scores and logits": {
        "return_dict_in_generate": True, "output_scores": True, "output_logits": True, "repetition_penalty": 1.3,
    },
    "logits": {"return_dict_in_generate": True, "output_logits": True, "suppress_tokens": [74]},
    "no mask": {"input_ids": torch.stack(random_prompts([5, 5], seed=8)), "attention_mask": None},
    "padding without a mask": {"attention_mask": None},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`:UserWarning")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_without_reward_models_it_is_generate(model: Any, options: dict[str, Any]) -> None:
    call = {**GREEDY, "max_new_tokens": 10, **options}
    assert_same_output(*both(model, lambda: {k: copy.deepcopy(v) for k, v in call.items() if v is not None}))


@pytest.mark.parametrize(
    ("family", "engine"),
    [*((family, "auto") for family in FAMILIES), ("llama", "hf"), ("qwen3", "hf")],
    indirect=["engine"],
)
def test_every_family_decodes_as_its_own_generate(family: str, engine: str) -> None:
    model = make_model(family, seed=1)
    options = {"return_dict_in_generate": True, "output_scores": True, "repetition_penalty": 1.1, "max_new_tokens": 8}
    assert_same_output(*both(model, lambda: {**GREEDY, **options}))


def test_padding_without_a_pad_id_is_the_first_eos() -> None:
    model = make_model("llama", seed=1)
    out = model.generate(PROMPTS[0][None], max_new_tokens=5, do_sample=False, eos_token_id=[])
    model.generation_config.pad_token_id = model.config.pad_token_id = None
    for eos in ([7, int(out[0, -1])], [int(out[0, -1]), 7], int(out[0, -1])):
        expected, found = both(model, lambda eos=eos: {**GREEDY, "max_new_tokens": 9, "eos_token_id": eos})
        assert torch.equal(found, expected)
        assert found[0, -1] == (eos[0] if isinstance(eos, list) else eos)


def test_a_callers_processor_sees_and_does_what_it_would_in_generate(model: Any) -> None:
    bans: list[Ban] = []

    def make() -> dict[str, Any]:
        bans.append(Ban())
        processors = LogitsProcessorList([bans[-1]])  # type: ignore[list-item]
        return {**GREEDY, "max_new_tokens": 8, "logits_processor": processors, "repetition_penalty": 1.2}

    expected, found = both(model, make)
    assert torch.equal(found, expected)
    assert bans[0].seen == bans[1].seen
    for outright in (Force(slice(5, 6), 0.0), Force(slice(50, 51), torch.inf), Force(slice(30, 60), 0.1)):
        processors = LogitsProcessorList([outright])  # type: ignore[list-item]
        call = {**GREEDY, "max_new_tokens": 3, "logits_processor": processors}
        expected, found = both(model, lambda call=call: call)
        assert torch.equal(found, expected)


def test_a_least_number_of_tokens_holds_beside_a_decaying_penalty(model: Any) -> None:
    """Where transformers' two processors make NaN of EOS, which it then draws at once."""
    eos = int(model.generate(**GREEDY, max_new_tokens=1)[0, -1])
    call: dict[str, Any] = {**GREEDY, "max_new_tokens": 9, "eos_token_id": eos, "custom_generate": custom_generate}
    out = model.generate(**call, min_new_tokens=4, exponential_decay_length_penalty=(1, 4.0))[:, 11:]
    assert not bool((out[:, :4] == eos).any())
    assert bool((out == eos).any(1).all())


def test_a_processor_cannot_bring_back_what_a_model_masks(model: Any) -> None:
    """The −inf of the base, or of a reward model with a weight, excludes a token whatever is done to the scores."""
    reward = make_model("llama", seed=2)

    def drawn(weight: float) -> set[int]:
        processors = LogitsProcessorList([lambda _, scores: scores.index_fill(1, torch.tensor([50]), 100.0)])  # type: ignore[list-item]
        out = model.generate(
            **GREEDY, max_new_tokens=3, logits_processor=processors, custom_generate=custom_generate,
            reward_models=[reward], reward_weights=[weight],
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


@pytest.mark.parametrize(("with_eos", "scores"), [(True, True), (True, False), (False, False)])
def test_a_callers_stopping_criterion_stops_where_it_would_in_generate(
    model: Any, with_eos: bool, scores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an EOS, transformers pads nothing: stopped rows go on until all have stopped."""
    free = model.generate(**GREEDY, max_new_tokens=10, eos_token_id=[])[:, 11:]
    criteria: list[StopAt] = []

    def make() -> dict[str, Any]:
        criteria.append(StopAt([int(free[0, 2]), int(free[1, 5]), int(free[2, 7])]))
        return {
            **GREEDY, "max_new_tokens": 10, "return_dict_in_generate": scores, "output_scores": scores,
            "stopping_criteria": StoppingCriteriaList([criteria[-1]]),
        }  # fmt: skip

    if not with_eos:
        monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    expected, found = both(model, make)
    sequences = [out.sequences if scores else out for out in (expected, found)]
    assert torch.equal(sequences[1], sequences[0])
    assert sequences[0].shape[1] < 11 + 10, "all rows are to stop early"
    assert criteria[0].scores == criteria[1].scores
    assert criteria[0].scores[0] == (1 if scores else None)


def test_stop_strings_work_as_a_criterion(model: Any) -> None:
    """``stop_strings`` itself needs the tokenizer, which transformers does not hand on to a custom generate."""
    tokenizer = word_tokenizer([*(f"w{index}" for index in range(96)), "abcdef"])  # which the criterion looks for
    stop = [f"w{int(model.generate(**GREEDY, max_new_tokens=6)[1, 11 + 3])}"]
    expected = model.generate(**GREEDY, max_new_tokens=6, stop_strings=stop, tokenizer=tokenizer)
    criteria = StoppingCriteriaList([StopStringCriteria(tokenizer, stop)])
    found = model.generate(**GREEDY, max_new_tokens=6, stopping_criteria=criteria, custom_generate=custom_generate)
    assert torch.equal(found, expected)


def test_the_drop_in_may_be_called_without_a_batch_of_defaults(model: Any) -> None:
    """A plain call, as ``generate`` itself makes it."""
    config = copy.deepcopy(model.generation_config)
    config.update(max_length=15, do_sample=False)
    out = custom_generate(model, IDS, generation_config=config, attention_mask=MASK)
    assert isinstance(out, Tensor)
    assert torch.equal(out, model.generate(**GREEDY, max_length=15))
    config.update(pad_token_id=None, eos_token_id=[int(out[0, 12]), 7])
    ended = custom_generate(model, IDS, generation_config=config, attention_mask=MASK)
    assert isinstance(ended, Tensor) and ended[0, -1] == model.generation_config.pad_token_id
    config.return_dict_in_generate = True
    assert isinstance(custom_generate(model, IDS, generation_config=config), GenerateDecoderOnlyOutput)
    assert genarm.custom_generate is custom_generate


def test_what_generate_always_brings_leaves_whole_steps_to_be_captured(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that decoding has itself run no code between steps, and the caller's stand for ``generate``'s own."""
    record_on_cpu(monkeypatch)
    interrupts = []
    own = GuidedDecoder.run

    def run(decoder: GuidedDecoder, request: Any, *args: Any) -> Any:
        interrupts.append(request.interrupts)
        output = own(decoder, request, *args)
        assert output.stats.engine == "fused (CUDA graphs)"
        return output

    monkeypatch.setattr(GuidedDecoder, "run", run)
    shorter, longer = (StoppingCriteriaList([MaxLengthCriteria(max_length=IDS.shape[1] + n)]) for n in (4, 12))
    another = StoppingCriteriaList(
        [EosTokenCriteria(eos_token_id=int(model.generate(**GREEDY, max_new_tokens=3)[1, -1]))]
    )

    class Mine(MaxLengthCriteria): ...

    mine = StoppingCriteriaList([Mine(max_length=IDS.shape[1] + 3)])
    for settings in ({}, *({"stopping_criteria": criteria} for criteria in (shorter, longer, another, mine))):
        call: dict[str, Any] = {**GREEDY, "max_new_tokens": 8, **settings}
        found = model.generate(**call, custom_generate=custom_generate)
        assert torch.equal(found, model.generate(**call))
    model.generate(**BATCH, do_sample=True, top_p=0.9, max_new_tokens=3, custom_generate=custom_generate)
    assert interrupts == [False, False, False, False, True, False]
