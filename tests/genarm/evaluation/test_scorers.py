"""Scorers on tiny models: what each score is, which base it is held against, and what is refused."""

import json

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
from genarm.models.loading import load_model
from genarm.models.options import Source
from genarm.preferences.chat import pair_tokenizer

SOURCE = Source(torch.float32, torch.device("cpu"))
PAIRS = [
    {"prompt_ids": [0, 40, 50], "chosen_ids": [60, 70, 1], "rejected_ids": [80, 1]},
    {"prompt_ids": [0], "chosen_ids": [90, 1], "rejected_ids": [91, 92, 93, 94, 1]},
]
SIDES = ("chosen_ids", "rejected_ids")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two bases and what stands on them, by name; the last four are wrong in one way each."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "other")):
        make_model("llama", seed=seed, vocab=4096).save_pretrained(root / name)
        AutoTokenizer.from_pretrained(BASE).save_pretrained(root / name)
    base, other = (load_model(root / name, SOURCE) for name in ("base", "other"))
    save_adapter(base, "llama", root / "arm", 3)
    save_adapter(base, "llama", root / "narrow", 6, target_modules=["q_proj"])
    save_adapter(base, "llama", root / "dpo", 4)
    (root / "dpo" / "training.json").write_text(json.dumps({"kind": "dpo", "beta": 0.25}))
    save_adapter(other, "llama", root / "elsewhere", 5)
    for name in ("judged", "pickled"):
        (root / name).mkdir()
    (root / "judged" / "training.json").write_text(json.dumps({"kind": "trajectory-rm"}))
    (root / "pickled" / "adapter_config.json").write_text((root / "arm" / "adapter_config.json").read_text())
    (root / "pickled" / "adapter_model.bin").write_bytes(b"")
    save_adapter(make_model("llama", hidden=64, vocab=4096), "llama", root / "wide", 1)
    make_model("llama", vocab=97).save_pretrained(root / "foreign")
    return {path.name: path for path in root.iterdir()}


@torch.no_grad()
def sums(model):
    """[N, 2] Σ log π of each response, token by token in float64."""

    def of(prompt, response):
        log_probs = model(torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
        return sum(log_probs[len(prompt) + place - 1, token].item() for place, token in enumerate(response))

    return torch.tensor([[of(pair["prompt_ids"], pair[side]) for side in SIDES] for pair in PAIRS]).double()


def scored(folders, *choices):
    tokenizer, data = pair_tokenizer(str(BASE)), [PAIRS, PAIRS[:1]]
    found = pair_scores(str(folders["base"]), choices, data, tokenizer, SOURCE, batch_size=1)
    return {scores.choice.name: scores for scores in found}


def test_a_score_is_its_kinds_own_on_the_base_its_adapter_was_trained_on(folders):
    """An AR-RM's is its log π; DPO's is β times the difference to its base's; no adapter stays on for the next one."""
    kinds = {"arm": "arm", "narrow": "arm", "dpo": "dpo", "elsewhere": "arm", "other": "dpo"}
    choices = [Choice(name, kind, str(folders[name]), "own") for name, kind in kinds.items() if name != "other"]
    choices.append(Choice("other", "dpo", str(folders["other"])))
    with pytest.warns(UserWarning, match="'given' was trained on .*other, and runs on .*base"):
        found = scored(
            folders,
            *choices,
            Choice("away", "dpo", str(folders["elsewhere"]), "own"),
            Choice("given", "arm", str(folders["elsewhere"])),
        )
    base, other = (load_model(folders[name], SOURCE) for name in ("base", "other"))
    own = {name: sums(with_adapter(base, folders[name])) for name in ("arm", "narrow", "dpo")}
    own |= {"base": sums(base), "other": sums(other), "elsewhere": sums(with_adapter(other, folders["elsewhere"]))}
    expected = {name: own[name] for name in ("base", "arm", "narrow", "elsewhere")}
    expected |= {"dpo": 0.25 * (own["dpo"] - own["base"]), "other": own["other"] - own["base"]}
    expected |= {"away": own["elsewhere"] - own["other"], "given": sums(with_adapter(base, folders["elsewhere"]))}
    assert found.keys() == expected.keys() and (found["dpo"].beta, found["other"].beta) == (0.25, 1.0)
    for name, values in expected.items():
        whole, first = map(torch.tensor, found[name].values)
        torch.testing.assert_close(whole, values, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(first, whole[:1], rtol=0, atol=1e-4)
        assert values.abs().max() > 0.1


@pytest.mark.parametrize("adapter", [True, False])
def test_a_trajectory_rm_scores_at_the_last_token(folders, tmp_path, adapter):
    torch.manual_seed(7)
    base = folders["base"]
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32).eval()
    if adapter:
        config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"], r=2)
        model = get_peft_model(model, config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
    model.save_pretrained(tmp_path / "judge")
    found = scored(folders, Choice("judge", "trajectory-rm", str(tmp_path / "judge")))["judge"]
    with torch.no_grad():
        expected = [[model(torch.tensor([p["prompt_ids"] + p[side]])).logits.item() for side in SIDES] for p in PAIRS]
    assert found.values[0] == pytest.approx(torch.tensor(expected).numpy(), abs=1e-4)
    if adapter:  # an adapter of a base that has moved or never was here
        path = tmp_path / "judge" / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "someone/else"}))
        with pytest.warns(UserWarning, match="'judge' was trained on someone/else, and runs on .*base"):
            again = scored(folders, Choice("judge", "trajectory-rm", str(tmp_path / "judge")))["judge"]
        assert (again.values[0] == found.values[0]).all()


@pytest.mark.parametrize(
    ("name", "kind", "error", "words"),
    [
        ("arm", "trajectory-rm", LoadingError, "brings no score"),
        ("judged", "arm", InvalidArgumentError, "pass it as --trajectory-rm x=PATH"),
        ("dpo", "trajectory-rm", InvalidArgumentError, "pass it as --dpo x=PATH"),
        ("pickled", "dpo", UnsafeWeightsError, "pickled"),
        ("pickled", "trajectory-rm", UnsafeWeightsError, "pickled"),
        ("foreign", "arm", VocabularyMismatchError, "97 tokens"),
    ],
)
def test_what_cannot_be_scored_is_refused(folders, name, kind, error, words):
    with pytest.raises(error, match=words):
        scored(folders, Choice("x", kind, str(folders[name])))


def test_adapters_are_checked_before_anything_is_scored(folders):
    choices = [Choice("wide", "arm", str(folders["wide"]))]
    with pytest.raises(UnsupportedAdapterError, match="another architecture"):
        next(causal_models(str(folders["base"]), choices, SOURCE, pair_tokenizer(str(BASE))))


def test_lengths_are_held_to_the_bases_positions(folders):
    base = str(folders["base"])
    assert fitting_length(base, None) == 512 and fitting_length(base, 100) == 100
    with pytest.raises(InvalidArgumentError, match="512 positions"):
        fitting_length(base, 513)
    with pytest.raises(LoadingError, match="/no/such"):
        fitting_length("/no/such", None)
