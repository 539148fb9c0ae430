"""`genarm serve` becomes vLLM's server: here the command line it becomes, without vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genarm import embedded
from genarm.cli.serve import ServeOptions, check_plugins, command
from genarm.errors import InvalidArgumentError, UnsupportedAdapterError
from genarm.models.activation import Activation
from genarm.serving.settings import ARCHITECTURE, ServedGuidance


def told(line: list[str], name: str) -> str:
    return line[line.index(name) + 1]


def test_it_listens_on_this_machine_and_names_the_guided_model() -> None:
    line = command(ServeOptions(rewards=["art:0.5", "risk"], rest=["--api-key", "secret"]))
    assert told(line, "--host") == "127.0.0.1" and told(line, "--served-model-name") == "base+art+risk"
    assert line[-2:] == ["--api-key", "secret"]
    overrides = json.loads(told(line, "--hf-overrides"))
    assert overrides["architectures"] == [ARCHITECTURE]
    rewards = ServedGuidance.from_dict(overrides["genarm"]).rewards
    assert [(one.name, one.path, one.weight, one.base) for one in rewards] == [
        ("art", str(embedded.REWARDS["art"]), 0.5, None),
        ("risk", str(embedded.REWARDS["risk"]), 1.0, None),
    ]


def test_an_adapter_may_go_on_a_base_of_its_own(tmp_path: Path) -> None:
    line = command(ServeOptions(rewards=["art"], reward_bases=[f"art={tmp_path}"]))
    guidance = ServedGuidance.from_dict(json.loads(told(line, "--hf-overrides"))["genarm"])
    assert guidance.rewards[0].base == str(tmp_path)


def test_an_adapter_that_sleeps_on_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(Activation((5, 6)).settings()))
    with pytest.raises(UnsupportedAdapterError, match=r"in vLLM here .* adapter on: use GuidedDecoder"):
        command(ServeOptions(rewards=[f"asleep={tmp_path}:1"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ServeOptions(), "no reward model was named"),
        (ServeOptions(rewards=["art"], beta=-1.0), "above 0"),
        (ServeOptions(rewards=["art"], rest=["--hf_overrides={}"]), "take the place of the reward models"),
    ],
)
def test_what_would_serve_something_else_is_refused(options: ServeOptions, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        command(options)


def test_an_environment_that_leaves_the_plugin_out_is_refused() -> None:
    check_plugins({"A": "b"})
    check_plugins({"VLLM_PLUGINS": "other,genarm"})
    with pytest.raises(InvalidArgumentError, match="leaves the plugin of genarm out"):
        check_plugins({"VLLM_PLUGINS": "other"})
