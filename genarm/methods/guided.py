"""Methods that are the guided formula with weights of their own: one pass of it, by the models they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from .call import check_options

# What such a method sets itself.
OWN = ("weights", "beta", "base_weight")
TAKEN = tuple(name for name in Options.__annotations__ if name not in OWN)


def guided(
    name: str,
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None,
    options: Mapping[str, Any],
    weights: Mapping[str, float],
    base_weight: float = 1.0,
) -> GenerationOutput:
    """Draw from p ∝ p_base^base_weight · Π p_i^weights[i] with the reward models that ``weights`` name, and no others.

    Raises:
        GenARMError: a model that is not loaded; an option that method ``name`` sets itself; an invalid call.
    """
    check_options(name, options, TAKEN)
    settings = {"weights": weights, "base_weight": base_weight}
    return drawn_from(decoder.only(*weights), input_ids, attention_mask, options, settings)


def check_apart(name: str, given: Iterable[str], other: str) -> None:
    """Refuse one model in two parts of a difference, of which a mapping would keep one.

    Raises:
        InvalidArgumentError: ``other`` is among those ``given``.
    """
    if other in given:
        raise InvalidArgumentError(f"{name} takes {other!r} from itself: name two models, one for either side")


def drawn_from(
    part: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> GenerationOutput:
    """Draw with the caller's options and a method's settings, which are none of them."""
    return part.generate(input_ids, attention_mask, **options, **settings)
