"""Seconds of one guided call of the embedded models on a CPU, to compare OpenMP settings (docs/cpu.md).

GOMP_SPINCOUNT=5000 python -m experiments.threads THREADS
"""

from __future__ import annotations

import os
import sys
import time

import torch

from genarm import GuidedDecoder
from genarm.embedded import BASE, REWARDS

BATCH, NEW_TOKENS, REPEATS = 64, 20, 3


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    rewards = {name: REWARDS[name] for name in ("art", "risk")}
    decoder = GuidedDecoder.from_pretrained(BASE, rewards, device="cpu", max_batch_size=BATCH)
    prompts = decoder.tokenizer(["I really enjoy"] * BATCH)["input_ids"]
    decoder.generate(prompts, max_new_tokens=4)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        decoder.generate(prompts, max_new_tokens=NEW_TOKENS, eos_token_id=[])
        seconds.append(time.perf_counter() - started)
    settings = {name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ}
    print(f"{threads} threads, {settings or 'default'}: {sorted(seconds)[REPEATS // 2]:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
