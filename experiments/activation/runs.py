"""Trains both kinds of AR-RM from one start, on the same pairs in the same order, and judges the same test pairs.

A result's file holds every run, and which test pairs it ordered right; what was stopped goes on with those missing.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from bench.report import environment
from experiments.activation.pairs import persona_pairs
from experiments.embedded.models import LINEARS, training_arguments
from genarm.models.activation import Activation
from genarm.models.asleep import SleepingAdapter
from genarm.preferences.collate import PairCollator
from genarm.preferences.encoding import EncodedPair, encode_pairs
from genarm.preferences.pair import PreferencePair
from genarm.preferences.pairs import read_pairs
from genarm.preferences.scoring import pair_rewards
from genarm.training.arm import ArmTrainer

BETA = 0.1


@dataclass(frozen=True, slots=True)
class Suite:
    """One data set, and how every model on it is trained."""

    train: int
    test: int
    max_length: int
    batch: int
    rates: tuple[float, ...]


SUITES = {
    "persona": Suite(train=6000, test=3000, max_length=96, batch=32, rates=(2e-3, 5e-3)),
    "hh_harmless": Suite(train=600, test=391, max_length=384, batch=8, rates=(2e-3,)),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One training run; ``part`` is the test pairs, or train pairs that its rate is chosen on."""

    kind: str  # "ordinary" or "activated"
    rank: int
    rate: float
    seed: int
    part: str = "test"


def planned(suite: Suite, seeds: list[int], chosen: dict[str, float]) -> list[Job]:
    """The runs in order: what chooses the rates, then kinds in turn, seed by seed."""
    if not chosen:
        return [Job(kind, 8, rate, 0, "held out") for rate in suite.rates for kind in ("ordinary", "activated")]
    kinds = (("ordinary", 8), ("activated", 8), ("activated", 16))
    return [Job(kind, rank, chosen[kind], seed) for seed in seeds for kind, rank in kinds]


def pairs_of(name: str, data: Path, split: str) -> list[PreferencePair]:
    """A suite's pairs of a split."""
    count = getattr(SUITES[name], split)
    if name == "persona":
        return persona_pairs(data, split, count)
    return read_pairs(data / f"{name}.{split}.jsonl.gz")[:count]


def perform(
    job: Job, base: Path, suite: Suite, sets: dict[str, list[EncodedPair]], pad_token_id: int
) -> dict[str, Any]:
    """Train one AR-RM and judge."""
    set_seed(job.seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.set_attn_implementation("eager" if suite.max_length < 128 else "sdpa")
    model.config.use_cache = False
    model = get_peft_model(
        model, LoraConfig(r=job.rank, lora_alpha=2 * job.rank, target_modules=LINEARS, lora_dropout=0.0)
    )
    asleep = SleepingAdapter(model, Activation()) if job.kind == "activated" else None
    held_out = job.part == "held out"
    train = sets["train"][: -len(sets["train"]) // 5] if held_out else sets["train"]
    judged = sets["train"][-len(sets["train"]) // 5 :] if held_out else sets["test"]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        loss = trained(job, suite, model, train, pad_token_id, Path(work), asleep)
    found = pair_rewards(model, judged, pad_token_id, asleep=asleep)
    return {
        **asdict(job),
        "train_pairs": len(train),
        "train_loss": loss,
        "seconds": time.perf_counter() - started,
        "right": "".join("1" if one else "0" for one in (found[:, 0] > found[:, 1]).tolist()),
    }


def trained(
    job: Job,
    suite: Suite,
    model: Any,
    train: list[EncodedPair],
    pad_token_id: int,
    work: Path,
    asleep: SleepingAdapter | None,
) -> float:
    """The mean loss of a run of one epoch."""
    arguments = training_arguments(
        work,
        job.seed,
        1,
        per_device_train_batch_size=suite.batch,
        learning_rate=job.rate,
        warmup_steps=0.1,
        logging_steps=20,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    collate = PairCollator(pad_token_id, activation=None if asleep is None else asleep.activation)
    trainer = ArmTrainer(
        model=model, args=arguments, beta=BETA, asleep=asleep, train_dataset=train, data_collator=collate
    )
    return float(trainer.train().training_loss)


def run(name: str, start: str, base: Path, data: Path, out: Path, seeds: list[int]) -> None:
    """Every run of a suite from one base that its file does not hold yet."""
    suite, tokenizer = SUITES[name], AutoTokenizer.from_pretrained(base)
    raw = {split: pairs_of(name, data, split) for split in ("train", "test")}
    sets = {split: encode_pairs(tokenizer, own, suite.max_length) for split, own in raw.items()}
    encoded = {split: own.pairs for split, own in sets.items()}
    path = out / f"activation_{name}_{start}.json"
    result = _opened(path, name, start, suite, [raw["test"][row] for row in sets["test"].kept])
    if len(suite.rates) > 1:
        _complete(path, result, planned(suite, seeds, {}), base, encoded, tokenizer.pad_token_id)
    _complete(path, result, planned(suite, seeds, chosen_rates(result, suite)), base, encoded, tokenizer.pad_token_id)


def chosen_rates(result: dict[str, Any], suite: Suite) -> dict[str, float]:
    """Each kind's rate: the one that ordered most of the pairs held out, the smaller of equals."""
    if len(suite.rates) == 1:
        return dict.fromkeys(("ordinary", "activated"), suite.rates[0])
    tried = [one for one in result["runs"] if one["part"] == "held out"]
    return {
        kind: max(
            (one for one in tried if one["kind"] == kind), key=lambda one: (one["right"].count("1"), -one["rate"])
        )["rate"]
        for kind in ("ordinary", "activated")
    }


def _opened(path: Path, name: str, start: str, suite: Suite, test: list[PreferencePair]) -> dict[str, Any]:
    return {
        "suite": name,
        "base": start,
        "environment": environment(),
        "command": f"python -m experiments.activation --suite {name}",
        "settings": asdict(suite),
        # the two pairs of two statements are resampled together; elsewhere every pair is alone
        "clusters": [row // 2 if name == "persona" else row for row in range(len(test))],
        "runs": json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else [],
    }


def _complete(
    path: Path,
    result: dict[str, Any],
    jobs: list[Job],
    base: Path,
    sets: dict[str, list[EncodedPair]],
    pad_token_id: int,
) -> None:
    names = list(asdict(jobs[0]))
    done = [tuple(one[field] for field in names) for one in result["runs"]]
    for number, job in enumerate(jobs, 1):
        if tuple(asdict(job).values()) in done:
            continue
        found = perform(job, base, SUITES[result["suite"]], sets, pad_token_id)
        result["runs"].append(found)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(result) + "\n", encoding="utf-8")
        new.replace(path)
        right = 100 * found["right"].count("1") / len(found["right"])
        print(f"{number}/{len(jobs)} {job}: {right:.1f}% in {found['seconds']:.0f} s", flush=True)
