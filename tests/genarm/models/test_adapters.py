"""LoRA adapters applied in place are what PEFT makes of them; what is not plain LoRA is refused, saying why."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, LINEARS, make_model, plain_greedy, random_prompts, save_adapter, with_adapter
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from genarm import GenARMError, GuidedDecoder, LoadingError, UnsafeWeightsError, UnsupportedAdapterError
from genarm.models.adapters import read_adapter

PROMPTS = random_prompts([6, 11], seed=1)
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


@pytest.fixture(scope="module")
def base() -> Any:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def saved(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain adapter, for copies to be spoilt."""
    return save_adapter(base, "llama", tmp_path_factory.mktemp("plain") / "adapter", seed=4)


@pytest.fixture
def adapter(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def logits(decoder: GuidedDecoder, prompt: Tensor) -> list[Tensor]:
    """[M] of [V] what each stream says after a prompt."""
    found: dict[int, Tensor] = {}
    for backbone in decoder.engine.backbones:
        outputs = backbone.session(1, len(prompt) + 1).prefill([[prompt]] * len(backbone.streams))
        found.update(zip(backbone.streams, (rows[0] for rows in outputs), strict=True))
    return [found[stream] for stream in range(len(decoder.models))]


def assert_streams_equal(decoder: GuidedDecoder, plain: list[Any]) -> None:
    """Every stream of the decoder is the plain model's forward pass, and they differ from one another."""
    with torch.no_grad():
        expected = [model(input_ids=PROMPTS[0][None]).logits[0, -1] for model in plain]
    for one, other in zip(logits(decoder, PROMPTS[0]), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 6},
    "patterns": {
        "alpha_pattern": {"q_proj": 32, "layers.1.mlp.up_proj": 1},
        "rank_pattern": {"v_proj": 2, "^model.layers.0.self_attn.k_proj": 8},
    },
    "patterns with rslora": {"use_rslora": True, "alpha_pattern": {"v_proj": 3}, "rank_pattern": {"v_proj": 2}},
    "bias of its own": {"lora_bias": True},
    "regex": {"target_modules": r".*layers\.1.*(q|v)_proj"},
    "all linear": {"target_modules": "all-linear"},
    "one module": {"target_modules": ["down_proj"]},
    "some layers": {"layers_to_transform": [1]},
    "excluded": {"exclude_modules": ["v_proj"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "dropout": {"lora_dropout": 0.5},
    "gaussian": {"init_lora_weights": "gaussian"},
    "biases saved but not there": {"bias": "all"},
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_an_adapter_is_what_peft_makes_of_it(base: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, **settings)
    peft = with_adapter(base, folder)
    assert_streams_equal(GuidedDecoder(base, [str(folder), peft]), [base, peft, peft])
    assert not torch.allclose(*logits(GuidedDecoder(base, [folder]), PROMPTS[0]), atol=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tie", [True, False])
def test_adapters_on_every_family_and_on_tied_heads(family: str, tie: bool, tmp_path: Path) -> None:
    base = make_model(family, seed=1, tie=tie)
    targets = [*LINEARS[family], "lm_head"]
    folder = save_adapter(base, family, tmp_path / "a", seed=4, target_modules=targets)
    assert_streams_equal(GuidedDecoder(base, [folder]), [base, with_adapter(base, folder)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_adapter_takes_the_dtype_of_the_layers_it_goes_on(dtype: torch.dtype, saved: Path) -> None:
    base = make_model("llama", seed=1).to(dtype)
    decoder = GuidedDecoder(base, [saved])
    assert decoder.models[1].adapter is not None
    assert {part.dtype for layer in decoder.models[1].adapter.layers.values() for part in layer[:2]} == {dtype}
    assert not decoder.generate(PROMPTS, max_new_tokens=2).errors
    own = logits(decoder, PROMPTS[0])[1].float()
    exact = logits(GuidedDecoder(make_model("llama", seed=1), [saved]), PROMPTS[0])[1]
    assert float((own - exact).abs().max()) < 0.1


def test_a_head_that_was_trained_with_the_adapter_is_refused(base: Any, tmp_path: Path) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, target_modules=["q_proj", "lm_head"])
    state = load_file(folder / WEIGHTS_FILE)
    name = next(key for key in state if key.endswith("lm_head.base_layer.weight"))
    save_file({**state, name: state[name].bfloat16()}, folder / WEIGHTS_FILE)
    GuidedDecoder(base, [folder])  # the same in a coarser dtype
    save_file({**state, name: state[name] + 0.01}, folder / WEIGHTS_FILE)
    with pytest.raises(UnsupportedAdapterError, match=r"lm_head\.weight of its own"):
        GuidedDecoder(base, [folder])


def test_an_adapter_may_be_read_once_and_given_as_it_is(base: Any, saved: Path) -> None:
    read = read_adapter(saved)
    assert_streams_equal(GuidedDecoder(base, {"a": read, "b": read}), [base] + [with_adapter(base, saved)] * 2)


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "DoRA"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "modules_to_save norm": ({"modules_to_save": ["norm"]}, "modules_to_save"),
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, "LoRA on embeddings"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "pissa initialisation"),
    "PiSSA niter": ({"init_lora_weights": "pissa_niter_2"}, "pissa_niter_2 initialisation"),
    "OLoRA": ({"init_lora_weights": "olora"}, "olora initialisation"),
    "token indices": ({"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
    "replication": ({"layer_replication": [(0, 2), (1, 2)]}, "layer_replication"),
    "parameters": ({"target_parameters": ["mlp.gate_proj.weight"], "target_modules": []}, "bare parameters"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize(("settings", "cause"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_is_not_plain_lora_is_refused(base: Any, tmp_path: Path, settings: dict[str, Any], cause: str) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, **settings)
    with pytest.raises(UnsupportedAdapterError) as caught:
        GuidedDecoder(base, {"helpful": str(folder)})
    text = str(caught.value)
    assert cause in text and str(folder) in text and "merge" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "config",
    [
        VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2),
        IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]),
    ],
    ids=["VeRA", "IA3", "prompt tuning", "SEQ_CLS"],
)
def test_other_kinds_of_adapter_are_refused(base: Any, tmp_path: Path, config: Any) -> None:
    config.inference_mode = False
    if config.task_type == "SEQ_CLS":
        shutil.copytree(save_adapter(base, "llama", tmp_path / "b", seed=4), tmp_path / "a")
        edit_config(tmp_path / "a", task_type="SEQ_CLS")
    else:
        get_peft_model(copy.deepcopy(base), config).save_pretrained(str(tmp_path / "a"))
    with pytest.raises(UnsupportedAdapterError) as caught:
        GuidedDecoder(base, [str(tmp_path / "a")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (("gpt2", {}), "has no module"),
        (("llama", {"hidden": 64}), "64 -> 32 features, the model's 128 -> 64"),
        (("llama", {"layers": 1}), "has no module 'model.layers.1"),
        (("llama", {"layers": 4}), "14 modules it has no weights for (model.layers.2.self_attn.q_proj"),
    ],
)
def test_an_adapter_for_another_architecture_is_refused(model: tuple[str, Any], cause: str, saved: Path) -> None:
    family, shape = model
    with pytest.raises(UnsupportedAdapterError) as caught:
        GuidedDecoder(make_model(family, seed=1, **shape), [saved])
    assert cause in str(caught.value)
    assert "another architecture" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_not_linear_is_refused(base: Any, adapter: Path) -> None:
    state = load_file(adapter / WEIGHTS_FILE)
    for name, kind in (("model.norm", "LlamaRMSNorm"), ("model.embed_tokens", "embedding")):
        extra = {
            f"base_model.model.{name}.lora_A.weight": torch.zeros(2, 32),
            f"base_model.model.{name}.lora_B.weight": torch.zeros(32, 2),
        }
        save_file({**state, **extra}, adapter / WEIGHTS_FILE)
        with pytest.raises(UnsupportedAdapterError, match=kind):
            GuidedDecoder(base, [adapter])


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:1000])


def edit_weights(folder: Path, change: Any) -> None:
    state = load_file(folder / WEIGHTS_FILE)
    name = next(key for key in state if "lora_B" in key)
    save_file(change(state, name), folder / WEIGHTS_FILE)


def pickle(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    torch.save({}, folder / "adapter_model.bin")


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


SPOILT: dict[str, tuple[Any, type[GenARMError], str]] = {
    "truncated": (truncate, LoadingError, "corrupt"),
    "garbage": (lambda f: (f / WEIGHTS_FILE).write_bytes(b"garbage" * 99), LoadingError, "corrupt"),
    "empty file": (lambda f: (f / WEIGHTS_FILE).write_bytes(b""), LoadingError, "corrupt"),
    "pickled": (pickle, UnsafeWeightsError, "pickled weights can run code"),
    "no weights": (lambda f: (f / WEIGHTS_FILE).unlink(), LoadingError, "no such file"),
    "no tensors": (lambda f: save_file({}, f / WEIGHTS_FILE), LoadingError, "holds no LoRA weights"),
    "missing half": (lambda f: edit_weights(f, without), LoadingError, "lacks a matching pair"),
    "ranks apart": (
        lambda f: edit_weights(f, lambda state, name: {**state, name: state[name][:, :2].clone()}),
        LoadingError,
        "lacks a matching pair",
    ),
    "NaN": (
        lambda f: edit_weights(f, lambda state, name: {**state, name: state[name] * torch.nan}),
        LoadingError,
        "NaN or infinite",
    ),
    "a layer left out": (
        lambda f: edit_weights(f, lambda state, _: {k: v for k, v in state.items() if "layers.0" not in k}),
        UnsupportedAdapterError,
        "7 modules it has no weights for (model.layers.0.",
    ),
    "magnitudes": (
        lambda f: edit_weights(
            f, lambda state, name: {**state, name.replace("lora_B.weight", "lora_magnitude_vector"): torch.ones(32)}
        ),
        UnsupportedAdapterError,
        "more than plain LoRA",
    ),
    "broken JSON": (lambda f: (f / CONFIG_FILE).write_text("{"), LoadingError, "cannot be read as JSON"),
    "JSON list": (lambda f: (f / CONFIG_FILE).write_text("[]"), LoadingError, "holds a list"),
    "alpha": (lambda f: edit_config(f, lora_alpha="x"), LoadingError, "damaged"),
    "alpha pattern": (lambda f: edit_config(f, alpha_pattern={"(": 3}), LoadingError, "damaged"),
    "alpha pattern list": (lambda f: edit_config(f, alpha_pattern=[3]), LoadingError, "damaged"),
    "targets": (lambda f: edit_config(f, target_modules="(q"), LoadingError, "damaged"),
}


@pytest.mark.parametrize(("spoil", "error", "cause"), SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_adapter_is_named_in_one_line(
    base: Any, adapter: Path, spoil: Any, error: type[GenARMError], cause: str
) -> None:
    spoil(adapter)
    with pytest.raises(error) as caught:
        GuidedDecoder(base, {"helpful": str(adapter)})
    text = str(caught.value)
    assert cause in text and str(adapter) in text
    assert "\n" not in text


def test_pickled_weights_beside_safetensors_are_not_touched(base: Any, adapter: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(b"not even a pickle")
    GuidedDecoder(base, [adapter])


# One base, several streams on it.


def shared(base: Any, saved: Path) -> tuple[Any, Any]:
    """A base, and a PeftModel whose adapter sits in that base's own layers."""
    own = copy.deepcopy(base)
    return own, PeftModel.from_pretrained(own, str(saved)).eval()


def test_a_peft_model_on_a_copy_of_the_base(base: Any, saved: Path) -> None:
    peft = with_adapter(base, saved)
    assert_streams_equal(GuidedDecoder(base, [peft]), [base, peft])


def test_a_peft_model_on_the_bases_own_layers_leaves_the_base_stream_alone(base: Any, saved: Path) -> None:
    own, peft = shared(base, saved)
    assert_streams_equal(GuidedDecoder(own, [peft]), [base, with_adapter(base, saved)])


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"], "bias": "all"},
    ],
    ids=["DoRA", "modules_to_save", "embedding", "head"],
)
def test_a_loaded_peft_model_may_be_anything_peft_can_run(base: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, **settings)
    peft = with_adapter(base, folder)
    assert_streams_equal(GuidedDecoder(base, [peft]), [base, peft])
    own, on_own_layers = shared(base, folder)
    assert_streams_equal(GuidedDecoder(own, [on_own_layers]), [base, peft])


def test_every_stream_that_is_the_base_is_without_the_shared_adapter(base: Any, saved: Path, tmp_path: Path) -> None:
    """The base once more (classifier-free guidance), another adapter by path, the shared adapter twice."""
    other = save_adapter(base, "llama", tmp_path / "other", seed=9)
    own, peft = shared(base, saved)
    decoder = GuidedDecoder(own, {"peft": peft, "itself": own, "path": str(other), "again": peft})
    adapted = with_adapter(base, saved)
    assert_streams_equal(decoder, [base, adapted, base, with_adapter(base, other), adapted])


def test_two_peft_models_on_one_base_are_refused(base: Any, saved: Path) -> None:
    own, peft = shared(base, saved)
    second = PeftModel.from_pretrained(own, str(saved), adapter_name="second").eval()
    with pytest.raises(UnsupportedAdapterError, match="pass the adapters' paths instead") as caught:
        GuidedDecoder(own, [peft, second])
    assert "\n" not in str(caught.value)


def test_a_peft_model_as_the_base_is_the_base_with_its_adapter(base: Any, saved: Path) -> None:
    _, peft = shared(base, saved)
    reward = make_model("llama", seed=2)
    assert_streams_equal(GuidedDecoder(peft, [reward]), [with_adapter(base, saved), reward])
    assert_streams_equal(GuidedDecoder(peft, [peft]), [with_adapter(base, saved)] * 2)


def test_a_shared_peft_model_is_left_as_it_was(base: Any, saved: Path) -> None:
    own, peft = shared(base, saved)
    peft.train()
    peft.base_model.model.model.layers[0].eval()
    before = {name: tensor.clone() for name, tensor in peft.state_dict().items()}
    flags = [(part.training, len(part._forward_hooks)) for part in peft.modules()]
    trainable = [parameter.requires_grad for parameter in peft.parameters()]
    assert not any(trainable), "an adapter loaded for inference is frozen"
    GuidedDecoder(own, {"a": peft, "b": str(saved)}).generate(PROMPTS, max_new_tokens=3)
    assert [(part.training, len(part._forward_hooks)) for part in peft.modules()] == flags
    assert [parameter.requires_grad for parameter in peft.parameters()] == trainable
    assert all(torch.equal(tensor, before[name]) for name, tensor in peft.state_dict().items())
    assert_streams_equal(GuidedDecoder(peft), [with_adapter(base, saved)])


def test_an_adapter_switched_off_by_the_caller_stays_off(base: Any, saved: Path) -> None:
    own, peft = shared(base, saved)
    with peft.disable_adapter():
        GuidedDecoder(own, [peft]).generate(PROMPTS, max_new_tokens=1)
        assert_streams_equal(GuidedDecoder(peft), [base])
    assert_streams_equal(GuidedDecoder(peft), [with_adapter(base, saved)])


def test_classifier_free_guidance_is_the_base_against_itself_with_another_prompt(base: Any) -> None:
    decoder = GuidedDecoder(base, {"negative": base})
    prompts, negatives = random_prompts([6, 11], seed=1), random_prompts([9, 2], seed=2)
    out = decoder.generate(
        prompts, weights={"negative": -0.8}, base_weight=1.8, reward_prompts={"negative": negatives},
        temperature=0.0, max_new_tokens=8, eos_token_id=[],
    )  # fmt: skip
    for row, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        tokens: list[int] = []
        for _ in range(8):
            drawn = torch.tensor(tokens, dtype=torch.int64)
            with torch.no_grad():
                conditional = base(input_ids=torch.cat([prompt, drawn])[None]).logits[0, -1].double().log_softmax(0)
                unconditional = base(input_ids=torch.cat([negative, drawn])[None]).logits[0, -1].double().log_softmax(0)
            scores = 1.8 * conditional - 0.8 * unconditional
            if float(scores.topk(2).values.diff().abs()) < 1e-4:
                break
            tokens.append(int(scores.argmax()))
        assert len(tokens) > 4
        assert out.tokens[row].tolist()[: len(tokens)] == tokens
    assert out.stats.prompt_tokens == 17


def test_adapters_and_models_together_guide_greedily(base: Any, saved: Path) -> None:
    own, peft = shared(base, saved)
    reward = make_model("gpt2", seed=3)
    out = GuidedDecoder(own, {"peft": peft, "full": reward}).generate(
        PROMPTS, weights={"peft": 1.0, "full": -0.5}, temperature=0.0, max_new_tokens=8
    )
    for row, prompt in enumerate(PROMPTS):
        expected = plain_greedy([base, with_adapter(base, saved), reward], [1.0, 1.0, -0.5], prompt, 8)
        assert out.tokens[row].tolist()[: len(expected)] == expected


def test_the_model_inside_a_peft_base_is_a_reference_without_the_adapter(tmp_path: Path) -> None:
    """As in emulated fine-tuning: the tuned model is the base, the untuned one weighs against it."""
    plain = make_model("llama", seed=1)
    tuned = with_adapter(plain, save_adapter(plain, "llama", tmp_path / "adapter", seed=3))
    out = GuidedDecoder(tuned, {"reference": tuned.get_base_model()}).generate(
        random_prompts([5]), weights={"reference": -0.5}, max_new_tokens=1, temperature=0.0, return_logprobs=True
    )
    assert out.model_logprobs is not None
    token = out.tokens[0][0]
    with torch.no_grad():
        for index, model in enumerate((tuned, plain)):
            expected = model(input_ids=random_prompts([5])[0][None]).logits[0, -1].log_softmax(-1)[token]
            torch.testing.assert_close(out.model_logprobs[0, 0, index], expected, atol=1e-5, rtol=1e-5)
