"""A few decoding steps for Nsight Systems and Nsight Compute to look at (docs/profiling.md, bench/profile.sh).

    python -m bench.profile_decode --model Llama-3.1-8B --K 1 --context 1024

The profiler's range holds the steps only: models, compilation, capture and the prompt's pass lie before it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from bench.decode_cases import MODELS
from bench.decode_models import family
from genarm import GuidedDecoder

SKIPPED = 3  # steps after the prompt's pass, before the range


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="Llama-3.1-8B")
    parser.add_argument("--rewards", choices=("lora", "separate"), default="lora")
    parser.add_argument("--K", type=int, default=1, help="reward models")
    parser.add_argument("--B", type=int, default=1, help="sequences")
    parser.add_argument("--context", type=int, default=1024, help="tokens of a prompt")
    parser.add_argument("--steps", type=int, default=8, help="steps inside the profiled range")
    parser.add_argument("--engine", default="auto", help="auto replays a CUDA graph, eager launches every kernel")
    return parser.parse_args()


def decode(
    decoder: GuidedDecoder, prompts: Tensor, steps: int, begin: Callable[[], object], end: Callable[[], object]
) -> None:
    """Decode, and call ``begin`` and ``end`` around ``steps`` steps of it."""
    stream = decoder.stream(
        prompts,
        torch.ones_like(prompts),
        max_new_tokens=SKIPPED + steps + 1,
        eos_token_id=[],
        seed=1,
    )
    for index, _ in enumerate(stream):
        if index == SKIPPED:
            begin()
        elif index == SKIPPED + steps:
            end()


def main(options: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        sys.exit("profiling needs a CUDA device; on a CPU `genarm bench --trace FILE` shows where the time goes")
    models = family(options.model, torch.bfloat16, torch.device("cuda"))
    made = models.merged if options.rewards == "separate" else models.adapter
    decoder = GuidedDecoder(
        models.base,
        {f"r{index}": made(index) for index in range(options.K)},
        max_batch_size=options.B,
        max_length=options.context + SKIPPED + options.steps + 1,
        engine=options.engine,
    )
    prompts = torch.randint(3, models.base.config.vocab_size, (1, options.context), device="cuda")
    prompts = prompts.repeat(options.B, 1)
    decode(decoder, prompts, options.steps, lambda: None, lambda: None)

    def end() -> None:
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()

    decode(decoder, prompts, options.steps, torch.cuda.profiler.start, end)
    print(f"{options.steps} steps of {options.model}, K = {options.K}, {decoder.engine.kind}")


if __name__ == "__main__":
    main(arguments())
