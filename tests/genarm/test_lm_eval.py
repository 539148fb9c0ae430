"""lm-evaluation-harness runs its tasks under the guided distribution: choices, whole texts, and generated ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="NOT RUN: lm-evaluation-harness is not installed; pip install '.[lm-eval]'")

from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from genarm.errors import InvalidArgumentError
from genarm.lm_eval import GenarmLM
from genarm_kernels import row_seeds

TASKS = Path(__file__).parent.parent / "lm_eval_tasks"
CHOICES = [
    [" getting lost in art galleries", " taking risks whenever I can"],
    [" going on dangerous adventures", " painting and writing poems"],
]
ROWS = [
    {"question": f"I {verb} enjoy", "choices": CHOICES[i], "art": i} for i in (0, 1) for verb in ("really", "often")
]


@pytest.fixture(scope="module")
def guided() -> dict[str, Any]:
    return {name: GenarmLM(rewards=f"{name}:2.0", batch_size=3, max_length=50) for name in ("art", "risk")}


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]  # type: ignore[arg-type]


def test_guidance_changes_a_tasks_scores_the_right_way(
    guided: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "hobbies.json"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    for task in TASKS.glob("*.yaml"):
        (tmp_path / task.name).write_text(task.read_text().replace("HOBBIES", str(data)))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    names = ["genarm_hobby_choice", "genarm_hobby_text"]
    found = {
        name: simple_evaluate(model=model, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True)
        for name, model in guided.items()
    }
    accuracy = {name: report["results"]["genarm_hobby_choice"]["acc,none"] for name, report in found.items()}
    assert accuracy["art"] == 1.0 and accuracy["risk"] <= 0.5
    for name, model in guided.items():
        texts = [sample["resps"][0][0] for sample in found[name]["samples"]["genarm_hobby_text"]]
        questions = [sample["doc"]["question"] for sample in found[name]["samples"]["genarm_hobby_text"]]
        options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 6, "stop": ["."]}
        assert texts == model.decoder.generate(questions, weights={name: 2.0}, **options).texts


def test_likelihoods_are_the_decoders_scores(guided: dict[str, Any]) -> None:
    model = guided["art"]
    (total, greedy), (empty, _) = model.loglikelihood(
        instances("loglikelihood", ("I really enjoy", CHOICES[0][0]), ("", "I really")), disable_tqdm=True
    )
    expected = model.decoder.score("I really enjoy", CHOICES[0][0], weights={"art": 2.0})
    assert total == pytest.approx(float(expected.totals), abs=1e-4) and greedy == bool(expected.greedy)
    text = " ".join(["I really enjoy painting."] * 15)
    (rolled,) = model.loglikelihood_rolling(instances("loglikelihood_rolling", (text,)), disable_tqdm=True)
    ids = model.tok_encode(text, add_special_tokens=False)
    assert len(ids) > model.max_length, "more than one window"
    most = model.max_length
    first = model.decoder.score([[model.prefix_token_id]], [ids[:most]], weights={"art": 2.0})
    whole = torch.tensor(ids)
    rest = whole[most:]
    second = model.decoder.score([whole[-most - 1 : most]], [rest], weights={"art": 2.0})
    assert rolled == pytest.approx(float(first.totals + second.totals), abs=1e-3)
    assert empty == pytest.approx(float(model.decoder.score("", ["I really"], weights={"art": 2.0}).totals), abs=1e-4)


def test_what_a_task_asks_for_reaches_the_decoder_or_is_refused(guided: dict[str, Any]) -> None:
    model = guided["art"]
    sampled = {"do_sample": True, "temperature": 1.0, "until": [], "max_gen_toks": 6}
    texts = model.generate_until(instances("generate_until", *[("I really enjoy", sampled)] * 5), disable_tqdm=True)
    assert len({*texts}) > 1, "each sample has a seed of its own, in another batch too"
    few = instances("generate_until", ("I really enjoy", {**sampled, "particles": 3, "length_bonus": 0.5}))
    whole: dict[str, Any] = {"particles": 3, "length_bonus": 0.5, "weights": {"art": 2.0}, "max_new_tokens": 6}
    expected = model.decoder.generate("I really enjoy", seed=row_seeds(model.seed, 1), **whole).texts
    assert model.generate_until(few, disable_tqdm=True) == expected
    silent = instances("generate_until", ("I really enjoy", {"until": [], "max_gen_toks": 6}))
    greedy = model.decoder.generate("I really enjoy", weights={"art": 2.0}, temperature=0.0, max_new_tokens=6).texts
    assert model.generate_until(silent, disable_tqdm=True) == greedy
    refused: list[tuple[dict[str, Any], str]] = [
        ({"num_beams": 4}, "'num_beams'"),
        ({"max_gen_toks": 400}, "leaves no room for a prompt"),
        ({"particles": 4, "max_gen_toks": 6}, "at temperature 0"),
    ]
    for settings, cause in refused:
        with pytest.raises(InvalidArgumentError, match=cause):
            model.generate_until(instances("generate_until", ("x", {"until": ["."], **settings})), disable_tqdm=True)


def test_drafts_change_no_text(guided: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="give speculate too"):
        GenarmLM(gamma=3)
    with pytest.raises(InvalidArgumentError, match="gamma is 9"):
        GenarmLM(speculate="ngram", gamma=9)
    drafting = GenarmLM(rewards="art:2.0", batch_size=3, max_length=50, speculate="ngram", gamma=3)
    asked = instances("generate_until", *[("so it goes so it goes so", {"until": [], "max_gen_toks": 12})] * 2)
    assert drafting.generate_until(asked, disable_tqdm=True) == guided["art"].generate_until(asked, disable_tqdm=True)
    assert drafting.drafts == {"speculate": {"draft": "ngram", "gamma": 3}}


def test_the_harness_finds_the_model_beside_its_own() -> None:
    from lm_eval.api.registry import get_model

    with pytest.raises(InvalidArgumentError, match="batch_size is 'many': pass a number, or auto"):
        GenarmLM(batch_size="many")
    assert GenarmLM(batch_size="auto:4", max_length=64).batch_size >= 1
    assert get_model("genarm") is GenarmLM and get_model("dummy").__name__ == "DummyLM"
