"""The models of one number that a method is given: trajectory RMs and value heads, loaded once per decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError
from ..models.scalar import ScalarModel, scalar_model

# A path or hub id, a loaded classifier, or one that `scalar` has made.
Scorer = str | Path | nn.Module | ScalarModel
_LOADED: WeakKeyDictionary[Any, dict[Any, ScalarModel]] = WeakKeyDictionary()


def scalar(decoder: GuidedDecoder, given: Scorer, name: str) -> ScalarModel:
    """The model that setting ``name`` of a method means, on the decoder's device and in its dtype; what was loaded
    from a path, or put together from a module, is kept as long as the decoder.

    Raises:
        GenARMError: it is none, or none of the decoder's vocabulary.
    """
    if isinstance(given, ScalarModel):
        return given
    if not isinstance(given, str | Path | nn.Module) or given == "":
        raise InvalidArgumentError(
            f"{name} is {given!r}: pass the path of a trajectory RM (genarm train trajectory-rm makes one) or a loaded "
            "sequence classifier"
        )
    base = decoder.models[0]
    kept = _LOADED.setdefault(base.module, {})
    key = (name, given if isinstance(given, nn.Module) else str(given))
    if key not in kept:
        fuse = decoder.settings.engine != "hf"
        kept[key] = scalar_model(name, given, decoder.source, base.runs_on, base.vocab_size, decoder.tokenizer, fuse)
    return kept[key]
