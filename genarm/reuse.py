"""genarm.generate, and the decoders that repeated calls on one base model share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary, finalize, ref

from torch import Tensor, nn

from .decoder import GuidedDecoder
from .models.reward_bases import RewardBases
from .models.rewards import RewardModel, RewardModels, name_rewards
from .request.inputs import PromptInput
from .request.output import GenerationOutput

MOST_DECODERS = 4
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A decoder, what is held so that its id stays its own, and what ends the entry with a reward module."""

    decoder: GuidedDecoder
    held: list[Any]
    endings: list[Any]

    def drop(self) -> None:
        for ending in self.endings:
            ending.detach()


# Decoders hold neither the base nor the caller's reward models: these end with their owner's last reference, and take
# with them what was kept.
_KEPT: WeakKeyDictionary[nn.Module, OrderedDict[Key, Kept]] = WeakKeyDictionary()
_LOCK = RLock()


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
    reward_bases: RewardBases = None,
    check_vocabulary: bool = True,
    **options: Any,
) -> GenerationOutput:
    """Guided decoding of a loaded model in one call: ``options`` are those of ``GuidedDecoder.generate``, the other
    arguments those of the class.

    Calls with the same models share one decoder, so that what is given by path is read once, as long as its files stay
    as they are, and a captured step is captured once.
    """
    decoder = shared_decoder(
        base_model,
        reward_models,
        tokenizer=tokenizer,
        max_batch_size=max_batch_size,
        max_length=max_length,
        reward_bases=reward_bases,
        check_vocabulary=check_vocabulary,
    )
    return decoder.generate(input_ids, attention_mask, weights=weights, **options)


def shared_decoder(
    base_model: nn.Module,
    reward_models: RewardModels = None,
    *,
    tokenizer: Any = None,
    max_batch_size: int | None = None,
    max_length: int | None = None,
    reward_bases: RewardBases = None,
    check_vocabulary: bool = True,
) -> GuidedDecoder:
    """The decoder of an earlier call with the same models, or a new one."""
    rewards = name_rewards(reward_models)
    if not isinstance(base_model, nn.Module):
        return GuidedDecoder(base_model, rewards)  # which says what is wrong with it
    given: list[Any] = [*rewards.values(), *(reward_bases or {}).values()]
    specifications = _identities(rewards), _identities(reward_bases or {})
    parameter = next(base_model.parameters(), None)
    where = None if parameter is None else (parameter.device, parameter.dtype)  # adapters were read for that
    key = (specifications, where, id(tokenizer), max_batch_size, max_length, check_vocabulary)
    with _LOCK:  # of two threads with the same models the second finds what the first has made
        kept = _KEPT.setdefault(base_model, OrderedDict())
        if key in kept:
            kept.move_to_end(key)
            return kept[key].decoder
        decoder = GuidedDecoder(
            base_model,
            rewards,
            tokenizer,
            max_batch_size=max_batch_size,
            max_length=max_length,
            reward_bases=reward_bases,
            check_vocabulary=check_vocabulary,
            _hold_weakly=True,
        )
        modules = [one for one in given if isinstance(one, nn.Module) and one is not base_model]
        held = [tokenizer, *(one for one in given if not isinstance(one, nn.Module))]
        kept[key] = Kept(decoder, held, [_at_the_end(module, base_model, key) for module in modules])
        while len(kept) > MOST_DECODERS:
            kept.popitem(last=False)[1].drop()
        return decoder


def _at_the_end(reward: nn.Module, base: nn.Module, key: Key) -> Any:
    """The entry goes with the reward module, whose id may become another's. Until then this holds nothing of it."""
    ending = finalize(reward, _forget, ref(base), key)
    ending.atexit = False
    return ending


def _forget(base: Callable[[], nn.Module | None], key: Key) -> None:
    module = base()
    kept = None if module is None else _KEPT.get(module)
    found = None if kept is None else kept.pop(key, None)  # another thread may have been quicker
    if found is not None:
        found.drop()


def _identities(models: Mapping[str, Any]) -> Key:
    return tuple((name, _identity(model)) for name, model in models.items())


def _identity(reward: RewardModel) -> Key:
    """What two calls mean the same model by: the object, or the path with its files as they are now."""
    if not isinstance(reward, str | Path):
        return (id(reward),)
    folder = Path(reward).expanduser()
    if not folder.is_dir():
        return (str(reward),)
    found = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    return (str(folder.resolve()), *((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in found))
