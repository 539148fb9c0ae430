"""Models that quote: a base and reward models trained in minutes on texts that quote themselves (copy_text.py).

    python -m bench.copy_models        # trains into out/copy-models what is not there, and says how long that took

What is trained is a core of 0.4 million weights (copy_core.py); wider models of the same function are measured
(growth.py).
The AR-RM is a LoRA adapter on the core, trained by the GenARM loss: it prefers quotations with every edit to those
without any, and to those that go in circles. The weak reward model is trained the same way from a core of its own
seed, so that it has nothing of the base that it guides. Everything is seeded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM

from bench.copy_core import LONGEST, SHORTEST, STEPS, train_core, update
from bench.copy_text import Texts, circling, draw_texts
from bench.growth import ENDS, grown, grown_adapter
from genarm.models.adapters import LoraAdapter, read_adapter
from genarm.preferences.collate import IGNORED
from genarm.training.arm import arm_loss, pair_log_probs

FOLDER = Path(__file__).resolve().parents[1] / "out" / "copy-models"
REWARD_STEPS, REWARD_PAIRS, REWARD_RATE, BETA = 60, 6, 1e-3, 0.1
BASE_FACTOR, WEAK_FACTOR = 8, 4  # 17 and 4 million weights
SEEDS = {"strong": 0, "weak": 10}


@dataclass(frozen=True, slots=True)
class CopyModels:
    """A base, an AR-RM as an adapter on it, and one of another seed, a model of a quarter of the base's size."""

    base: LlamaForCausalLM
    adapter: LoraAdapter
    weak: LlamaForCausalLM


@lru_cache(maxsize=1)
def copy_models(dtype: torch.dtype, device: torch.device, folder: Path = FOLDER) -> CopyModels:
    """The models, trained first where ``folder`` does not have them."""
    train(folder)
    strong, weak = (folder / name for name in SEEDS)
    core, adapter = _core(strong), read_adapter(strong / "reward")
    merged = PeftModel.from_pretrained(_core(weak), weak / "reward").merge_and_unload()
    base = grown(core, BASE_FACTOR, dtype).to(device)
    return CopyModels(
        base, grown_adapter(adapter, core.config, BASE_FACTOR), grown(merged, WEAK_FACTOR, dtype).to(device)
    )


def train(folder: Path = FOLDER, steps: int = STEPS, reward_steps: int = REWARD_STEPS) -> None:
    """Train both cores and an adapter of each into ``folder``, whatever is not there yet."""
    for name, seed in SEEDS.items():
        if not (folder / name / "core").is_dir():
            _save(train_core(seed, steps), folder / name / "core")
        if not (folder / name / "reward").is_dir():
            _save(train_reward(_core(folder / name), seed + 1, reward_steps), folder / name / "reward")


def _save(model: Any, folder: Path) -> None:
    """Under another name until it is whole."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    model.save_pretrained(unfinished)
    unfinished.rename(folder)


def _core(folder: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(folder / "core", dtype=torch.float32).eval()


def train_reward(core: Any, seed: int, steps: int) -> Any:
    """An AR-RM: LoRA on every linear layer, the GenARM loss on pairs (quotation with all edits, verbatim)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    targets = sorted(ENDS)
    model = get_peft_model(core, LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=targets))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=REWARD_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(steps):
        words, other = torch.randint(SHORTEST * 4, LONGEST + 1, (2,), generator=generator).tolist()
        texts = draw_texts(REWARD_PAIRS, words, other, generator)
        chosen, rejected = pair_log_probs(model, pairs_of(texts, generator))
        update(model, optimiser, arm_loss(chosen, rejected, BETA), REWARD_RATE, step, steps)
    return model.eval()


def pairs_of(texts: Texts, generator: torch.Generator) -> dict[str, Tensor]:
    """A batch as `PairCollator` makes it: rows chosen, then rejected; labels of the quotation alone.

    Every second quotation is better than the verbatim one for its edits, the others than one that goes in circles.
    """
    rejected = texts.verbatim.clone()
    rejected[1::2] = circling(texts.vivid[1::2], generator)
    prompts, answers = texts.prompts.repeat(2, 1), torch.cat([texts.vivid, rejected])
    ids = torch.cat([prompts, answers], 1)
    labels = torch.cat([torch.full_like(prompts, IGNORED), answers], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def main() -> None:
    started, used = time.perf_counter(), time.process_time()
    train()
    print(f"trained in {time.perf_counter() - started:.0f} s, {time.process_time() - used:.0f} s of a core")


if __name__ == "__main__":
    main()
