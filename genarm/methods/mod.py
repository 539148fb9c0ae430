"""Multi-objective decoding (MOD): the weighted product of policies that were each tuned for one objective.

    log p(y_t) = −log Z + Σ_i w_i · log p_i(y_t)

The base takes no part, and is not read.

Source: Shi et al., "Decoding-Time Language Model Alignment with Multiple Objectives", NeurIPS 2024 (its case of
reverse KL divergence). The weights sum to 1 there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from torch import Tensor

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError
from ..facts import chosen_models
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from .call import check_options
from .guided import TAKEN, drawn_from


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    policies: Mapping[str, float],
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode several policies at once.

    Args:
        policies: {name: w_i} of the decoder's reward models that are the tuned policies, at least one.
        options: those of ``GuidedDecoder.generate`` but weights, beta and base_weight. The base's filters are the first
            policy's.
    """
    check_options("mod", options, TAKEN)
    if not isinstance(policies, Mapping) or not policies:
        raise InvalidArgumentError(f"policies is {policies!r}: pass {{name: weight}} of loaded models")
    first, *others = policies
    models = chosen_models(decoder.models, [first, *others])[1:]
    part = decoder.part(("mod", *policies), lambda: models)
    settings = {"weights": {name: policies[name] for name in others}, "base_weight": policies[first]}
    return drawn_from(part, input_ids, attention_mask, options, settings)
