"""``guide_when``: the reward models count for the tokens that the base is unsure of, and for no other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from families import VOCAB, make_model, random_prompts
from torch import Tensor

import genarm
import genarm_kernels
from genarm import GenerationOutput, GuidedDecoder, InvalidArgumentError, NumericalError

PROMPTS = random_prompts([6, 11, 3, 1, 9, 4], seed=1)
STEPS = 8
SEEDS = genarm_kernels.row_seeds(5, len(PROMPTS))
GATES: list[dict[str, float] | None] = [
    {"entropy": 2.7}, {"top_probability": 0.6}, {"entropy": 2.5, "top_probability": 0.29}, None, {"entropy": 2.4},
    {"top_probability": 0.24},
]  # fmt: skip
SETTINGS: dict[str, Any] = {
    "weights": torch.tensor([[2.0], [-1.5], [3.0], [1.0], [0.5], [2.5]]),
    "base_weight": [1.0, 0.7, 1.0, 1.2, -0.5, 1.0],
    "temperature": [1.0, 0.0, 1.4, 1.0, 1.0, 0.0],
    "base_top_p": [1.0, 1.0, 0.9, 1.0, 1.0, 0.99],
    "logit_bias": {5: 2.0, 11: -math.inf},
    "seed": SEEDS,
    "eos_token_id": [],
    "max_new_tokens": STEPS,
}


def make_base(seed: int = 1, vocab: int = VOCAB) -> Any:
    """A model that is sure of some tokens and not of others."""
    model = make_model("llama", seed=seed, vocab=vocab)
    with torch.no_grad():
        model.lm_head.weight.mul_(7.0)
    return model


@pytest.fixture(scope="module")
def sure() -> Any:
    return make_base()


@pytest.fixture(scope="module")
def gated(sure: Any, reward: Any) -> GuidedDecoder:
    return GuidedDecoder(sure, {"r": reward})


def is_guided(gate: dict[str, float] | None, logits: list[float]) -> bool:
    """In plain Python, in float64."""
    top = max(logits)
    masses = [math.exp(z - top) for z in logits]
    total = sum(masses)
    entropy = -sum(mass / total * math.log(mass / total) for mass in masses if mass)
    limits = gate or {}
    return entropy >= limits.get("entropy", 0.0) and max(masses) / total <= limits.get("top_probability", 1.0)


def plain_loop(models: list[Any], row: int) -> tuple[list[int], list[bool]]:
    """A row's tokens, and which of them were guided: each model alone on the whole text, and the oracle's draw."""
    tokens: list[int] = []
    flags: list[bool] = []
    bias = torch.zeros(VOCAB).index_put((torch.tensor([5, 11]),), torch.tensor([2.0, -math.inf]))
    for _ in range(STEPS):
        ids = torch.cat([PROMPTS[row], torch.tensor(tokens, dtype=torch.int64)])[None]
        with torch.no_grad():
            logits = [model(input_ids=ids).logits[:, -1] for model in models]
        flags.append(is_guided(GATES[row], logits[0][0].tolist()))
        weight = float(SETTINGS["weights"][row]) if flags[-1] else 0.0
        sample = genarm_kernels.reference.guided_sample(
            logits, torch.tensor([SETTINGS["base_weight"][row], weight]), bias=bias, seed=SEEDS[row : row + 1],
            temperature=SETTINGS["temperature"][row], base_top_p=SETTINGS["base_top_p"][row], position=ids.shape[1],
        )  # fmt: skip
        tokens.append(int(sample.tokens))
    return tokens, flags


def same(one: GenerationOutput, other: GenerationOutput) -> bool:
    """Bit for bit, the log-probabilities too."""
    assert one.logprobs is not None and other.logprobs is not None
    same_logprobs = torch.equal(one.logprobs.nan_to_num(9.0), other.logprobs.nan_to_num(9.0))
    return torch.equal(one.sequences, other.sequences) and same_logprobs


def flags_of(out: GenerationOutput) -> Tensor:
    assert out.guided is not None and out.guided.dtype == torch.bool
    return out.guided


def test_tokens_are_those_of_a_plain_loop_that_asks_the_base_first(
    gated: GuidedDecoder, sure: Any, reward: Any
) -> None:
    out = gated.generate(PROMPTS, guide_when=GATES, **SETTINGS)
    for row in range(len(PROMPTS)):
        tokens, flags = plain_loop([sure, reward], row)
        assert out.tokens[row].tolist() == tokens, f"row {row}"
        assert flags_of(out)[row].tolist() == flags, f"row {row}"
    shares = flags_of(out).float().mean(1).tolist()
    assert shares[3] == 1.0 and all(0 < share < 1 for row, share in enumerate(shares) if row != 3), shares
    assert out.stats.guided_tokens == int(flags_of(out).sum())


def test_a_row_does_not_depend_on_its_batch(gated: GuidedDecoder, sure: Any, reward: Any) -> None:
    whole = gated.generate(PROMPTS, guide_when=GATES, **SETTINGS)
    chunked = GuidedDecoder(sure, {"r": reward}, max_batch_size=4).generate(PROMPTS, guide_when=GATES, **SETTINGS)
    assert torch.equal(whole.sequences, chunked.sequences) and torch.equal(flags_of(whole), flags_of(chunked))
    for row in (0, 2, 5):
        own = {name: value[row : row + 1] if name in {"weights", "seed"} else value for name, value in SETTINGS.items()}
        own |= {name: SETTINGS[name][row] for name in ("base_weight", "temperature", "base_top_p")}
        alone = gated.generate(PROMPTS[row : row + 1], guide_when=GATES[row], **own)
        assert torch.equal(alone.tokens[0], whole.tokens[row])
        assert torch.equal(flags_of(alone)[0], flags_of(whole)[row])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_ends_are_full_guidance_and_the_base_alone(gated: GuidedDecoder, temperature: float) -> None:
    call: dict[str, Any] = {"max_new_tokens": STEPS, "return_logprobs": True, "temperature": temperature, "seed": 3}
    full = gated.generate(PROMPTS, weights={"r": 2.0}, **call)
    bare = gated.generate(PROMPTS, weights={"r": 0.0}, **call)
    assert not same(full, bare) and full.guided is None and full.stats.guided_tokens is None
    for gate in ({"entropy": 99.0}, {"top_probability": 0.0}, {"entropy": 1e-9, "top_probability": 0.0}):
        out = gated.generate(PROMPTS, weights={"r": 2.0}, guide_when=gate, **call)
        assert same(out, bare) and not flags_of(out).any()
    for gate in ({"entropy": 1e-9}, {"top_probability": 1 - 1e-7}):
        out = gated.generate(PROMPTS, weights={"r": 2.0}, guide_when=gate, **call)
        assert same(out, full) and out.stats.guided_tokens == out.stats.new_tokens
    for off in (None, {}, {"entropy": 0, "top_probability": 1}, [None] * len(PROMPTS)):
        assert gated.prepare(PROMPTS, guide_when=off).guidance.gate is None, "costs nothing"


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"repetition_penalty": 1.3, "top_k": 30}])
def test_scores_have_the_gate_of_the_draw(gated: GuidedDecoder, options: dict[str, Any]) -> None:
    call: dict[str, Any] = {"weights": {"r": 2.0}, "guide_when": GATES, **options}
    out = gated.generate(PROMPTS, max_new_tokens=STEPS, eos_token_id=[*range(20)], return_logprobs=True, **call)
    found = gated.score(PROMPTS, out.tokens, **call)
    assert found.guided is not None and torch.equal(found.guided, flags_of(out))
    assert out.logprobs is not None and 0 < flags_of(out).float().mean() < 1
    torch.testing.assert_close(found.logprobs, out.logprobs, atol=2e-5, rtol=2e-5, equal_nan=True)
    lengths = torch.tensor([[len(row)] for row in out.tokens])
    assert not bool((flags_of(out) & (torch.arange(out.logprobs.shape[1]) >= lengths)).any()), "behind a row's end"
    assert gated.score(PROMPTS, out.tokens).guided is None
    if "temperature" in options:
        assert bool(found.greedy.all())


def test_thresholds_are_given_per_prompt_and_hold_for_all_its_sequences(gated: GuidedDecoder) -> None:
    call: dict[str, Any] = {"weights": {"r": 2.0}, "num_return_sequences": 2, "max_new_tokens": 4}
    tables = [
        gated.prepare(PROMPTS[:2], guide_when=given, **call).guidance.gate
        for given in ({"entropy": [1.0, 0.0]}, {"entropy": torch.tensor([1.0, 0.0])}, [{"entropy": 1.0}, None])
    ]
    for table in tables:
        assert table is not None and table.tolist() == [[1.0, 1.0]] * 2 + [[0.0, 1.0]] * 2


def test_an_unguided_token_asks_nothing_of_a_reward_model(sure: Any) -> None:
    """Its −inf does not exclude, and its NaN does not fail the row; the base's NaN does, guided or not."""
    broken = make_model("llama", seed=2, hidden=16)
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    call: dict[str, Any] = {"max_new_tokens": 4, "seed": 1}
    decoder = GuidedDecoder(sure, {"r": broken})
    bare = GuidedDecoder(sure).generate(PROMPTS, **call)
    assert torch.equal(decoder.generate(PROMPTS, guide_when={"entropy": 99.0}, **call).sequences, bare.sequences)
    with pytest.raises(NumericalError, match="'r' hold NaN"):
        decoder.generate(PROMPTS, guide_when={"entropy": 1e-9}, **call)
    for gate in ({"entropy": 99.0}, {"entropy": 1e-9}):
        with pytest.raises(NumericalError, match="'base' hold NaN"):
            GuidedDecoder(broken, {"r": sure}).generate(PROMPTS, guide_when=gate, **call)


