"""Captured steps, on a CPU by recording (recorded.py): the eager engine's results, whatever changes between replays."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
import torch
from captured_cases import EOS, OPTIONS, PROMPTS, assert_same
from families import make_model, random_prompts
from recorded import record_on_cpu

import genarm
from genarm import GenerationOutput, GuidedDecoder
from genarm.engine.memory import bucket


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)


def test_every_batch_is_the_eager_one(decoder: GuidedDecoder, eager: GuidedDecoder) -> None:
    """One capture a bucket; idle rows do nothing to the others."""
    for batch in (1, 2, 3, 5, 9):
        found = decoder.generate(PROMPTS[:batch], **OPTIONS)
        assert_same(found, eager.generate(PROMPTS[:batch], **OPTIONS))
        assert found.stats.engine == "fused (CUDA graphs)"
        assert decoder.engine.captures == bucket(batch).bit_length()
    assert len(set(found.finish_reasons)) > 1


def test_log_probabilities_are_read_between_captured_steps(decoder: GuidedDecoder) -> None:
    running = decoder.start(decoder.prepare(PROMPTS[:3], **OPTIONS | {"return_logprobs": True}))
    live = [running.live_logprobs() for _ in running.steps()]
    whole = running.output().model_logprobs
    assert whole is not None and len(live) > 2
    for count, found in enumerate(live, start=1):
        assert found is not None and torch.equal(found.nan_to_num(9.0), whole[:, :count].nan_to_num(9.0))


CHANGES: list[dict[str, Any]] = [
    {},
    {"seed": 4},
    {"weights": {"a": -0.5, "b": 2.0}},
    {"weights": [{"a": float(row), "b": 0.0} for row in range(4)]},
    {"beta": 0.5, "base_weight": 0.7},
    {"temperature": 0.3},
    {"temperature": [0.0, 1.0, 2.0, 0.5]},
    {"eos_token_id": [7, *range(60, 70)]},
    {"max_new_tokens": 3},
    {"reward_prompts": {"b": random_prompts([2, 20, 9, 3], seed=9)}},
]
# Values of what is on keep their capture, switching a kind of setting on or off needs another.
SETTINGS: list[list[dict[str, Any]]] = [
    [{"top_k": 5}, {"top_k": 60}, {"top_k": [1, 0, 97, 40]}],
    [{"top_p": 0.5, "min_p": 0.01}, {"top_p": 0.99, "min_p": 0.2}, {"top_p": [0.1, 1.0, 0.6, 0.9], "min_p": 0.3}],
    [{"base_min_p": 0.1}, {"base_min_p": [0.0, 0.5, 0.01, 1.0]}],
    [{"base_top_p": 0.9}, {"base_top_p": 0.2}],
    [{"logit_bias": {5: 3.0}}, {"allowed_tokens": [5, 6, 7]}, {"logit_bias": torch.linspace(-1, 1, 97)}],
    [{"repetition_penalty": 1.3}, {"repetition_penalty": [0.7, 1.0, 2.0, 5.0]}],
    [
        {"guide_when": {"entropy": 4.5}},
        {"guide_when": {"top_probability": 0.025}},
        {"guide_when": [{}, {"entropy": 9}] * 2},
    ],
    [{"stop": [[50], [40, 41]]}, {"stop": [[51, 52, 53], *([k] for k in range(30, 33))]}],
]


def test_one_captured_step_serves_all_that_differ_in_values(decoder: GuidedDecoder, eager: GuidedDecoder) -> None:
    seen = set()
    for change in [*CHANGES, CHANGES[0]]:
        found = decoder.generate(PROMPTS[:4], **OPTIONS | change)
        assert_same(found, eager.generate(PROMPTS[:4], **OPTIONS | change))
        seen.add(str(found.sequences.tolist()))
    assert len(seen) >= len(CHANGES) - 1
    assert decoder.engine.captures == 1


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "+".join(settings[0]))
def test_filters_biases_and_stops_are_values_too(
    settings: list[dict[str, Any]], decoder: GuidedDecoder, eager: GuidedDecoder
) -> None:
    for setting in [*settings, settings[0]]:
        found = decoder.generate(PROMPTS[:4], **OPTIONS | setting)
        assert_same(found, eager.generate(PROMPTS[:4], **OPTIONS | setting))
    assert decoder.engine.captures == 1
    assert_same(decoder.generate(PROMPTS[:4], **OPTIONS), eager.generate(PROMPTS[:4], **OPTIONS))
    assert decoder.engine.captures == 2


def test_log_probs_are_another_step(decoder: GuidedDecoder, eager: GuidedDecoder) -> None:
    for wanted in (True, False, True, False):
        options = OPTIONS | {"return_logprobs": wanted}
        assert_same(decoder.generate(PROMPTS[:2], **options), eager.generate(PROMPTS[:2], **options))
    assert decoder.engine.captures == 2


def test_the_callers_tensors_stay_as_they_are(decoder: GuidedDecoder) -> None:
    bias, seeds = torch.linspace(-1, 1, 97), torch.arange(4)
    flat = torch.tensor(0.5).expand(97)
    for given in (bias, flat):
        kept = given.clone(), seeds.clone()
        decoder.generate(PROMPTS[:4], **OPTIONS | {"logit_bias": given, "seed": seeds})
        decoder.generate(PROMPTS[:4], **OPTIONS | {"logit_bias": {3: 9.0}, "seed": 12})
        assert torch.equal(given, kept[0]) and torch.equal(seeds, kept[1])


def test_threads_share_a_decoder(decoder: GuidedDecoder, eager: GuidedDecoder) -> None:
    expected = [eager.generate(PROMPTS[:3], **OPTIONS | {"seed": seed}) for seed in range(4)]
    found: dict[int, GenerationOutput] = {}
    threads = [
        Thread(target=lambda seed=seed: found.update({seed: decoder.generate(PROMPTS[:3], **OPTIONS | {"seed": seed})}))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, output in enumerate(expected):
        assert_same(found[seed], output)


class Spoil:
    """A caller's processor that sees the scores, and bans what it has banned before."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.shapes.append((*ids.shape, *scores.shape))
        return scores.scatter(1, scores.argmax(1, keepdim=True), -torch.inf) if ids.shape[1] % 2 else scores


