"""Reinforcement learning on the token rewards of an AR-RM, by TRL's GRPOTrainer (docs/training.md).

    python -m experiments.dense_rewards --out bench/results/cpu/dense_rewards.json

The policy is a LoRA adapter on the embedded base. Its loss is TRL's: PPO's clipped objective and a penalty on the KL
divergence from the base, without a critic. The advantage of a token is what its answer's later tokens bring, as in
GRPO with process supervision (Shao et al. 2024, DeepSeekMath, section 4.1.3); beside it runs TRL's own, one number per
answer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from experiments.embedded.__main__ import environment
from genarm import GuidedDecoder
from genarm.embedded import BASE, REWARDS

PROMPTS = ("I really enjoy", "On weekends I like to", "My friends would say that")
ANSWERS = 8  # of one prompt, compared with one another
SHOWN = 5  # steps averaged at either end of a run


class TokenRewards:
    """log π_r of each token of an answer, and their mean as the reward of the whole answer.

    TRL's reward functions return one number per answer; ``last`` keeps what the last call's tokens got, [B, n] float32,
    0 behind an answer's end.
    """

    def __init__(self, reward: str) -> None:
        self._decoder = GuidedDecoder.from_pretrained(
            BASE, {reward: REWARDS[reward]}, device="cpu", max_batch_size=None
        )
        self.last = torch.zeros(0, 0)

    def mean_reward(self, prompts: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        found = self._decoder.score(list(prompts), [list(ids) for ids in completion_ids]).model_logprobs[..., 1]
        self.last = found.nan_to_num(0.0)
        means: list[float] = found.nanmean(1).tolist()
        return means


def token_advantages(rewards: Tensor, mask: Tensor, group: int) -> Tensor:
    """[B, T]: the rewards of a token and of all behind it, each as it stands among those of its group of answers.

    rewards and mask: [B, T]; ``group`` answers to one prompt stand one behind the other.
    """
    live = mask.view(-1, group * mask.shape[1]).double()
    values = rewards.reshape(live.shape).double()
    count = live.sum(1, keepdim=True)
    mean = (values * live).sum(1, keepdim=True) / count
    spread = (((values - mean).square() * live).sum(1, keepdim=True) / count).sqrt()
    own = ((values - mean) / (spread + 1e-4) * live).view(mask.shape)
    sums = own.flip(1).cumsum(1).flip(1) * mask
    scale = (sums.square().sum() / mask.sum()).sqrt()  # so that the penalty weighs what it does beside TRL's own
    return (sums / (scale + 1e-4)).float()


class DenseTrainer(GRPOTrainer):
    """GRPOTrainer with an advantage per token: its loss takes [B, T] from subclasses that provide them."""

    token_rewards: TokenRewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        found = super()._generate_and_score_completions(inputs)
        mask = found["completion_mask"]
        rewards = torch.zeros(mask.shape)
        own = self.token_rewards.last
        rewards[:, : own.shape[1]] = own
        found["advantages"] = token_advantages(rewards.to(mask.device), mask, ANSWERS)
        return found


def train(is_dense: bool, reward: str, steps: int, batch: int, new_tokens: int, seed: int) -> list[dict[str, float]]:
    """One run -> of each step the mean reward of its answers, their KL from the base per token, and their length."""
    rewards = TokenRewards(reward)
    functions: Any = [rewards.mean_reward]
    with tempfile.TemporaryDirectory() as work:
        settings = GRPOConfig(
            output_dir=work, use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_steps=1,
            disable_tqdm=True, gradient_checkpointing=False, dataloader_pin_memory=False, seed=seed,
            max_steps=steps, per_device_train_batch_size=batch, num_generations=ANSWERS, num_iterations=2,
            max_completion_length=new_tokens, temperature=1.0, beta=0.02, epsilon=0.2, loss_type="dr_grpo",
            learning_rate=4e-3, lr_scheduler_type="constant_with_warmup", warmup_steps=min(5, steps),
        )  # fmt: skip
        trainer: Any = (DenseTrainer if is_dense else GRPOTrainer)(
            model=AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32),
            reward_funcs=functions,
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS] * (batch * steps)),
            processing_class=AutoTokenizer.from_pretrained(BASE, padding_side="left"),
            peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        trainer.token_rewards = rewards
        trainer.train()
    names = {"reward": "reward", "kl": "kl", "length": "completions/mean_length"}
    return [{name: row[key] for name, key in names.items()} for row in trainer.state.log_history if "reward" in row]


def ends(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Means over the first steps and over the last."""
    parts = {"first": rows[:SHOWN], "last": rows[-SHOWN:]}
    return {name: {key: sum(row[key] for row in part) / len(part) for key in part[0]} for name, part in parts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", choices=REWARDS, default="art")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=24, help="answers per step (default: 24)")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="every step's figures, as JSON")
    options = parser.parse_args()
    runs = []
    for seed in options.seeds:
        for kind, is_dense in (("token", True), ("answer", False)):
            started = time.perf_counter()
            rows = train(is_dense, options.reward, options.steps, options.batch, options.new_tokens, seed)
            runs.append({"advantages": kind, "seed": seed, "seconds": time.perf_counter() - started, "steps": rows})
            for name, found in ends(rows).items():
                figures = ", ".join(f"{key} {value:.2f}" for key, value in found.items())
                print(f"an advantage per {kind}, seed {seed}, {name} {SHOWN} steps: {figures}", flush=True)
    record = {"environment": {**environment(), "trl": trl.__version__}, "reward_model": options.reward, "runs": runs}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
