"""The entry point that vLLM calls in each of its processes (group ``vllm.general_plugins``)."""

from __future__ import annotations

from .settings import ARCHITECTURE


def register() -> None:
    """Make the guided model known to vLLM. Whoever uses vLLM without it notices nothing.

    A vLLM out of the supported range is told so where a guided model is loaded, and not here, where every use of vLLM
    passes.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from .admission import GuidedConfig

    MODELS_CONFIG_MAP[ARCHITECTURE] = GuidedConfig
    ModelRegistry.register_model(ARCHITECTURE, f"genarm.serving.model:{ARCHITECTURE}")
