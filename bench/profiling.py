"""A few decoding steps, or calls of the sampler, for Nsight Systems and Nsight Compute to look at (docs/profiling.md).

    python -m bench.profiling decode --model Llama-3.1-8B --K 1 --context 1024      # what bench/profile.sh runs
    python -m bench.profiling sampling --B 64 --M 4 --V 128256 --filters top_k+top_p --implementation ours

The profiler's range holds the steps or calls only: models, compilation, capture, the prompt's pass and the warm-up lie
before it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from bench import measure
from bench.decode_models import MODELS, family
from bench.sampling import BUILDERS, FILTERS, check_tokens, make_draw, missing
from genarm import GuidedDecoder

SKIPPED = 3  # steps after the prompt's pass, or calls, before the range


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    decoding = commands.add_parser("decode", help="steps of guided decoding")
    decoding.add_argument("--model", choices=MODELS, default="Llama-3.1-8B")
    decoding.add_argument("--rewards", choices=("lora", "separate"), default="lora")
    decoding.add_argument("--K", type=int, default=1, help="reward models")
    decoding.add_argument("--B", type=int, default=1, help="sequences")
    decoding.add_argument("--context", type=int, default=1024, help="tokens of a prompt")
    decoding.add_argument("--steps", type=int, default=8, help="steps inside the profiled range")
    decoding.add_argument("--engine", default="auto", help="auto replays a CUDA graph, eager launches every kernel")
    sampling = commands.add_parser("sampling", help="calls of one implementation at one shape")
    sampling.add_argument("--B", type=int, default=64, help="rows")
    sampling.add_argument("--M", type=int, default=4, help="models")
    sampling.add_argument("--V", type=int, default=128256, help="ids")
    sampling.add_argument("--filters", choices=FILTERS, default="none")
    sampling.add_argument("--implementation", choices=BUILDERS, default="ours")
    sampling.add_argument("--calls", type=int, default=3, help="calls inside the profiled range")
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


def profile_decode(options: argparse.Namespace) -> None:
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

    def end() -> None:
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()

    decode(decoder, prompts, options.steps, lambda: None, lambda: None)
    decode(decoder, prompts, options.steps, torch.cuda.profiler.start, end)
    print(f"{options.steps} steps of {options.model}, K = {options.K}, {decoder.engine.kind}")


def profile_sampling(options: argparse.Namespace) -> None:
    device = torch.device("cuda")
    if reason := missing(options.implementation, device):
        sys.exit(f"{options.implementation} cannot be profiled: {reason}")
    size = options.M * options.B * options.V * torch.bfloat16.itemsize
    sets = min(options.calls + 1, measure.rotation(size, device).sets)
    draws = [make_draw(options.B, options.M, options.V, torch.bfloat16, device, index) for index in range(sets)]
    sample = BUILDERS[options.implementation](FILTERS[options.filters], options.B, device)
    with torch.cuda.nvtx.range("warm-up"):
        for _ in range(SKIPPED):
            tokens = sample(draws[0])
    check_tokens(draws[:1], [tokens], FILTERS[options.filters])
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    with torch.cuda.nvtx.range("measured"):
        for index in range(options.calls):
            # The warm-up and the check have just read the first set.
            with torch.cuda.nvtx.range(f"call {index}"):
                sample(draws[(index + 1) % sets])
        torch.cuda.synchronize()
    torch.cuda.profiler.stop()
    print(f"{options.calls} calls of {options.implementation}, {size} bytes of logits each, on {device}")


if __name__ == "__main__":
    chosen = arguments()
    if not torch.cuda.is_available():
        sys.exit("profiling needs a CUDA device; on a CPU `genarm bench --trace FILE` shows where the time goes")
    {"decode": profile_decode, "sampling": profile_sampling}[chosen.what](chosen)
