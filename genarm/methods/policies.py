"""Fine-tuned policies that a method decodes in the base's place."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError
from ..models.causal import CausalModel
from ..models.rewards import build_models

# The name of a loaded reward model, a path or hub id (of an adapter or a whole model), or a loaded model.
Policy = str | Path | nn.Module


def policy_decoder(decoder: GuidedDecoder, given: Policy, name: str) -> GuidedDecoder:
    """A decoder whose base is the policy that setting ``name`` of a method means, an adapter on the base's weights
    where it is one. It is made once, and kept with ``decoder``.

    Raises:
        GenARMError: it cannot be loaded, or is of another vocabulary.
    """
    if not isinstance(given, str | Path | nn.Module) or given == "":
        raise InvalidArgumentError(
            f"{name} is {given!r}: pass the path of a fine-tuned model or adapter (genarm train dpo makes one), a "
            "loaded model, or the name of one that is loaded"
        )
    if isinstance(given, str) and given in decoder.reward_names:
        return decoder.part(("policy", name, given), lambda: [decoder.models[1 + decoder.reward_names.index(given)]])
    base = decoder.models[0]

    def loaded() -> list[CausalModel]:
        return build_models(base.module, {name: given}, decoder.tokenizer, decoder.source, base.runs_on)[1:]

    return decoder.part(("policy", name, given if isinstance(given, nn.Module) else str(given)), loaded)
