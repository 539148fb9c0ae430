"""Adapters conditioned on a preference (PARM): decoded as their formula says, with a preference per row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import guided_log_probs, make_model, plain_greedy, random_prompts
from preference_cases import ALPHA, R1, R2, literal, random_state, save_preference_adapter
from recorded import record_on_cpu
from safetensors.torch import load_file, save_file

import genarm
import genarm_kernels
from genarm import (
    GenARMError,
    GuidedDecoder,
    InvalidArgumentError,
    LoadingError,
    PreferenceAdapter,
    RewardNameError,
    UnsafeWeightsError,
    UnsupportedAdapterError,
)

NAMES = ["harmless", "helpful"]  # the adapter's order
SHARES = [{"helpful": 0.9, "harmless": 0.1}, {"helpful": 0.25, "harmless": 0.75}, {"helpful": 0.9, "harmless": 0.1}]
GIVEN = [{"parm": one} for one in SHARES]
MORE = [{"parm": {"helpful": row / 3, "harmless": 1 - row / 3}} for row in range(4)]
PROMPTS = random_prompts([5, 9, 3], seed=1)


@pytest.fixture(scope="module")
def state(base: Any) -> Any:
    return random_state(base, seed=3)


@pytest.fixture(scope="module")
def folder(state: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_preference_adapter(tmp_path_factory.mktemp("parm") / "parm", state, objectives=NAMES)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "parm"))


@pytest.fixture(scope="module")
def models(base: Any, state: Any) -> list[Any]:
    """The literal model of each row's preference."""
    return [literal(base, state, [one["harmless"], one["helpful"]]) for one in SHARES]


@pytest.fixture(scope="module")
def conditioned(base: Any, folder: Path) -> GuidedDecoder:
    return GuidedDecoder(base, {"parm": folder})


def test_two_preferences_in_one_batch_decode_as_the_formula_does(
    engine: str, base: Any, folder: Path, models: list[Any]
) -> None:
    decoder = GuidedDecoder(base, {"parm": folder})
    assert [own["path"] for own in decoder.describe()] == ["fused" if engine == "auto" else "hf"] * 2
    out = decoder.generate(PROMPTS, preferences=GIVEN, temperature=0, max_new_tokens=12)
    plain = [plain_greedy([base, model], [1, 1], prompt, 12) for prompt, model in zip(PROMPTS, models, strict=True)]
    assert all(own.tolist()[: len(row)] == row for own, row in zip(out.tokens, plain, strict=True))
    assert min(map(len, plain)) > 3
    other = decoder.generate(PROMPTS, preferences=GIVEN[1:] + GIVEN[:1], temperature=0, max_new_tokens=12)
    assert [row.tolist() for row in other.tokens] != [row.tolist() for row in out.tokens]


def test_two_preferences_in_one_batch_are_sampled_as_the_formula_is(
    engine: str, base: Any, folder: Path, models: list[Any]
) -> None:
    options: Any = {"weights": {"parm": 0.7}, "max_new_tokens": 6, "eos_token_id": [], "seed": 5}
    out = GuidedDecoder(base, {"parm": folder}).generate(PROMPTS, preferences=GIVEN, **options)
    seeds = genarm_kernels.row_seeds(5, 3)
    for row, (prompt, model) in enumerate(zip(PROMPTS, models, strict=True)):
        ids = prompt
        for _ in range(6):
            scores = guided_log_probs([base, model], [1, 0.7], ids).float()[None]
            drawn = genarm_kernels.guided_sample(
                [scores], torch.ones(1), seed=seeds[row : row + 1], position=torch.tensor([len(ids)])
            )
            ids = torch.cat([ids, drawn.tokens])
        assert out.tokens[row].tolist() == ids[len(prompt) :].tolist()


