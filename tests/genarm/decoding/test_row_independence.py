"""A row's tokens depend on its prompt, its settings and its row seed, never on the batch around it (float32)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES, left_padded, make_model, random_prompts, right_padded, save_adapter

import genarm_kernels
from genarm import GuidedDecoder

LENGTHS = [5, 13, 1, 9, 17]
PROMPTS = random_prompts(LENGTHS, seed=6)
STEPS = 8
SEED = 42
EOS = list(range(3, 12))  # rows end at different times
Make = Callable[[int], GuidedDecoder]


def settings(rows: list[int]) -> dict[str, Any]:
    """Different in every row; ``rows`` picks some of them."""
    pick = torch.tensor(rows)
    generator = torch.Generator().manual_seed(0)
    return {
        "weights": torch.tensor([[1.0, -0.5], [0.0, 1.0], [2.0, 0.0], [0.0, 0.0], [-1.0, 0.7]])[pick],
        "beta": torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0])[pick],
        "base_weight": torch.tensor([1.0, 0.5, 1.0, 1.0, -0.3])[pick],
        "temperature": torch.tensor([1.0, 0.7, 0.0, 2.0, 1.0])[pick],
        "top_k": torch.tensor([0, 20, 0, 5, 0])[pick],
        "top_p": torch.tensor([1.0, 0.9, 1.0, 1.0, 0.6])[pick],
        "min_p": torch.tensor([0.0, 0.0, 0.1, 0.0, 0.05])[pick],
        "repetition_penalty": torch.tensor([1.0, 1.2, 1.0, 0.9, 1.0])[pick],
        "logit_bias": torch.randn(len(LENGTHS), 97, generator=generator)[pick],
        "seed": genarm_kernels.row_seeds(SEED, len(LENGTHS))[pick],
    }


@pytest.fixture(
    scope="module",
    params=[*((family, "auto") for family in FAMILIES), ("llama", "hf"), ("qwen3", "hf")],
    ids=lambda param: "-".join(param),
)
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """-> a decoder with so many rows in a chunk."""
    family, engine = request.param
    base, full = make_model(family, seed=1), make_model("llama", seed=2, hidden=16)
    adapter = save_adapter(base, family, tmp_path_factory.mktemp("adapter"), seed=4)
    return lambda rows: GuidedDecoder(base, {"lora": adapter, "full": full}, max_batch_size=rows, engine=engine)


@pytest.fixture(scope="module")
def decoder(make: Make) -> GuidedDecoder:
    return make(8)


@pytest.fixture(scope="module")
def whole(decoder: GuidedDecoder) -> list[list[int]]:
    """All rows in one left-padded batch."""
    return decode(decoder, [0, 1, 2, 3, 4], left_padded)


def decode(decoder: GuidedDecoder, rows: list[int], padding: Any = lambda rows: (rows,)) -> list[list[int]]:
    prompts = [PROMPTS[row] for row in rows]
    out = decoder.generate(*padding(prompts), max_new_tokens=STEPS, eos_token_id=EOS, **settings(rows))
    return [row.tolist() for row in out.tokens]


def test_a_row_does_not_depend_on_its_batch(decoder: GuidedDecoder, whole: list[list[int]]) -> None:
    assert len({len(row) for row in whole}) > 1
    for rows in ([0], [1], [2], [3], [4], [4, 3, 2, 1, 0], [1, 1, 1, 4]):
        assert decode(decoder, rows) == [whole[row] for row in rows]


def test_a_row_does_not_depend_on_its_padding_or_its_chunk(
    make: Make, decoder: GuidedDecoder, whole: list[list[int]]
) -> None:
    assert decode(decoder, [0, 1, 2, 3, 4], right_padded) == whole
    assert decode(make(2), [0, 1, 2, 3, 4]) == whole


def test_noise_and_penalty_follow_the_base_prompt_and_not_a_streams_own() -> None:
    """So a reward model of weight 0, whatever it reads, changes no draw."""
    base = make_model("llama", seed=1)
    common: dict[str, Any] = {"seed": SEED, "max_new_tokens": STEPS, "repetition_penalty": 1.4}
    own = random_prompts([20, 1, 3, 8, 2], seed=8)
    other = GuidedDecoder(base, {"r": make_model("llama", seed=2)}).generate(
        PROMPTS, weights={"r": 0.0}, reward_prompts={"r": own}, **common
    )
    assert torch.equal(GuidedDecoder(base).generate(PROMPTS, **common).sequences, other.sequences)


def test_rows_of_one_prompt_differ_by_their_seeds_alone() -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1))
    prompts = [PROMPTS[0]] * 4
    tokens = decoder.generate(prompts, seed=[7, 8, 7, 9], max_new_tokens=STEPS).tokens
    assert torch.equal(tokens[0], tokens[2])
    assert len({tuple(row.tolist()) for row in tokens}) == 3
    batch = decoder.generate(prompts, seed=SEED, max_new_tokens=STEPS).tokens
    assert len({tuple(row.tolist()) for row in batch}) == 4
    alone = decoder.generate(prompts[:1], seed=genarm_kernels.row_seeds(SEED, 4)[3:], max_new_tokens=STEPS)
    assert torch.equal(alone.tokens[0], batch[3]), "a batch seed stands for a seed a row"


def test_a_continuation_draws_what_the_whole_would_have() -> None:
    """Noise is keyed by the absolute position in the base's stream, so prompt + 4 tokens goes on where 4 + 6 would."""
    decoder = GuidedDecoder(make_model("llama", seed=1), [make_model("llama", seed=2)])
    common: dict[str, Any] = {"seed": genarm_kernels.row_seeds(SEED, len(PROMPTS)), "eos_token_id": []}
    whole = decoder.generate(PROMPTS, max_new_tokens=10, **common)
    short = decoder.generate(PROMPTS, max_new_tokens=4, **common)
    assert all(torch.equal(one, other[:4]) for one, other in zip(short.tokens, whole.tokens, strict=True))
    prefixes = [torch.cat([prompt, tokens]) for prompt, tokens in zip(PROMPTS, short.tokens, strict=True)]
    rest = decoder.generate(prefixes, max_new_tokens=6, **common)
    assert all(torch.equal(one[4:], other) for one, other in zip(whole.tokens, rest.tokens, strict=True))
    own = decoder.generate(prefixes, reward_prompts={"reward_0": prefixes}, max_new_tokens=6, **common)
    assert torch.equal(own.sequences, rest.sequences)
