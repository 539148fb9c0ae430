"""One family of exceptions. Every message says what was wrong, what was expected, and what to do."""

from __future__ import annotations


class GenARMError(Exception):
    """Base of every error this library raises on purpose. Its message is one line.

    ``rows`` maps a row of the batch to its own error when a call failed because every row of it did.
    """

    def __init__(self, message: str, rows: dict[int, GenARMError] | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.rows: dict[int, GenARMError] = rows or {}


class InvalidArgumentError(GenARMError, ValueError):
    """The call itself is wrong: a shape, a dtype, a device, a number out of range."""


class RewardNameError(GenARMError, KeyError):
    """A weight or a prompt for a reward model that was not loaded, or none for one that was."""

    __str__ = Exception.__str__


class VocabularyMismatchError(GenARMError, ValueError):
    """Two models do not share one vocabulary."""


class UnsupportedModelError(GenARMError, ValueError):
    """A model that cannot be decoded token by token over a key-value cache (encoder-decoder, recurrent)."""


class UnsupportedAdapterError(GenARMError, ValueError):
    """An adapter that is not plain LoRA on linear layers, or was made for another architecture."""


class LoadingError(GenARMError, OSError):
    """Weights or a configuration that are missing, incomplete or corrupt."""


class UnsafeWeightsError(LoadingError):
    """Weights in a format that can run code when loaded (pickle). Only safetensors are read."""


class PromptError(GenARMError, ValueError):
    """One row's prompt cannot be decoded: empty, too long, or with ids outside the vocabulary."""


class CacheMemoryError(GenARMError, MemoryError):
    """What a batch takes, most of it its key-value cache, would not fit in the memory that is free on a device."""


class NumericalError(GenARMError, ArithmeticError):
    """A model's logits held NaN or +inf, or nothing was left to draw from, in one row."""


class UnsupportedGenerationError(GenARMError, ValueError):
    """A Hugging Face generation mode that guided decoding does not have (beams, assistants, ...)."""


class RunError(GenARMError):
    """A run over many prompts that cannot start or go on: its input, its output, its settings or its memory."""
