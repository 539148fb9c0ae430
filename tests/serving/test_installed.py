"""What the rest of this folder needs is there, or the reason why nothing of it runs is."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec

import pytest

from genarm.serving import versions


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: `make test-serving` runs tests/serving")
def test_vllm_is_a_supported_one_and_finds_the_plugin() -> None:
    versions.check()
    (plugin,) = entry_points(group="vllm.general_plugins", name="genarm")
    assert plugin.value == "genarm.serving.vllm_plugin:register"
    plugin.load()()

    from vllm import ModelRegistry

    assert "GenARMForCausalLM" in ModelRegistry.get_supported_archs()
