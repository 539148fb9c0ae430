"""Scorers on tiny models: what each score is, which base it is held against, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, save_adapter, with_adapter
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from genarm.embedded import BASE
from genarm.errors import (
    InvalidArgumentError,
    LoadingError,
    UnsafeWeightsError,
    UnsupportedAdapterError,
    VocabularyMismatchError,
)
from genarm.evaluation.choices import Choice
from genarm.evaluation.scorers import causal_models, fitting_length, pair_scores
from genarm.models.loading import Source, load_model
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.encoding import EncodedPair

SOURCE = Source(torch.float32, torch.device("cpu"))
PAIRS: list[EncodedPair] = [
    {"prompt_ids": [0, 40, 50], "chosen_ids": [60, 70, 1], "rejected_ids": [80, 1]},
    {"prompt_ids": [0], "chosen_ids": [90, 1], "rejected_ids": [91, 92, 93, 94, 1]},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return pair_tokenizer(str(BASE))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two bases and what stands on them, by name."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    for seed, name in enumerate(("base", "other")):
        make_model("llama", seed=seed, vocab=4096).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    base, other = (load_model(root / name, SOURCE) for name in ("base", "other"))
    save_adapter(base, "llama", root / "arm", 3)
    save_adapter(base, "llama", root / "dpo", 4)
    (root / "dpo" / "training.json").write_text(json.dumps({"kind": "dpo", "beta": 0.25}))
    save_adapter(other, "llama", root / "elsewhere", 5)
    return {path.name: path for path in root.iterdir()}


def response_sum(model: Any, prompt: list[int], response: list[int]) -> float:
    """Σ log π of a response, token by token in float64."""
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
    return sum(log_probs[len(prompt) + place - 1, token].item() for place, token in enumerate(response))


def sums(model: Any) -> list[list[float]]:
    return [
        [response_sum(model, pair["prompt_ids"], pair[side]) for side in ("chosen_ids", "rejected_ids")]
        for pair in PAIRS
    ]


def scored(folders: dict[str, Path], choices: list[Choice], tokenizer: Any) -> dict[str, Any]:
    found = pair_scores(str(folders["base"]), choices, [PAIRS, PAIRS[:1]], tokenizer, SOURCE, batch_size=1)
    return {scores.choice.name: scores for scores in found}


def test_an_arm_is_scored_by_its_own_log_probabilities_and_the_base_by_its_own(
    folders: dict[str, Path], tokenizer: Any
) -> None:
    base = load_model(folders["base"], SOURCE)
    found = scored(folders, [Choice("helpful", "arm", str(folders["arm"]))], tokenizer)
    for name, model in (("helpful", with_adapter(base, folders["arm"])), ("base", base)):
        whole, first = map(torch.tensor, found[name].values)
        torch.testing.assert_close(whole, torch.tensor(sums(model)).double(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(first, whole[:1], rtol=0, atol=1e-4)


def test_dpos_implicit_reward_is_beta_times_the_difference_to_the_base(
    folders: dict[str, Path], tokenizer: Any
) -> None:
    base = load_model(folders["base"], SOURCE)
    found = scored(folders, [Choice("policy", "dpo", str(folders["dpo"]))], tokenizer)["policy"]
    tuned, reference = (torch.tensor(sums(model)) for model in (with_adapter(base, folders["dpo"]), base))
    expected = 0.25 * (tuned - reference).double()
    assert found.beta == 0.25 and expected.abs().max() > 0.1
    torch.testing.assert_close(torch.tensor(found.values[0]), expected, rtol=1e-4, atol=1e-4)


def test_a_full_dpo_model_is_held_against_the_base(folders: dict[str, Path], tokenizer: Any) -> None:
    found = scored(folders, [Choice("policy", "dpo", str(folders["other"]))], tokenizer)["policy"]
    own, base = (torch.tensor(sums(load_model(folders[name], SOURCE))).double() for name in ("other", "base"))
    assert found.beta == 1.0
    torch.testing.assert_close(torch.tensor(found.values[0]), own - base, rtol=1e-4, atol=1e-3)


def test_an_adapter_is_scored_on_the_base_it_was_trained_on(folders: dict[str, Path], tokenizer: Any) -> None:
    choices = [Choice("there", "arm", str(folders["elsewhere"])), Choice("policy", "dpo", str(folders["elsewhere"]))]
    found = scored(folders, choices, tokenizer)
    other = load_model(folders["other"], SOURCE)
    own, reference = (torch.tensor(sums(model)) for model in (with_adapter(other, folders["elsewhere"]), other))
    torch.testing.assert_close(torch.tensor(found["there"].values[0]).float(), own, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(torch.tensor(found["policy"].values[0]).float(), own - reference, rtol=1e-4, atol=1e-3)
    base = torch.tensor(sums(load_model(folders["base"], SOURCE)))
    torch.testing.assert_close(torch.tensor(found["base"].values[0]).float(), base, rtol=1e-4, atol=1e-3)


def test_no_adapter_stays_on_for_the_next_one(folders: dict[str, Path], tokenizer: Any, tmp_path: Path) -> None:
    base = load_model(folders["base"], SOURCE)
    narrow = save_adapter(base, "llama", tmp_path / "narrow", 6, target_modules=["q_proj"])
    choices = [Choice("wide", "arm", str(folders["arm"])), Choice("narrow", "arm", str(narrow))]
    found = torch.tensor(scored(folders, choices, tokenizer)["narrow"].values[0]).float()
    torch.testing.assert_close(found, torch.tensor(sums(with_adapter(base, narrow))), rtol=1e-4, atol=1e-4)


def save_scorer(base: Path, folder: Path, adapter: bool) -> Any:
    torch.manual_seed(7)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32).eval()
    if adapter:
        config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"], r=2)
        model = get_peft_model(model, config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("adapter", [True, False])
def test_a_trajectory_rm_scores_at_the_last_token(
    folders: dict[str, Path], tokenizer: Any, tmp_path: Path, adapter: bool
) -> None:
    model = save_scorer(folders["base"], tmp_path / "judge", adapter)
    found = scored(folders, [Choice("judge", "trajectory-rm", str(tmp_path / "judge"))], tokenizer)["judge"]
    for row, pair in enumerate(PAIRS):
        for side, ids in enumerate((pair["chosen_ids"], pair["rejected_ids"])):
            with torch.no_grad():
                expected = model(torch.tensor([pair["prompt_ids"] + ids])).logits.item()
            assert found.values[0][row, side] == pytest.approx(expected, abs=1e-4)


def test_an_adapter_without_a_score_is_no_trajectory_rm(folders: dict[str, Path], tokenizer: Any) -> None:
    with pytest.raises(LoadingError, match="brings no score"):
        scored(folders, [Choice("judge", "trajectory-rm", str(folders["arm"]))], tokenizer)


@pytest.mark.parametrize(
    ("kind", "recorded", "cure"), [("arm", "trajectory-rm", "--trajectory-rm"), ("trajectory-rm", "dpo", "--dpo")]
)
def test_a_record_of_another_kind_names_the_option_to_use(
    tokenizer: Any, folders: dict[str, Path], tmp_path: Path, kind: Any, recorded: str, cure: str
) -> None:
    (tmp_path / "training.json").write_text(json.dumps({"kind": recorded}))
    with pytest.raises(InvalidArgumentError, match=f"pass it as {cure} x=PATH"):
        scored(folders, [Choice("x", kind, str(tmp_path))], tokenizer)


def test_adapters_are_checked_before_anything_is_scored(
    folders: dict[str, Path], tokenizer: Any, tmp_path: Path
) -> None:
    wide = make_model("llama", hidden=64, vocab=4096)
    save_adapter(wide, "llama", tmp_path / "wide", 1)
    models = causal_models(str(folders["base"]), [Choice("wide", "arm", str(tmp_path / "wide"))], SOURCE, tokenizer)
    with pytest.raises(UnsupportedAdapterError, match="another architecture"):
        next(models)


def test_pickled_adapters_are_refused(folders: dict[str, Path], tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text((folders["arm"] / "adapter_config.json").read_text())
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    for kind in ("arm", "dpo", "trajectory-rm"):
        with pytest.raises(UnsafeWeightsError, match="pickled"):
            scored(folders, [Choice("x", kind, str(tmp_path))], tokenizer)  # type: ignore[arg-type]


def test_a_model_of_another_vocabulary_is_refused(folders: dict[str, Path], tokenizer: Any, tmp_path: Path) -> None:
    make_model("llama", vocab=97).save_pretrained(tmp_path)
    with pytest.raises(VocabularyMismatchError, match="97 tokens"):
        scored(folders, [Choice("x", "arm", str(tmp_path))], tokenizer)


def test_lengths_are_held_to_the_bases_positions(folders: dict[str, Path]) -> None:
    base = str(folders["base"])
    assert fitting_length(base, None) == 512 and fitting_length(base, 100) == 100
    with pytest.raises(InvalidArgumentError, match="512 positions"):
        fitting_length(base, 513)
    with pytest.raises(LoadingError, match="/no/such"):
        fitting_length("/no/such", None)


def test_a_base_without_a_tokenizer_is_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    with pytest.raises(LoadingError, match="no tokenizer"):
        pair_tokenizer(str(tmp_path))
