"""Trains each suite's reward models by both methods, one start and the same pairs, and judges the test pairs with them.

Every run is `genarm train` itself: same base, pairs, order, steps and LoRA; only the method differs, and with it the
learning rate (suites.py). The methods take turns and swap places from run to run, so that whatever else the machine
does falls on both. A suite's JSON holds every run with its seconds, and whether each test pair was ordered right; a
suite that was stopped resumes with the runs that are missing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from bench.report import environment
from experiments.reward_accuracy.suites import SUITES, Suite
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.encoding import EncodedPair, encode_pairs
from genarm.preferences.pairs import PreferencePair, read_pairs
from genarm.preferences.scoring import pair_rewards, sequence_scores
from genarm.training.models import untrained_model
from genarm.training.run import train
from genarm.training.settings import Kind, TrainingSettings

FILE = "reward_accuracy_{}.json"
METHODS: tuple[Kind, ...] = ("arm", "trajectory-rm")


@dataclass(frozen=True, slots=True)
class Job:
    """One training run and what it is judged on."""

    method: Kind
    objective: str
    seed: int
    settings: TrainingSettings

    @property
    def key(self) -> tuple[str, str, int]:
        return self.method, self.objective, self.seed


def jobs(suite: Suite, train_file: Path, base: Path, seeds: list[int], changes: dict[str, Any]) -> Iterator[Job]:
    """The runs in order; which method goes first alternates."""
    start = TrainingSettings(
        kind="arm",
        base=str(base.resolve()),
        data=str(train_file),
        eval_share=0.0,
        device="cpu" if not torch.cuda.is_available() else "cuda",
        save_every=0,
        log_every=20,
        **{**suite.settings, **changes},
    )
    for seed in seeds:
        for place, objective in enumerate(suite.objectives):
            for method in METHODS[:: 1 if (seed + place) % 2 == 0 else -1]:
                changed = {"kind": method, "seed": seed, "objective": objective, "where": suite.where(objective)}
                settings = replace(start, learning_rate=suite.rates[method], **changed)
                yield Job(method, objective, seed, settings)


def perform(job: Job, test: list[EncodedPair], pad_token_id: int) -> dict[str, Any]:
    """Train one model and judge the test pairs with it, by sums and by per-token means where it has tokens."""
    with tempfile.TemporaryDirectory() as folder:
        record = train(job.settings, Path(folder) / "run")
        model = load_trained(job, Path(folder) / "run", pad_token_id)
        score = pair_rewards if job.method == "arm" else sequence_scores
        rewards = score(model, test, pad_token_id)
    found = {
        "method": job.method,
        "objective": job.objective,
        "seed": job.seed,
        "train_pairs": record["data"]["train"]["pairs"],
        "steps": record["metrics"]["steps"],
        "train_seconds": record["metrics"]["train_seconds"],
        "train_loss": record["metrics"]["train_loss"],
        "right": _bits(rewards[:, 0] > rewards[:, 1]),
    }
    if job.method == "arm":
        lengths = torch.tensor([[len(pair["chosen_ids"]), len(pair["rejected_ids"])] for pair in test])
        means = rewards / lengths
        found["right_by_mean"] = _bits(means[:, 0] > means[:, 1])
    return found


def load_trained(job: Job, folder: Path, pad_token_id: int) -> Any:
    """What a run left, in float32: the judge is what was saved, not what was in memory."""
    model = untrained_model(replace(job.settings, precision="fp32"))
    model.config.pad_token_id = pad_token_id
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return PeftModel.from_pretrained(model, folder).to(device).eval()


def _bits(right: torch.Tensor) -> str:
    return "".join("1" if one else "0" for one in right.tolist())


def facts(pairs: list[PreferencePair], encoded: list[EncodedPair]) -> dict[str, Any]:
    """What the table needs of an objective's test pairs: lengths for the baselines, clusters for the intervals."""
    clusters: dict[str, int] = {}
    names = [json.dumps(pair.prompt or pair.chosen) for pair in pairs]
    return {
        "pairs": len(pairs),
        "chosen_tokens": [len(pair["chosen_ids"]) for pair in encoded],
        "rejected_tokens": [len(pair["rejected_ids"]) for pair in encoded],
        "clusters": [clusters.setdefault(name, len(clusters)) for name in names],
    }


def run_suite(name: str, data: Path, base: Path, out: Path, seeds: list[int], changes: dict[str, Any]) -> None:
    """Every run of a suite that its file does not hold yet."""
    with tempfile.TemporaryDirectory() as folder:
        suite = SUITES[name]
        files = {split: suite.write(data, split, Path(folder)) for split in ("train", "test")}
        planned = list(jobs(suite, files["train"], base, seeds, changes))
        tokenizer = pair_tokenizer(str(base))
        tests, encoded = test_sets(suite, files["test"], tokenizer, planned[0].settings.max_length)
        result = opened(name, planned, tests, encoded, out)
        done = {(run["method"], run["objective"], run["seed"]) for run in result["runs"]}
        for number, job in enumerate(planned, 1):
            if job.key in done:
                continue
            started = time.perf_counter()
            run = perform(job, encoded[job.objective], tokenizer.pad_token_id)
            result["runs"].append(run)
            _write(out / FILE.format(name), result)
            right = run["right"].count("1") / len(run["right"])
            seconds = time.perf_counter() - started
            print(
                f"{number}/{len(planned)} {job.method} {job.objective} seed {job.seed}: {100 * right:.1f}% "
                f"({run['train_seconds']:.1f} s of training, {seconds:.1f} s)",
                flush=True,
            )


def test_sets(
    suite: Suite, file: Path, tokenizer: Any, max_length: int
) -> tuple[dict[str, list[PreferencePair]], dict[str, list[EncodedPair]]]:
    """Every objective's test pairs that encoding keeps, and their tokens."""
    tests, encoded = {}, {}
    for objective in suite.objectives:
        pairs = read_pairs(file, where=suite.where(objective))[: suite.test_limit]
        found = encode_pairs(tokenizer, pairs, max_length)
        tests[objective], encoded[objective] = [pairs[row] for row in found.kept], found.pairs
    return tests, encoded


def opened(
    name: str,
    planned: list[Job],
    tests: dict[str, list[PreferencePair]],
    encoded: dict[str, list[EncodedPair]],
    out: Path,
) -> dict[str, Any]:
    """A suite's result, with the runs that its file holds already."""
    first, suite = planned[0].settings, SUITES[name]
    path, dropped = out / FILE.format(name), ("data", "base", "kind", "learning_rate", "objective", "where", "seed")
    result: dict[str, Any] = {
        "suite": name,
        "environment": environment(),
        "command": f"python -m experiments.reward_accuracy --suite {name}",
        "settings": {key: value for key, value in first.identity().items() if key not in dropped},
        "rates": suite.rates,
        "base": Path(first.base).name,
        "objectives": {objective: facts(tests[objective], encoded[objective]) for objective in suite.objectives},
        "runs": [],
    }
    if path.exists():
        result["runs"] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return result


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(result) + "\n", encoding="utf-8")
    new.replace(path)