def test_the_drop_in_and_generate_take_preferences_too(base: Any, folder: Path, conditioned: GuidedDecoder) -> None:
    prompts = torch.stack(random_prompts([6, 6], seed=2))
    options: Any = {"reward_models": {"parm": folder}, "preferences": GIVEN[:2], "max_new_tokens": 5}
    found = base.generate(prompts, custom_generate=genarm.custom_generate, do_sample=False, **options)
    expected = conditioned.generate(prompts, preferences=GIVEN[:2], max_new_tokens=5, temperature=0).sequences
    assert found.tolist() == expected.tolist()
    assert genarm.generate(base, prompts, temperature=0, **options).sequences.tolist() == expected.tolist()
    each = {**options, "num_return_sequences": 2, "seed": 3, "do_sample": True, "top_k": 0}
    drawn = base.generate(prompts, custom_generate=genarm.custom_generate, **each)
    repeated = [GIVEN[0], GIVEN[0], GIVEN[1], GIVEN[1]]
    plain = conditioned.generate(prompts.repeat_interleave(2, 0), preferences=repeated, max_new_tokens=5, seed=3)
    assert drawn.tolist() == plain.sequences.tolist()


def test_a_shared_prompt_is_read_for_each_preference(base: Any, conditioned: GuidedDecoder, models: list[Any]) -> None:
    out = conditioned.generate([PROMPTS[0]] * 3, preferences=GIVEN, max_new_tokens=1, return_logprobs=True)
    for row, model in enumerate(models):
        own = guided_log_probs([model], [1], PROMPTS[0])[out.tokens[row][0]]
        assert float(out.model_logprobs[row, 0, 1]) == pytest.approx(float(own), abs=1e-4)  # type: ignore[index]


def test_scores_are_each_rows_own(engine: str, base: Any, folder: Path, models: list[Any]) -> None:
    responses = random_prompts([4, 2, 6], seed=8)
    out = GuidedDecoder(base, {"parm": folder}).score(PROMPTS, responses, preferences=GIVEN)
    for row, model in enumerate(models):
        ids, count = torch.cat([PROMPTS[row], responses[row]]), len(responses[row])
        with torch.no_grad():
            log_probs = model(input_ids=ids[None]).logits[0, -count - 1 : -1].log_softmax(-1)
        total = float(log_probs.gather(1, responses[row][:, None]).sum())
        assert float(out.model_totals[row, 1]) == pytest.approx(total, abs=1e-3)


def test_a_stream_keeps_its_preference_while_another_call_has_more(base: Any, folder: Path) -> None:
    """Slots are neither written over while a batch reads them, nor lost when the weights' rows are laid out anew."""
    alone = GuidedDecoder(base, {"parm": folder})
    options: Any = {"temperature": 0, "max_new_tokens": 8, "eos_token_id": []}
    expected = alone.generate(PROMPTS[:1], preferences=GIVEN[0], **options).tokens[0].tolist()
    for others in (GIVEN[1:2], [*GIVEN[1:2], {"parm": {"helpful": 0.5, "harmless": 0.5}}]):
        decoder = GuidedDecoder(base, {"parm": folder})
        steps = decoder.stream(PROMPTS[:1], preferences=GIVEN[0], **options)
        found = [int(next(steps).tokens[0]) for _ in range(3)]
        decoder.generate(PROMPTS[: len(others)], preferences=others, **options)
        assert found + [int(step.tokens[0]) for step in steps] == expected
        assert decoder.generate(PROMPTS[:1], preferences=GIVEN[0], **options).tokens[0].tolist() == expected


