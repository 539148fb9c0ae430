"""Reward-guided decoding: a frozen base model, autoregressive reward models, weights chosen per request.

decoder = genarm.GuidedDecoder.from_pretrained(base, reward_models={"helpful": path})
out = decoder.generate(input_ids, weights={"helpful": 1.0}, max_new_tokens=64)
"""

from typing import TYPE_CHECKING

from .errors import (
    CacheMemoryError,
    GenARMError,
    InvalidArgumentError,
    LoadingError,
    NumericalError,
    PromptError,
    RewardNameError,
    UnsafeWeightsError,
    UnsupportedAdapterError,
    UnsupportedGenerationError,
    UnsupportedModelError,
    VocabularyMismatchError,
)

if TYPE_CHECKING:
    from .decoder import GuidedDecoder
    from .dropin import custom_generate
    from .models.preference_adapters import PreferenceAdapter
    from .request.output import GenerationOutput, GenerationStats, ScoreOutput, StreamStep
    from .reuse import generate

__version__ = "0.1.0"

# What needs torch and transformers is imported on first use, so that `genarm --help` answers at once.
_LAZY = {
    "GuidedDecoder": "decoder",
    "generate": "reuse",
    "custom_generate": "dropin",
    "GenerationOutput": "request.output",
    "PreferenceAdapter": "models.preference_adapters",
    "GenerationStats": "request.output",
    "ScoreOutput": "request.output",
    "StreamStep": "request.output",
}
_SUBMODULES = ("embedded", "methods")  # `import genarm` is enough for genarm.methods["args"]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _SUBMODULES:
        return import_module(f".{name}", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module 'genarm' has no attribute {name!r}")
    found: object = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = found  # asked for once: from now on an ordinary name, which documentation tools see too
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "CacheMemoryError",
    "GenARMError",
    "GenerationOutput",
    "GenerationStats",
    "GuidedDecoder",
    "InvalidArgumentError",
    "LoadingError",
    "NumericalError",
    "PreferenceAdapter",
    "PromptError",
    "RewardNameError",
    "ScoreOutput",
    "StreamStep",
    "UnsafeWeightsError",
    "UnsupportedAdapterError",
    "UnsupportedGenerationError",
    "UnsupportedModelError",
    "VocabularyMismatchError",
    "custom_generate",
    "generate",
]
