"""Answers drawn by weight: each prompt's particles decoded together, then one or several of them taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genarm_kernels import noise

from ..errors import GenARMError, NumericalError
from ..request.options import Request
from ..request.output import GenerationOutput, ParticleSet
from ..request.particles import Particles, particle_seeds
from .batch import Batch, all_failed, sequences
from .engine import Engine
from .particle_loop import SystemDecoding


class SystemBatch:
    """A request with particles: of P prompts, systems of N particles each."""

    def __init__(self, engine: Engine, largest: int, request: Request) -> None:
        assert request.particles is not None
        self.request = request
        self._engine = engine
        self._largest = largest
        self._particles: Particles = request.particles
        self.errors: dict[int, GenARMError] = dict(request.errors)  # by prompt

    def decode(self) -> Systems:
        """Decode every particle to its end.

        Raises:
            GenARMError: every prompt failed.
        """
        if len(self.errors) == self.request.batch:
            raise self._all_failed()
        N = self._particles.count
        batch = Batch(self._engine, self._largest, with_particles(self.request))
        try:
            drawn = batch.run()
        except GenARMError as error:
            self.errors.update({row // N: one for row, one in error.rows.items()})
            raise (self._all_failed() if error.rows else error) from None
        self.errors.update({row // N: error for row, error in drawn.errors.items()})
        log_weights = torch.zeros(self.request.batch, N, dtype=torch.float64)
        for places, one in zip(batch.places, batch.done, strict=True):
            if isinstance(one, SystemDecoding) and one.log_weights is not None and one.log_evidence is not None:
                prompts = [row // N for row in places[::N]]
                log_weights[prompts] = one.log_weights + one.log_evidence[:, None]
        return Systems(drawn, log_weights)

    def output(self, systems: Systems, rewards: Tensor | None = None) -> GenerationOutput:
        """Draw the answers. ``rewards`` [P, N] float64 multiply the weights by exp(reward / beta); −inf is a weight of
        0.

        Raises:
            GenARMError: every prompt failed.
        """
        log_weights = systems.log_weights
        if rewards is not None:
            beta = torch.as_tensor(self._particles.beta, dtype=torch.float64).cpu().expand(self.request.batch)
            log_weights = log_weights + rewards / beta[:, None]
        log_evidence = log_weights.logsumexp(1) - math.log(self._particles.count)
        for prompt in (log_evidence == -torch.inf).nonzero()[:, 0].tolist():
            why = "terminal gives -inf for every answer: raise particles, or let it give finite numbers"
            self.errors.setdefault(prompt, NumericalError(f"prompt {prompt}, all particles: {why}"))
        if len(self.errors) == self.request.batch:
            raise self._all_failed()
        dead = log_evidence == -torch.inf  # an estimate like others, of 0
        log_evidence[[prompt for prompt in self.errors if not dead[prompt]]] = torch.nan
        return self._taken(systems.drawn, self._choices(log_weights), log_weights, log_evidence)

    def _choices(self, log_weights: Tensor) -> list[list[int]]:
        """The particles that each prompt's answers are, [P][m]."""
        ids = torch.arange(self._particles.answers)[None, :]
        seeds = self.request.guidance.seeds.cpu()
        uniforms = noise.uniforms(seeds, torch.zeros_like(seeds), ids, noise.ANSWER)
        total = log_weights.softmax(1).cumsum(1)
        # The first whose share of the mass begins no later than the uniform and ends behind it: never one without any.
        places = torch.searchsorted(total, uniforms * total[:, -1:], right=True).clamp(max=total.shape[1] - 1)
        return [[0] * len(own) if row in self.errors else own for row, own in enumerate(places.tolist())]

    def _taken(
        self, drawn: GenerationOutput, choices: Sequence[Sequence[int]], log_weights: Tensor, log_evidence: Tensor
    ) -> GenerationOutput:
        """The output of the answers, of that of all particles."""
        N, m, device = self._particles.count, self._particles.answers, self.request.device
        rows = [prompt * N + place for prompt, own in enumerate(choices) for place in own]
        prompts = [prompt for prompt in range(self.request.batch) for _ in range(m)]
        failed = [prompt in self.errors for prompt in prompts]
        picks = list(zip(rows, failed, strict=True))
        tokens = [drawn.tokens[row][: 0 if fails else None] for row, fails in picks]
        width = max(map(len, tokens))

        def picked(table: Tensor | None) -> Tensor | None:
            if table is None:
                return None
            kept = table[torch.tensor(rows, device=table.device), :width]
            kept[torch.tensor(failed, device=table.device)] = False if table.dtype == torch.bool else torch.nan
            return kept

        guided = picked(drawn.guided)
        sets = [self._set(drawn, prompt, log_weights[prompt]) for prompt in range(self.request.batch)]
        lengths = self.request.streams[0].lengths
        return replace(
            drawn,
            sequences=sequences(self.request.rows(prompts), tokens),
            tokens=tokens,
            finish_reasons=["error" if fails else drawn.finish_reasons[row] for row, fails in picks],
            errors={row: self.errors[prompt] for row, prompt in enumerate(prompts) if prompt in self.errors},
            texts=None if (texts := drawn.texts) is None else ["" if fails else texts[row] for row, fails in picks],
            logprobs=picked(drawn.logprobs),
            model_logprobs=picked(drawn.model_logprobs),
            log_normalizers=picked(drawn.log_normalizers),
            guided=guided,
            stats=replace(
                drawn.stats,
                prompt_tokens=sum(lengths[prompt] for prompt in prompts if prompt not in self.request.errors),
                new_tokens=sum(map(len, tokens)),
                guided_tokens=None if guided is None else int(guided.sum()),
            ),
            log_evidence=log_evidence[prompts].to(device),
            particles=[sets[prompt] for prompt in prompts] if self._particles.keeps_all else None,
        )

    def _set(self, drawn: GenerationOutput, prompt: int, log_weights: Tensor) -> ParticleSet | None:
        if prompt in self.errors:
            return None
        rows = slice(prompt * self._particles.count, (prompt + 1) * self._particles.count)
        texts = None if drawn.texts is None else drawn.texts[rows]
        return ParticleSet(drawn.tokens[rows], texts, drawn.finish_reasons[rows], log_weights)

    def _all_failed(self) -> GenARMError:
        m = self._particles.answers
        return all_failed({prompt * m + one: self.errors[prompt] for prompt in sorted(self.errors) for one in range(m)})


@dataclass(frozen=True, slots=True)
class Systems:
    """P·N particles, one prompt's behind the other's, and their log-weights [P, N] float64, evidence included."""

    drawn: GenerationOutput
    log_weights: Tensor


def with_particles(request: Request) -> Request:
    """A request of P rows as one of P·N, each particle with a seed of its own."""
    assert request.particles is not None
    count = request.particles.count
    several = request.rows([prompt for prompt in range(request.batch) for _ in range(count)])
    seeds = torch.tensor(particle_seeds(request.guidance.seeds.tolist(), count), device=request.guidance.seeds.device)
    guidance = replace(several.guidance, seeds=seeds)
    return replace(several, row_ids=list(range(several.batch)), guidance=guidance)
