"""What guidance must cost, from the bytes of a step alone: rows with prompts of their own, and prompts held once.

python -m bench.tables floors                        # both tables
python -m bench.tables floors docs/activated.md      # the second, into the page, between its markers
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.decode_models import MODELS, Family, StepBytes, shapes_only, step_bytes

SHAPES = ((1, 128), (1, 1024), (1, 3072), (1, 16384), (16, 3072), (64, 3072))
MOST = 3  # reward models
HELD_ONCE = "Llama-3.1-8B"
PROMPTS = (1024, 4096, 16384)
BEHIND = 128  # tokens behind a prompt, in the middle of an answer of twice as many


def own_prompts() -> list[list[str]]:
    """A line for each model and shape: the bytes of a step with K reward models over those of a plain one."""
    lines = []
    for name in MODELS:
        models = shapes_only(name, MOST)
        for batch, context in SHAPES:
            plain, *guided = (step_bytes(models, K, False, batch, context).total for K in range(MOST + 1))
            ratios = [f"{total / plain:.3f}" for total in guided]
            lines.append([name, str(batch), f"{context:,}", f"{plain / 1e9:.2f}", *ratios])
    return lines


def held_once() -> list[list[str]]:
    """A line for each number of answers to one prompt, its length and K: GB of cache, and a step's bytes over those of
    as many plain answers, for copies, ordinary and activated reward models."""
    models = shapes_only(HELD_ONCE, MOST)
    lines = []
    for answers in (1, 16):
        for prompt in PROMPTS:
            plain = step_bytes(models, 0, False, answers, prompt + BEHIND, (1, prompt)).total
            for K in (0, 1, 3):
                steps = list(_steps(models, K, answers, prompt))
                cells = [f"{step.cache / 1e9:.2f}" for step in steps] + [f"{step.total / plain:.3f}" for step in steps]
                lines.append([str(answers), f"{prompt:,}", str(K), *cells])
    return lines


def _steps(models: Family, K: int, answers: int, prompt: int) -> Iterator[StepBytes]:
    """Of rows with copies of the prompt, of one for each ordinary reward model and the base, of one for all of them."""
    yield step_bytes(models, K, False, answers, prompt + BEHIND)
    for prompts in (K + 1, 1):
        yield step_bytes(models, K, False, answers, prompt + BEHIND, (prompts, prompt))
