"""The reward models of a command line as vLLM's processes are told of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

from ..models.activation import IN_VLLM, read_activation, refuse_activated
from ..models.files import ADAPTER_FILES, adapter_folder, is_adapter, read_json
from ..models.reward_bases import named_base, warn_of_another
from ..models.sources import RewardChoice, parse_reward_bases
from ..serving.settings import ServedReward


def served_rewards(choices: Sequence[RewardChoice], reward_bases: Sequence[str], base: str) -> Iterator[ServedReward]:
    """The reward models, each adapter with its base where that is another than the server's.

    Raises:
        GenARMError: a base named for what is not there, or one that cannot be found.
    """
    bases = parse_reward_bases(reward_bases, [choice.name for choice in choices])
    for choice in choices:
        own = None
        if is_adapter(choice.path):
            folder = adapter_folder(choice.path)
            config = read_json(folder / ADAPTER_FILES[0])
            refuse_activated(choice.path, read_activation(folder, config), *IN_VLLM)
            recorded = config.get("base_model_name_or_path")
            if choice.name in bases:
                own = named_base(bases[choice.name], choice.path, recorded, base)
            else:
                warn_of_another(choice.name, recorded, base)
        elif choice.name in bases:
            warnings.warn(
                f"reward model {choice.name!r} is a full model: --reward-base has no effect on it", stacklevel=1
            )
        yield ServedReward(choice.name, choice.path, choice.weight, None if own == base else own)