def test_processors_and_criteria_run_between_captured_forward_passes(
    decoder: GuidedDecoder, eager: GuidedDecoder
) -> None:
    """The rows there are, not a bucket's; one captured forward pass for every call."""
    outputs = []
    for which in (eager, decoder, decoder):
        spoil, lengths = Spoil(), []

        def edit(generated: torch.Tensor, scores: torch.Tensor, spoil: Spoil = spoil) -> torch.Tensor:
            return spoil(generated, scores)

        def halt(generated: torch.Tensor, lengths: list[int] = lengths) -> torch.Tensor:
            lengths.append(generated.shape[1])
            return generated[:, -1] % 5 == 0

        request = which.prepare(PROMPTS[:3], **OPTIONS)
        outputs.append(which.run(replace(request, edit=edit, halt=halt)))
        assert {shape[0] for shape in spoil.shapes} == {3} == {shape[2] for shape in spoil.shapes}
        assert lengths == list(range(1, outputs[-1].stats.steps + 1))
    assert_same(outputs[1], outputs[0])
    assert_same(outputs[2], outputs[0])
    assert "stop" in outputs[0].finish_reasons
    assert decoder.engine.captures == 1


def test_generate_of_transformers_captures_its_forward_passes(base: Any, rewards: dict[str, Any]) -> None:
    ids = torch.stack([row[:3] for row in PROMPTS[:3]])
    call: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "top_k": 30, "seed": 3, "eos_token_id": EOS}
    call |= {"custom_generate": genarm.custom_generate, "reward_models": rewards, "no_repeat_ngram_size": 2}
    found = base.generate(ids, **call)
    again = base.generate(ids, **call)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genarm.engine.engine.CAPTURING_DEVICES", set())
        expected = base.generate(ids, **call)
    assert torch.equal(found, expected) and torch.equal(again, expected)


def test_a_failed_row_leaves_nothing_to_the_next_job(base: Any, eager: GuidedDecoder, decoder: GuidedDecoder) -> None:
    """NaN in one row's cache, beyond the lengths of whatever lies there next."""
    long = random_prompts([60, 60], seed=3, vocab=90)
    embedding = base.model.embed_tokens.weight
    kept = embedding.data[95].clone()
    long[0][10:] = 95
    options = OPTIONS | {"eos_token_id": [], "logit_bias": {95: -torch.inf}}
    with torch.no_grad():
        embedding[95] = torch.nan
    failed = decoder.generate(long, **options)
    assert failed.finish_reasons == ["error", "length"] and list(failed.errors) == [0]
    assert any(bool(cache.view(torch.float32).isnan().any()) for cache in decoder.engine._captured._caches)
    with torch.no_grad():
        embedding[95] = kept
    for batch in (1, 2, 4, 9):
        found = decoder.generate(PROMPTS[:batch], **OPTIONS)
        assert_same(found, eager.generate(PROMPTS[:batch], **OPTIONS))


def test_modes_may_change_from_call_to_call(decoder: GuidedDecoder, eager: GuidedDecoder) -> None:
    """A step captured under inference mode serves calls outside of it, and a stream may leave it."""
    expected = eager.generate(PROMPTS[:3], **OPTIONS)
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            found = decoder.generate(PROMPTS[:3], **OPTIONS)
        assert_same(found, expected)
    assert decoder.engine.captures == 1
    for which in (decoder, eager):
        with torch.inference_mode():
            stream = which.stream(PROMPTS[:3], **OPTIONS)
            tokens = [next(stream).tokens]
        tokens += [step.tokens for step in stream]
        assert torch.cat([step[0] for step in tokens]).tolist() == expected.tokens[0].tolist()


@pytest.mark.filterwarnings("ignore:the base's ids")
def test_a_narrower_head_and_a_resized_one(rewards: dict[str, Any]) -> None:
    """Captured again where the base's vocabulary changes, and only there."""
    wide, reward = make_model("llama", seed=1, vocab=104), {"b": rewards["b"]}
    found, expected = (GuidedDecoder(wide, reward, engine=engine) for engine in ("auto", "eager"))
    for size in (104, 112):
        wide.resize_token_embeddings(size, mean_resizing=False)
        for weights in ([{"b": 0.0}] * 3, [{"b": value} for value in (0.0, 1.0, -1.0)]):
            call = {**OPTIONS, "weights": weights, "logit_bias": {100: 9.0}, "eos_token_id": [98]}
            out = found.generate(PROMPTS[:3], **call)
            assert_same(out, expected.generate(PROMPTS[:3], **call))
            assert [100 in row for row in out.tokens] == [row["b"] == 0 for row in weights]
    assert found.engine.captures == 2
