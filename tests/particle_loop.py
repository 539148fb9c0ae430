"""Particles written out over forward passes of whole texts: one particle, one token, one sum at a time.

With the engine it shares the oracle of one draw and the noise words; weights, normalisers and resampling are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from families import VOCAB
from torch import Tensor

from genarm_kernels import noise, reference, row_seeds

RESAMPLE, ANSWER = 3, 4  # purposes of noise words
FILTERS = ("temperature", "top_k", "top_p", "min_p", "base_min_p", "base_top_p")


@dataclass
class Particle:
    tokens: list[int] = field(default_factory=list)
    normalizers: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reason: str | None = None
    log_weight: float = 0.0


@dataclass
class System:
    """A prompt's particles at their end, log Ẑ, and the slots that its answers are taken from."""

    particles: list[Particle]
    log_evidence: float = 0.0
    answers: list[int] = field(default_factory=list)
    resampled: int = 0  # how many times
    moved: int = 0  # particles that others took the place of

    def answer(self, index: int) -> Particle:
        return self.particles[self.answers[index]]


def system(
    models: Sequence[Any],
    prompts: Sequence[Tensor],
    weights: Sequence[float],
    seed: int,
    options: dict[str, Any],
    terminal: Callable[[list[int]], float] | None = None,
) -> System:
    """The particles of one prompt. ``prompts``: one per model; ``options``: those of ``generate`` that are in use."""
    count, steps = options["particles"], options["max_new_tokens"]
    below, every = options.get("resample_below", 0.5), options.get("resample_every", 1)
    seeds = [seed, *row_seeds(seed, count)[1:].tolist()]
    own = System([Particle() for _ in range(count)])
    for step in range(steps):
        for particle, its_seed in zip(own.particles, seeds, strict=True):
            if particle.reason is None:
                _extend(particle, models, prompts, weights, its_seed, options)
        if step + 1 == steps or (step + 1) % every or all(one.reason is not None for one in own.particles):
            continue
        shares = _shares(own.particles)
        if below >= 1 or sum(shares) ** 2 / sum(share**2 for share in shares) < below * count:
            _resample(own, _uniform(seed, step, 0, RESAMPLE))
    for particle in own.particles:
        particle.reason = particle.reason or "length"
        if terminal is not None:
            particle.log_weight += terminal(particle.tokens)
    gathered = own.log_evidence
    own.log_evidence += _log_mean(own.particles)
    shares = _shares(own.particles)
    for answer in range(options.get("num_return_sequences", 1)):
        left = _uniform(seed, 0, answer, ANSWER)
        own.answers.append(next(slot for slot in range(count) if sum(shares[: slot + 1]) > left))
    for particle in own.particles:
        particle.log_weight += gathered
    return own


@lru_cache(1024)
@torch.no_grad()
def next_logits(model: Any, text: tuple[int, ...]) -> Tensor:
    """[1, V] float32 after a whole text, which is read once however many particles have it."""
    logits: Tensor = model(input_ids=torch.tensor([text])).logits[:, -1, :VOCAB]
    return logits.float()


def _extend(
    particle: Particle,
    models: Sequence[Any],
    prompts: Sequence[Tensor],
    weights: Sequence[float],
    seed: int,
    options: dict[str, Any],
) -> None:
    """One token more, and its normaliser."""
    texts = [(*prompt.tolist(), *particle.tokens) for prompt in prompts]
    logits = [next_logits(model, text) for model, text in zip(models, texts, strict=True)]
    filters = {name: options[name] for name in FILTERS if name in options}
    plain = sum(weight * z[0].double() for weight, z in zip(weights, logits, strict=True) if weight)
    scores, penalty = plain.clone(), options.get("repetition_penalty", 1.0)
    for token in set(texts[0]):
        scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    call: dict[str, Any] = {"bias": (scores - plain).float(), **filters}
    place = {"seed": torch.tensor([seed]), "position": len(texts[0])}
    sample = reference.guided_sample(logits, list(weights), return_logprobs=True, **place, **call)
    assert sample.logprobs is not None and int(sample.status) == 0
    kept = reference.guided_log_probs(logits, list(weights), **call)[0] > -math.inf
    models_own = sum(weight * float(z.double().logsumexp(1)) for weight, z in zip(weights, logits, strict=True))
    temperature = filters.get("temperature", 1.0)
    log_z = float((scores[kept] / temperature).logsumexp(0)) - models_own / temperature
    particle.tokens.append(int(sample.tokens))
    particle.logprobs.append(float(sample.logprobs))
    particle.normalizers.append(log_z)
    particle.log_weight += log_z + options.get("length_bonus", 0.0)
    if particle.tokens[-1] in options["eos_token_id"]:
        particle.reason = "eos"
    elif any(particle.tokens[-len(stop) :] == stop for stop in options.get("stop", [])):
        particle.reason = "stop"


def _resample(own: System, uniform: float) -> None:
    """Systematic: (u + i) / N for i = 0 … N − 1 are looked up among the shares, laid end to end. Who is found keeps its
    slot, and takes as many slots of those that were not found as it was found more than once, the lowest first."""
    count, shares = len(own.particles), _shares(own.particles)
    ends = [sum(shares[: slot + 1]) for slot in range(count)]
    found = [0] * count
    for point in range(count):
        where = (uniform + point) / count
        assert all(abs(where - end) > 1e-7 for end in ends[:-1]), "a near tie: choose another seed"
        found[next((slot for slot in range(count) if where < ends[slot]), count - 1)] += 1
    spare = [slot for slot in range(count) for _ in range(found[slot] - 1)]
    free = [slot for slot in range(count) if not found[slot]]
    own.log_evidence += _log_mean(own.particles)
    before = deepcopy(own.particles)
    for slot, origin in zip(free, spare, strict=True):
        own.particles[slot] = deepcopy(before[origin])
    for particle in own.particles:
        particle.log_weight = 0.0
    own.resampled += 1
    own.moved += len(free)


def _shares(particles: Sequence[Particle]) -> list[float]:
    top = max(one.log_weight for one in particles)
    parts = [math.exp(one.log_weight - top) for one in particles]
    return [part / sum(parts) for part in parts]


def _log_mean(particles: Sequence[Particle]) -> float:
    return math.log(sum(math.exp(one.log_weight) for one in particles) / len(particles))


def _uniform(seed: int, position: int, index: int, purpose: int) -> float:
    words = noise.noise_words(torch.tensor([seed]), torch.tensor([position]), torch.tensor([[index]]), purpose)
    return (int(words) + 0.5) * 2.0**-32
