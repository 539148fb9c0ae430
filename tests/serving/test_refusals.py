"""What a guided engine cannot do is refused before any of its processes starts, with a reason and a cure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from served_cases import BASE, guidance
from vllm import EngineArgs

from genarm import embedded
from genarm.models.activation import Activation
from genarm.serving import versions
from genarm.serving.settings import ServedGuidance, ServedReward, hf_overrides


def configure(told: ServedGuidance, **settings: Any) -> Any:
    settings = {"dtype": "float32", "enforce_eager": True, "max_model_len": 256, **settings}
    return EngineArgs(BASE, hf_overrides=hf_overrides(told), **settings).create_engine_config()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pipeline_parallel_size": 2}, "[Pp]ipeline parallelism is not supported"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "speculative decoding is not supp"),
        ({"enable_lora": True}, "LoRA requests is not supported"),
        ({"enable_prompt_embeds": True}, "prompts as embeddings is not supported"),
        ({"load_format": "sharded_state"}, "--load-format sharded_state is not supported"),
        ({"max_model_len": 1024}, "'wide' reads 512 tokens.*--max-model-len 512"),
    ],
)
def test_settings_that_would_decode_something_else_are_refused(wide: Path, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure(guidance(wide), **settings)


def test_a_vllm_out_of_range_is_named_where_a_guided_model_is_loaded(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "installed", lambda: "0.99.0")
    with pytest.raises(ValueError, match=r"vLLM 0\.99\.0 is installed.*from 0\.31 to below 0\.33"):
        configure(guidance(wide))


def changed(source: Path, target: Path, **settings: Any) -> Path:
    """A copy of a model's or an adapter's folder with another configuration."""
    shutil.copytree(source, target)
    (file,) = (target / name for name in ("config.json", "adapter_config.json") if (target / name).is_file())
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return target


def test_reward_models_that_do_not_go_with_the_base_are_refused(wide: Path, tmp_path: Path) -> None:
    other = changed(wide, tmp_path / "other", vocab_size=8000)
    for file in other.glob("*token*"):
        file.unlink()
    dora = changed(embedded.REWARDS["art"], tmp_path / "dora", use_dora=True)
    asleep = changed(embedded.REWARDS["art"], tmp_path / "asleep", **Activation().settings())
    recurrent = changed(wide, tmp_path / "recurrent", architectures=["Mamba2ForCausalLM"])
    adapters = [(dora, "DoRA"), (asleep, "asleep on a prompt")]
    for path, message in [(other, "8000 tokens, the base 4096"), *adapters, (recurrent, "recurrent state")]:
        with pytest.raises(ValueError, match=message):
            configure(ServedGuidance((ServedReward("art", str(path)),)))
