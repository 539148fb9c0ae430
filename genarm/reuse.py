"""genarm.generate, and the decoders that repeated calls on one base model share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, finalize

from torch import Tensor, nn

from .decoder import GuidedDecoder
from .loading import RewardModel, RewardModels, name_rewards
from .output import GenerationOutput
from .prompts import PromptInput

MOST_DECODERS = 4
Key = tuple[Any, ...]

# Decoders hold neither the base nor the caller's reward models: these end with their owner's last reference, and take
# with them what was kept.
_KEPT: WeakKeyDictionary[nn.Module, OrderedDict[Key, tuple[GuidedDecoder, Any]]] = WeakKeyDictionary()


def generate(
    base_model: nn.Module,
    input_ids: PromptInput,
    reward_models: RewardModels = None,
    weights: Mapping[str, float] | Sequence[float] | Sequence[Mapping[str, float]] | Tensor | None = None,
    *,
    attention_mask: Tensor | None = None,
    tokenizer: Any = None,
    max_batch_size: int | None = None,
    max_length: int | None = None,
    **options: Any,
) -> GenerationOutput:
    """Guided decoding of a loaded model in one call; ``options`` are those of ``GuidedDecoder.generate``.

    Calls with the same models share one decoder, so that what is given by path is read once, as long as its files stay
    as they are, and a captured step is captured once.
    """
    decoder = shared_decoder(base_model, reward_models, tokenizer, max_batch_size, max_length)
    return decoder.generate(input_ids, attention_mask, weights=weights, **options)


def shared_decoder(
    base_model: nn.Module,
    reward_models: RewardModels = None,
    tokenizer: Any = None,
    max_batch_size: int | None = None,
    max_length: int | None = None,
) -> GuidedDecoder:
    """The decoder of an earlier call with the same models, or a new one."""
    rewards = name_rewards(reward_models)
    if not isinstance(base_model, nn.Module):
        return GuidedDecoder(base_model, rewards)  # which says what is wrong with it
    kept = _KEPT.setdefault(base_model, OrderedDict())
    specifications = tuple((name, _identity(reward)) for name, reward in rewards.items())
    key = (specifications, id(tokenizer), max_batch_size, max_length)
    if key in kept:
        kept.move_to_end(key)
        return kept[key][0]
    decoder = GuidedDecoder(
        base_model, rewards, tokenizer, max_batch_size=max_batch_size, max_length=max_length, _hold_weakly=True
    )
    # What is known by its id is held, so that the id stays its own; a module instead takes the entry with it.
    held = [tokenizer, *(reward for reward in rewards.values() if not isinstance(reward, nn.Module))]
    kept[key] = (decoder, held)
    for reward in rewards.values():
        if isinstance(reward, nn.Module) and reward is not base_model:
            finalize(reward, kept.pop, key, None)
    while len(kept) > MOST_DECODERS:
        kept.popitem(last=False)
    return decoder


def _identity(reward: RewardModel) -> Key:
    """What two calls mean the same model by: the object, or the path with its files as they are now."""
    if not isinstance(reward, str | Path):
        return (id(reward),)
    folder = Path(reward).expanduser()
    if not folder.is_dir():
        return (str(reward),)
    files = sorted(folder.iterdir())
    return (str(reward), *((file.name, stat.st_mtime_ns, stat.st_size) for file in files for stat in [file.stat()]))
