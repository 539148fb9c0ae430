"""The methods of a configuration on one decoder, each with its reward models and settings, plain decoding first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError
from ..methods import get
from ..models.sources import fingerprint
from ..request.output import GenerationOutput
from .answers import Contestant, Generate
from .config import BASE, Comparison, MethodChoice


def contestants(comparison: Comparison, decoder: GuidedDecoder, shared: Mapping[str, Any]) -> list[Contestant]:
    """Plain decoding and every method, ready to run.

    Args:
        decoder: the base with all reward models of the comparison. Each method gets those that it names alone.
        shared: what all answers depend on.

    Raises:
        GenARMError: a method that is not registered, or settings that it does not take.
    """
    plain = Contestant(BASE, _plain(decoder.only()), dict(shared))
    return [plain, *(_contestant(comparison, decoder, choice, shared) for choice in comparison.methods)]


def _plain(decoder: GuidedDecoder) -> Generate:
    def generate(inputs: list[list[int]], *, seed: list[int], max_new_tokens: int) -> GenerationOutput:
        return decoder.generate(inputs, seed=seed, max_new_tokens=max_new_tokens, return_logprobs=True)

    return generate


def _contestant(
    comparison: Comparison, decoder: GuidedDecoder, choice: MethodChoice, shared: Mapping[str, Any]
) -> Contestant:
    settings = dict(choice.settings)
    generate = _Bound(get(choice.method), decoder.only(*choice.rewards), settings)
    models = {name: comparison.rewards[name] for name in choice.rewards}
    depends = {
        **shared,
        "method": choice.method,
        "rewards": models,
        "settings": settings,
        "contents": {path: fingerprint(path) for path in sorted({*models.values(), *_texts(settings)})},
    }
    return Contestant(choice.label, generate, depends, draws=settings.get("temperature", 1.0) != 0)


@dataclass(slots=True)
class _Bound:
    """A registered method with its decoder and settings. Methods refuse options that they would not heed, and one that
    refuses ``return_logprobs`` has no log-probabilities of what it draws."""

    method: Any
    decoder: GuidedDecoder
    settings: Mapping[str, Any]
    has_density: bool = True

    def __call__(self, inputs: list[list[int]], *, seed: list[int], max_new_tokens: int) -> GenerationOutput:
        own = {**self.settings, "seed": seed, "max_new_tokens": max_new_tokens}
        if self.has_density:
            try:
                return self._generate(inputs, {**own, "return_logprobs": True})
            except InvalidArgumentError as error:
                if "return_logprobs" not in str(error):
                    raise
                self.has_density = False
        return self._generate(inputs, own)

    def _generate(self, inputs: list[list[int]], options: Mapping[str, Any]) -> GenerationOutput:
        found: GenerationOutput = self.method.generate(self.decoder, inputs, **options)
        return found


def refuse_shared_judge(comparison: Comparison) -> None:
    """Raises InvalidArgumentError where a method uses the judge RM, which would flatter it."""
    judge = fingerprint(comparison.judge)
    for choice in comparison.methods:
        for path in (*(comparison.rewards[name] for name in choice.rewards), *_texts(choice.settings)):
            if path == comparison.judge or (judge is not None and fingerprint(path) == judge):
                raise InvalidArgumentError(
                    f"{choice.label} uses the judge, {comparison.judge}: judge by a trajectory RM that no method uses"
                )


def _texts(value: Any) -> Iterator[str]:
    """Every text in a setting: what may be a model's path."""
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(one)
