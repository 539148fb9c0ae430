"""Many decoding steps in one process: memory must not grow, and no step be captured again.

    python -m bench.soak --steps 10000

Calls of different batches, prompts and lengths go round and round over one decoder, whose base has a LoRA reward model
and one with weights of its own. Memory is read after every round: what the process has resident on a CPU, what tensors
take on a GPU. Its growth is the slope of a line through these figures but the first rounds', where buffers are made.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.decode_models import family
from genarm import GuidedDecoder

# Prompt lengths of the rows, and new tokens
ROUND = (([48], 120), ([5, 30, 17], 70), ([16] * 8, 40), ([200, 64], 20))
ROUND_STEPS = sum(steps for _, steps in ROUND)
WARM_UP = 0.2  # of the rounds


@dataclass(frozen=True, slots=True)
class Soak:
    """``memory`` [rounds] is bytes after each round, ``captures`` how many graphs had been captured by then."""

    device: torch.device
    seconds: float
    memory: list[int]
    captures: list[int]

    @property
    def steps(self) -> int:
        return len(self.memory) * ROUND_STEPS

    @property
    def growth(self) -> float:
        """Bytes per step."""
        start = int(len(self.memory) * WARM_UP)
        rounds = torch.arange(start, len(self.memory), dtype=torch.float64)
        memory = torch.tensor(self.memory[start:], dtype=torch.float64)
        rounds -= rounds.mean()
        slope = (rounds * (memory - memory.mean())).sum() / rounds.square().sum().clamp(min=1)
        return float(slope) / ROUND_STEPS

    @property
    def recaptures(self) -> int:
        """Graphs captured after the first round."""
        return self.captures[-1] - self.captures[0]

    def __str__(self) -> str:
        first, last = (self.memory[at] / 1e6 for at in (int(len(self.memory) * WARM_UP), -1))
        return (
            f"{self.steps} steps on {self.device} in {self.seconds:.0f} s: {first:.1f} MB after the first "
            f"{WARM_UP:.0%} of them, {last:.1f} MB at the end, {self.growth:+.0f} bytes per step; "
            f"{self.captures[0]} graphs captured in the first round, {self.recaptures} later"
        )


def soak(steps: int, model: str = "tiny", device: str = "cpu") -> Soak:
    """Decode at least ``steps`` steps, in whole rounds."""
    where = torch.device(device)
    decoder = make_decoder(model, where)
    started, memory, captures = time.perf_counter(), [], []
    for index in range(-(-steps // ROUND_STEPS)):
        for lengths, new_tokens in ROUND:
            prompts = random_prompts(lengths, decoder.vocab_size, seed=index)
            out = decoder.generate(prompts, max_new_tokens=new_tokens, eos_token_id=[], seed=index)
            assert out.stats.steps == new_tokens
        memory.append(used_bytes(where))
        captures.append(decoder.engine.captures)
    return Soak(where, time.perf_counter() - started, memory, captures)


def make_decoder(model: str, device: torch.device) -> GuidedDecoder:
    models = family(model, torch.float32 if device.type == "cpu" else torch.bfloat16, device)
    return GuidedDecoder(models.base, {"lora": models.adapter(0), "own": models.merged(1)}, max_length=512)


def random_prompts(lengths: list[int], vocab: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab, (length,), generator=generator) for length in lengths]


def used_bytes(device: torch.device) -> int:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--model", default="tiny", help="a shape of bench.decode_models")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(soak(options.steps, options.model, options.device))


if __name__ == "__main__":
    main()