@pytest.mark.filterwarnings("ignore:the base's ids")
def test_ids_that_a_reward_model_cannot_read_are_not_drawn_between_its_tokens(reward: Any) -> None:
    decoder = GuidedDecoder(make_base(vocab=VOCAB + 7), {"r": reward})
    call: dict[str, Any] = {"logit_bias": {VOCAB + 2: 30.0, 7: 20.0}, "max_new_tokens": 3, "eos_token_id": []}
    weights = [{"r": 1.0}, {"r": 1.0}, {}]
    out = decoder.generate(
        PROMPTS[:3], weights=weights, guide_when=[{"entropy": 99.0}, None, {"entropy": 99.0}], **call
    )
    assert [set(row.tolist()) for row in out.tokens] == [{7}, {7}, {VOCAB + 2}]


def test_the_drop_in_has_it_too(sure: Any, reward: Any, gated: GuidedDecoder) -> None:
    ids = torch.stack([PROMPTS[0], PROMPTS[0].flip(0)])
    gates: Any = [{"entropy": 2.7}, {"top_probability": 0.3}]
    found = sure.generate(
        ids, custom_generate=genarm.custom_generate, reward_models={"r": reward}, reward_weights={"r": 2.0}, seed=4,
        guide_when=gates, max_new_tokens=6, do_sample=True, top_k=0, num_return_sequences=2,
    )  # fmt: skip
    out = gated.generate(ids, weights={"r": 2.0}, guide_when=gates, seed=4, max_new_tokens=6, num_return_sequences=2)
    assert torch.equal(found, out.sequences) and 0 < flags_of(out).float().mean() < 1


