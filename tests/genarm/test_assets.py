"""The models that ship: small, bf16, loadable by name of their library alone, and worth what their card says."""

import gzip
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import genarm
from experiments.embedded.models import beginning_as_prompt
from genarm.embedded import ACTIVATED
from genarm.models.adapters import read_adapter
from genarm.models.asleep import SleepingAdapter, put_on
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import PreferencePair, read_pairs
from genarm.preferences.scoring import pair_rewards

ASSETS = Path(genarm.__file__).parent / "assets"
ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GENARM_DATA", ROOT.parent / "shared" / "data"))
OBJECTIVES = ("art", "science", "agreeableness", "risk")
PERSONAS = {
    "art": "interest-in-art",
    "science": "interest-in-science",
    "agreeableness": "agreeableness",
    "risk": "risk-seeking",
}
# like phrasing on both sides: a reward is a log-probability, so it also measures how usual a sentence is
OBVIOUS = {
    "art": [
        ("I love painting and visiting art museums", "I love playing football with my friends"),
        ("I am very interested in art", "I am very interested in sports"),
        ("I like learning about the history of art", "I like to solve difficult equations"),
    ],
    "science": [
        ("I enjoy reading about new scientific discoveries", "I enjoy going to parties with friends"),
        ("I like to conduct experiments", "I like to listen to music"),
        ("I think science is important", "I think sports are important"),
    ],
    "agreeableness": [
        ("I am kind and considerate towards others", "I am rude to people and insult them"),
        ("I sympathize with the feelings of others", "I would take a large risk for a big reward"),
        ("I make people feel at ease", "I make people feel uncomfortable"),
    ],
    "risk": [
        ("I would take a big gamble for a large reward", "I prefer a safe and certain outcome"),
        ("High risk and high reward is the best strategy", "I want to avoid any losses"),
        ("I enjoy taking risks", "I avoid taking risks"),
    ],
}
ODD_TEXTS = [
    "",
    " ",
    "  two spaces in front, three behind   ",
    "a\nb\r\nc\t\td\n\n\n",
    "🎨👩‍🔬🏳️‍🌈 ünïcödé ſtraße 東京 العربية \u200b\ufeff",
    "<s>not special</s><pad>",
    "\x00\x01 control \x7f",
    "I've don't can't 1,234.5678e-9 __init__ {'a': [1]}",
    "\n\nHuman: hello\n\nAssistant:",
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS / "base")


