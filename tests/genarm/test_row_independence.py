"""A row's tokens depend on its prompt, its settings and its row seed, never on the batch around it (float32)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, left_padded, make_model, random_prompts, right_padded, save_adapter
from torch import Tensor

import genarm_kernels
from genarm import GuidedDecoder

LENGTHS = [5, 13, 1, 9, 17]
PROMPTS = random_prompts(LENGTHS, seed=6)
STEPS = 10
SEED = 42


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


@pytest.fixture(scope="module", params=FAMILIES)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GuidedDecoder:
    base = make_model(request.param, seed=1)
    folder: Path = tmp_path_factory.mktemp("adapter")
    adapter = save_adapter(base, request.param, folder, seed=4)
    return GuidedDecoder(base, {"lora": adapter, "full": make_model("llama", seed=2, hidden=16)})


@pytest.fixture(scope="module")
def whole(decoder: GuidedDecoder) -> list[list[int]]:
    """All rows in one left-padded batch, EOS among the tokens so that rows end at different times."""
    rows = list(range(len(LENGTHS)))
    ids, mask = left_padded(PROMPTS)
    out = decoder.generate(ids, mask, max_new_tokens=STEPS, eos_token_id=list(range(3, 12)), **settings(rows))
    return [row.tolist() for row in out.tokens]


def decode(decoder: GuidedDecoder, rows: list[int], padding: Any = None) -> list[list[int]]:
    prompts = [PROMPTS[row] for row in rows]
    call: tuple[Any, ...] = padding(prompts) if padding else (prompts,)
    out = decoder.generate(*call, max_new_tokens=STEPS, eos_token_id=list(range(3, 12)), **settings(rows))
    return [row.tolist() for row in out.tokens]


@pytest.mark.parametrize("rows", [[0], [1], [2], [3], [4], [4, 3, 2, 1, 0], [2, 0], [1, 1, 1, 4]], ids=str)
def test_a_row_does_not_depend_on_its_batch(decoder: GuidedDecoder, whole: list[list[int]], rows: list[int]) -> None:
    assert decode(decoder, rows) == [whole[row] for row in rows]


@pytest.mark.parametrize("padding", [right_padded, None], ids=["right", "list"])
def test_a_row_does_not_depend_on_its_padding(decoder: GuidedDecoder, whole: list[list[int]], padding: Any) -> None:
    assert decode(decoder, list(range(len(LENGTHS))), padding) == whole


@pytest.mark.parametrize("max_batch_size", [1, 2, 3])
def test_a_row_does_not_depend_on_its_chunk(
    decoder: GuidedDecoder, whole: list[list[int]], max_batch_size: int
) -> None:
    chunked = GuidedDecoder(
        decoder.base_model,
        dict(zip(decoder.reward_names, _rewards(decoder), strict=True)),
        max_batch_size=max_batch_size,
    )
    assert decode(chunked, list(range(len(LENGTHS)))) == whole


def _rewards(decoder: GuidedDecoder) -> list[Any]:
    return [model.adapter or model.module for model in decoder.models[1:]]


def test_a_row_repeats_alone_with_its_row_seed() -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1), [make_model("llama", seed=2)])
    batch = decoder.generate(PROMPTS, seed=SEED, max_new_tokens=STEPS)
    for row, prompt in enumerate(PROMPTS):
        seed = genarm_kernels.row_seeds(SEED, len(PROMPTS))[row : row + 1]
        alone = decoder.generate([prompt], seed=seed, max_new_tokens=STEPS)
        assert torch.equal(alone.tokens[0], batch.tokens[row])
    shorter = decoder.generate(PROMPTS[:2], seed=SEED, max_new_tokens=STEPS)
    assert torch.equal(shorter.tokens[1], batch.tokens[1]), "a row seed does not depend on the size of the batch"


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_noise_and_penalty_follow_the_base_prompt_and_not_a_streams_own(penalty: float) -> None:
    base = make_model("llama", seed=1)
    plain = GuidedDecoder(base).generate(PROMPTS, seed=SEED, max_new_tokens=STEPS, repetition_penalty=penalty)
    own = random_prompts([20, 1, 3, 8, 2], seed=8)
    other = GuidedDecoder(base, {"r": make_model("llama", seed=2)}).generate(
        PROMPTS, seed=SEED, max_new_tokens=STEPS, weights={"r": 0.0}, reward_prompts={"r": own},
        repetition_penalty=penalty,
    )  # fmt: skip
    assert torch.equal(plain.sequences, other.sequences)


def test_rows_of_one_prompt_differ_by_their_seeds_alone() -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1))
    prompts = [PROMPTS[0]] * 4
    tokens = decoder.generate(prompts, seed=[7, 8, 7, 9], max_new_tokens=STEPS).tokens
    assert torch.equal(tokens[0], tokens[2])
    assert len({tuple(row.tolist()) for row in tokens}) == 3
    batch = decoder.generate(prompts, seed=1, max_new_tokens=STEPS).tokens
    assert len({tuple(row.tolist()) for row in batch}) == 4


def test_a_longer_generation_begins_as_a_shorter_one() -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1), [make_model("llama", seed=2)])
    short = decoder.generate(PROMPTS, seed=SEED, max_new_tokens=4, eos_token_id=[])
    long = decoder.generate(PROMPTS, seed=SEED, max_new_tokens=STEPS, eos_token_id=[])
    for one, other in zip(short.tokens, long.tokens, strict=True):
        assert torch.equal(one, other[:4])


def test_a_continuation_draws_what_the_whole_would_have() -> None:
    """Noise is keyed by the absolute position in the base's stream, so prompt + 4 tokens goes on where 4 + 6 would."""
    decoder = GuidedDecoder(make_model("llama", seed=1), [make_model("llama", seed=2)])
    seeds = genarm_kernels.row_seeds(SEED, len(PROMPTS))
    whole = decoder.generate(PROMPTS, seed=seeds, max_new_tokens=10, eos_token_id=[])
    prefixes: list[Tensor] = [torch.cat([p, t[:4]]) for p, t in zip(PROMPTS, whole.tokens, strict=True)]
    rest = decoder.generate(prefixes, seed=seeds, max_new_tokens=6, eos_token_id=[])
    for one, other in zip(whole.tokens, rest.tokens, strict=True):
        assert torch.equal(one[4:], other)
    own = decoder.generate(
        prefixes, reward_prompts={"reward_0": prefixes}, seed=seeds, max_new_tokens=6, eos_token_id=[]
    )
    assert torch.equal(own.sequences, rest.sequences)
