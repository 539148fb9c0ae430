"""Reward-guided decoding: a frozen base model, autoregressive reward models, weights chosen per request.

decoder = genarm.GuidedDecoder.from_pretrained(base, reward_models={"helpful": path})
out = decoder.generate(input_ids, weights={"helpful": 1.0}, max_new_tokens=64)
"""

from .decoder import GuidedDecoder, generate
from .dropin import custom_generate
from .errors import (
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
from .output import GenerationOutput, GenerationStats, StreamStep

__version__ = "0.1.0"

__all__ = [
    "GenARMError",
    "GenerationOutput",
    "GenerationStats",
    "GuidedDecoder",
    "InvalidArgumentError",
    "LoadingError",
    "NumericalError",
    "PromptError",
    "RewardNameError",
    "StreamStep",
    "UnsafeWeightsError",
    "UnsupportedAdapterError",
    "UnsupportedGenerationError",
    "UnsupportedModelError",
    "VocabularyMismatchError",
    "custom_generate",
    "generate",
]