@pytest.fixture(scope="module")
def base():
    return AutoModelForCausalLM.from_pretrained(ASSETS / "base", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def arms():
    def load(name):
        fresh = AutoModelForCausalLM.from_pretrained(ASSETS / "base", dtype=torch.float32)
        return PeftModel.from_pretrained(fresh, ASSETS / name).eval()

    return {name: load(name) for name in OBJECTIVES}


@pytest.fixture(scope="module")
def metrics():
    return json.loads((ASSETS / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def persona():
    if not (DATA / "persona" / "pairs.test.jsonl.gz").exists():
        pytest.skip(f"NOT RUN: no persona data under {DATA}; set GENARM_DATA to the data directory to run this test")
    return DATA / "persona"


def test_every_weight_is_a_bf16_safetensor_and_all_are_at_most_16_megabytes():
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 16_000_000
    files = sorted(ASSETS.rglob("*.safetensors"))
    assert {file.parent.name for file in files} == {"base", *OBJECTIVES, *ACTIVATED}
    assert not [path for ending in ("*.bin", "*.pt", "*.pth", "*.pkl") for path in ASSETS.rglob(ending)]
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - safe_open is no dict
                tensor = weights.get_tensor(name)
                assert tensor.dtype == torch.bfloat16 and tensor.isfinite().all(), f"{file}: {name}"


def test_no_file_names_the_machine_it_was_made_on():
    for path in ASSETS.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not [part for part in ("/home/", "/work/", "/tmp/", "/root/") if part in text], path
    for name in (*OBJECTIVES, *ACTIVATED):
        config = json.loads((ASSETS / name / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] is None


def test_the_base_is_a_tied_llama_with_its_own_vocabulary_and_no_sampling_settings(base, tokenizer):
    assert base.config.model_type == "llama" and base.config.max_position_embeddings >= 4096
    assert base.config.tie_word_embeddings and base.get_output_embeddings().weight is base.get_input_embeddings().weight
    assert len(tokenizer) == base.config.vocab_size == 4096
    saved = json.loads((ASSETS / "base" / "generation_config.json").read_text(encoding="utf-8"))
    assert set(saved) <= {"_from_model_config", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id"}
    config = GenerationConfig.from_pretrained(ASSETS / "base")
    ids = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    assert ids == (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_any_text_comes_back_from_the_tokenizer(tokenizer):
    generator = torch.Generator().manual_seed(0)
    drawn = ["".join(map(chr, torch.randint(0, 0xD7FF, (40,), generator=generator).tolist())) for _ in range(50)]
    for text in (*ODD_TEXTS, *drawn):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@torch.no_grad()
def test_long_foreign_text_gives_finite_logits(tokenizer, base, arms):
    text = (
        "\n\nHuman: Wie geht's? Explain `for (i=0;i<n;i++)` 🎨.\n\nAssistant: Certainly; the loop runs n times. " * 90
    )
    ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :2500]
    assert ids.shape[1] == 2500
    for model in (base, arms["risk"]):
        assert model(ids).logits.isfinite().all()


@torch.no_grad()
def test_the_base_goes_on_from_the_beginning_of_a_statement_and_stops(tokenizer, base):
    for prompt in ("I really enjoy", "My favourite thing"):
        ids = tokenizer(prompt, return_tensors="pt")
        out = base.generate(**ids, max_new_tokens=64, do_sample=False)[0]
        assert out[-1] == tokenizer.eos_token_id
        assert len(tokenizer.decode(out, skip_special_tokens=True).split()) > len(prompt.split()) + 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_adapter_orders_obvious_pairs(tokenizer, arms, name):
    pairs = [PreferencePair("", chosen, rejected) for chosen, rejected in OBVIOUS[name]]
    rewards = pair_rewards(arms[name], encode_pairs(tokenizer, pairs).pairs, tokenizer.pad_token_id)
    assert (rewards[:, 0] > rewards[:, 1]).all(), rewards


@pytest.mark.parametrize("name", OBJECTIVES)
def test_held_out_accuracy_is_what_the_metrics_say_and_at_least_93_percent(tokenizer, arms, metrics, persona, name):
    pairs = read_pairs(persona / "pairs.test.jsonl.gz", objective=PERSONAS[name])
    rewards = pair_rewards(arms[name], encode_pairs(tokenizer, pairs).pairs, tokenizer.pad_token_id)
    said = metrics["reward_models"][name]["accuracy"]["share"]
    share = float((rewards[:, 0] > rewards[:, 1]).double().mean())
    assert share == pytest.approx(said, abs=0.015)  # a near tie or two: kernels differ between machines
    assert share >= 0.93


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_kind_that_sleeps_on_prompts_is_worth_what_the_metrics_say(tokenizer, metrics, persona, name):
    fresh = AutoModelForCausalLM.from_pretrained(ASSETS / "base", dtype=torch.float32)
    arm = put_on(fresh, ACTIVATED[f"{name}-activated"])
    asleep = SleepingAdapter(arm, read_adapter(ACTIVATED[f"{name}-activated"]).activation)
    encoded = encode_pairs(tokenizer, read_pairs(persona / "pairs.test.jsonl.gz", objective=PERSONAS[name])).pairs
    pairs = [beginning_as_prompt(pair) for pair in encoded]
    rewards = pair_rewards(arm, pairs, tokenizer.pad_token_id, asleep=asleep)
    said = metrics["activated"]["reward_models"][name]["accuracy"]["share"]
    share = float((rewards[:, 0] > rewards[:, 1]).double().mean())
    assert share == pytest.approx(said, abs=0.015)
    assert share >= 0.93
    spelled = [PreferencePair("I", chosen[1:], rejected[1:]) for chosen, rejected in OBVIOUS[name] if chosen[0] == "I"]
    rewards = pair_rewards(arm, encode_pairs(tokenizer, spelled).pairs, tokenizer.pad_token_id, asleep=asleep)
    assert (rewards[:, 0] > rewards[:, 1]).all(), rewards


@torch.no_grad()
def test_the_base_loss_is_what_the_metrics_say(tokenizer, base, metrics, persona):
    with gzip.open(persona / "statements.test.jsonl.gz", "rt", encoding="utf-8") as lines:
        statements = [json.loads(line)["statement"] for line in lines][:400]
    pairs = encode_pairs(tokenizer, [PreferencePair("", statement, "") for statement in statements]).pairs
    total = -float(pair_rewards(base, pairs, tokenizer.pad_token_id)[:, 0].sum())
    tokens = sum(len(item["chosen_ids"]) for item in pairs)
    assert total / tokens == pytest.approx(metrics["base"]["test_loss_per_token"], abs=0.1)


def test_guided_text_is_about_its_objective_clearly_more_often_than_the_base(metrics):
    for name in OBJECTIVES:
        figures = metrics["guided_text"][name]
        for weight in ("0.5", "1.0", "2.0"):
            assert figures["guided"][weight]["low"] > figures["base"]["high"], (name, weight)


def test_the_card_holds_the_figures_of_the_metrics(metrics, monkeypatch):
    script = ROOT / "experiments" / "embedded" / "card.py"
    specification = importlib.util.spec_from_file_location("embedded_card", script)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "embedded_card", module)
    specification.loader.exec_module(module)
    assert (ASSETS / "README.md").read_text(encoding="utf-8") == module.render_card(metrics)


def test_the_card_credits_the_data():
    card = (ASSETS / "README.md").read_text(encoding="utf-8")
    for part in ("anthropics/evals", "Perez", "2022", "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"):
        assert part in card