@pytest.mark.parametrize(
    ("given", "options", "text"),
    [
        ({"entropi": 1.0}, {}, "names 'entropi': did you mean 'entropy'"),
        ([{"entropy": 1.0}, {"top": 1.0}], {}, "names 'top'"),
        (2.0, {}, r'guide_when is 2.0: pass \{"entropy": nats\}'),
        ("entropy", {}, "guide_when is 'entropy'"),
        ([{"entropy": 1.0}], {}, "a list of 1 for 2 sequences"),
        ([{"entropy": [1.0]}, None], {}, r"\['entropy'\] is \[1.0\] in one row: pass a number"),
        ({"entropy": "low"}, {}, r"\['entropy'\] is 'low'"),
        ({"entropy": [1.0, 2.0, 3.0]}, {}, r"shape \[3\]"),
        ({"entropy": -1.0}, {}, "at least 0"),
        ({"entropy": math.nan}, {}, "finite"),
        ({"top_probability": 1.5}, {}, "from 0 to 1"),
        ({"entropy": 1.0}, {"base_weight": [1.0, 0.0]}, "row 1 has base_weight 0"),
    ],
    ids=str,
)
def test_what_is_no_gate_is_refused(gated: GuidedDecoder, given: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        gated.generate(PROMPTS[:2], guide_when=given, **options)