def test_captured_steps_read_each_requests_preferences(
    base: Any, folder: Path, conditioned: GuidedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other preferences are values in the same captured step; more of them at once than ever make another."""
    record_on_cpu(monkeypatch)
    decoder = GuidedDecoder(base, {"parm": folder})
    for given, captures in ((GIVEN, 1), (GIVEN[::-1], 1), (GIVEN[1:] + GIVEN[:1], 1), (MORE, 2), (GIVEN, 2)):
        options: Any = {"preferences": given, "max_new_tokens": 5, "eos_token_id": [], "return_logprobs": True}
        prompts = [PROMPTS[row % 3] for row in range(len(given))]
        found = decoder.generate(prompts, **options)
        assert found.stats.engine == "fused (CUDA graphs)" and decoder.engine.captures == captures
        alone = [
            conditioned.generate(
                [prompt], **{**options, "preferences": own}, seed=genarm_kernels.row_seeds(0, 9)[row : row + 1]
            )
            for row, (prompt, own) in enumerate(zip(prompts, given, strict=True))
        ]
        assert [row.tolist() for row in found.tokens] == [one.tokens[0].tolist() for one in alone]


def test_rows_of_two_preferences_are_not_copied_to_each_other(conditioned: GuidedDecoder) -> None:
    (backbone,) = conditioned.engine.backbones
    with backbone.given({1: [(0.1, 0.9), (0.75, 0.25), (0.1, 0.9)]}) as given:
        session = backbone.session(3, 20, given)
        session.prefill([PROMPTS, PROMPTS])
        session.copy([0], [2])
        with pytest.raises(ValueError, match="two preferences"):
            session.copy([0], [1])
    with pytest.raises(InvalidArgumentError, match="none was given"):
        backbone.session(3, 20)


def test_a_fold_is_the_formula_in_float64(base: Any, folder: Path, state: Any) -> None:
    folded = PreferenceAdapter.from_pretrained(folder).fold((0.3, 0.7))
    assert folded is not None and folded.layers.keys() == state.keys()
    for name, (down, up, bias) in folded.layers.items():
        A, B, W1, W2 = (state[name][part].double() for part in ("pblora_A", "pblora_B", "pblora_W1", "pblora_W2"))
        mixed = (0.3 * W2[0] + 0.7 * W2[1]).view(R2, R2)
        delta = ALPHA / R2 * (B[:, :R1] @ W1 @ A[:R1] + B[:, R1:] @ mixed @ A[R1:])
        assert bias is None and down.shape[0] == R1 + R2
        torch.testing.assert_close(up.double() @ down.double(), delta, atol=1e-5, rtol=1e-5)


def test_a_preference_is_folded_once(base: Any, folder: Path) -> None:
    adapter = PreferenceAdapter.from_pretrained(folder).fit(base)
    assert adapter.fold((0.3, 0.7)) is adapter.fold((0.3, 0.7))
    for index in range(80):
        adapter.fold((index / 80, 1 - index / 80))
    assert len(adapter.folds) <= 64


def test_a_default_stands_where_a_call_says_nothing(base: Any, folder: Path, copied: Path) -> None:
    options: Any = {"temperature": 0, "max_new_tokens": 6}
    said = GuidedDecoder(base, {"parm": folder}).generate(PROMPTS[:1], preferences=GIVEN[1], **options)
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps({**config, "pref_vec_init": [0.75, 0.25]}))
    for adapter in (copied, PreferenceAdapter.from_pretrained(folder, preference=SHARES[1])):
        found = GuidedDecoder(base, {"parm": adapter}).generate(PROMPTS[:1], **options)
        assert found.tokens[0].tolist() == said.tokens[0].tolist()


WRONG: dict[str, tuple[Any, type[GenARMError], str]] = {
    "none": (None, InvalidArgumentError, "conditioned on a preference over harmless, helpful, and none was given"),
    "none for a row": ([GIVEN[0], {}, GIVEN[2]], InvalidArgumentError, "none was given: pass preferences="),
    "an unknown objective": ({"parm": {"helpful": 0.5, "kind": 0.5}}, InvalidArgumentError, "names 'kind'"),
    "half of one": ({"parm": {"helpful": 1.0}}, InvalidArgumentError, "says nothing of harmless"),
    "a negative one": ({"parm": {"helpful": 1.5, "harmless": -0.5}}, InvalidArgumentError, "harmless is -0.5"),
    "one of another sum": ({"parm": {"helpful": 1, "harmless": 1}}, InvalidArgumentError, "harmless 0.5, helpful 0.5"),
    "zeros": ({"parm": {"helpful": 0, "harmless": 0}}, InvalidArgumentError, "sums to 0"),
    "no number": ({"parm": {"helpful": "1", "harmless": 0}}, InvalidArgumentError, "helpful is '1'"),
    "no mapping": ({"parm": [0.5, 0.5]}, InvalidArgumentError, "pass {'harmless': 0.5, 'helpful': 0.5}"),
    "an unknown model": ({"norm": SHARES[0]}, RewardNameError, "names 'norm', which is not loaded"),
    "the base": ({"base": SHARES[0], **GIVEN[0]}, RewardNameError, "names 'base'"),
    "one that takes none": ({"plain": SHARES[0], **GIVEN[0]}, InvalidArgumentError, "'plain', which takes none"),
    "too few": (GIVEN[:2], InvalidArgumentError, "a list of 2 for 3 sequences"),
}


@pytest.mark.parametrize(("given", "error", "text"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_preference_is_refused(base: Any, folder: Path, given: Any, error: Any, text: str) -> None:
    decoder = GuidedDecoder(base, {"plain": base, "parm": folder})
    with pytest.raises(error, match=text):
        decoder.generate(PROMPTS, preferences=given, max_new_tokens=1)


def test_rounded_numbers_are_divided_by_their_sum(base: Any, folder: Path) -> None:
    request = GuidedDecoder(base, {"parm": folder}).prepare(
        [[3]], preferences=[{"parm": {"helpful": 0.333, "harmless": 0.666}}], num_return_sequences=2
    )
    assert request.preferences == {1: (pytest.approx((2 / 3, 1 / 3)),) * 2}


def test_files_that_are_none_of_it_are_refused(base: Any, folder: Path, copied: Path) -> None:
    config = json.loads((copied / "adapter_config.json").read_text())

    def refused(error: type[GenARMError], text: str, **changes: Any) -> None:
        (copied / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(error, match=text):
            GuidedDecoder(base, {"parm": copied})

    refused(LoadingError, "does not name its 2 objectives", objectives=None)
    assert PreferenceAdapter.from_pretrained(copied, ["harmless", "helpful"]).objectives.names == tuple(NAMES)
    refused(LoadingError, "name each once", objectives=["helpful", "helpful"])
    refused(LoadingError, "other sizes", r1=R1 + 1)
    refused(LoadingError, "r2 is 0", r2=0)
    refused(InvalidArgumentError, "pref_vec_init sums to 0", pref_vec_init=[0, 0])
    refused(UnsupportedAdapterError, "modules_to_save", modules_to_save=["lm_head"])
    refused(UnsupportedAdapterError, "targets 2 modules it has no weights for", target_modules=["q_proj", "o_proj"])
    with pytest.raises(LoadingError, match="harmless, helpful in this order"):
        PreferenceAdapter.from_pretrained(folder, ["helpful", "harmless"])
    (copied / "adapter_config.json").write_text(json.dumps(config))
    state = load_file(copied / "adapter_model.safetensors")
    save_file({name: one for name, one in state.items() if "W2" not in name}, copied / "adapter_model.safetensors")
    with pytest.raises(LoadingError, match="lacks pblora_W2"):
        GuidedDecoder(base, {"parm": copied})
    (copied / "adapter_model.safetensors").rename(copied / "adapter_model.bin")
    with pytest.raises(UnsafeWeightsError, match="safe_serialization=True"):
        GuidedDecoder(base, {"parm": copied})


def test_other_families_and_heads_go_through_transformers(tmp_path: Path) -> None:
    base = make_model("llama", seed=4)
    state = random_state(base, 5, targets=["q_proj", "lm_head"])
    folder = save_preference_adapter(tmp_path / "a", state, objectives=NAMES, target_modules=["q_proj", "lm_head"])
    decoder = GuidedDecoder(base, {"parm": folder})
    assert [own["path"] for own in decoder.describe()] == ["fused", "hf"]
    assert decoder.describe()[1]["preference over"] == "harmless, helpful"
    out = decoder.generate(PROMPTS, preferences=GIVEN, temperature=0, max_new_tokens=5)
    for row, share in enumerate(SHARES):
        plain = [base, literal(base, state, [share["harmless"], share["helpful"]])]
        expected = plain_greedy(plain, [1, 1], PROMPTS[row], 5)
        assert expected and out.tokens[row].tolist()[: len(expected)] == expected
