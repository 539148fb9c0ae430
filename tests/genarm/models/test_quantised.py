"""Bases whose weights are packed, scaled or elsewhere, with LoRA and full reward models beside them, in one step: each
stream is what PEFT and transformers make of it."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from families import assert_streams_are, make_model, save_adapter, with_adapter
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from genarm import GuidedDecoder, UnsupportedModelError
from genarm.models.adapters import read_adapter
from genarm.models.loading import load_model
from genarm.models.options import Source

pytestmark = pytest.mark.filterwarnings(
    "ignore:MatMul8bitLt", "ignore:torch.ao.quantization", "ignore:torch.quantize_per_tensor", "ignore::FutureWarning"
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain() -> Any:
    return make_model("llama", seed=1, hidden=64)


@pytest.fixture(scope="module")
def full() -> Any:
    return make_model("llama", seed=2, hidden=16)


@pytest.fixture(scope="module")
def folders(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and an adapter on it and its head."""
    root = tmp_path_factory.mktemp("models")
    plain.save_pretrained(root / "base")
    save_adapter(plain, "llama", root / "adapter", seed=4)
    return root


class Packed(nn.Module):
    """A layer of GPTQ's and AWQ's shape: integers, zeros and scales in buffers, no parameter, names of its own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.infeatures, self.outfeatures = linear.in_features, linear.out_features
        scales = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("qweight", (linear.weight.detach() / scales).round().to(torch.int32) + 7)
        self.register_buffer("qzeros", torch.tensor(7, dtype=torch.int32))
        self.register_buffer("scales", scales)

    def real(self) -> Tensor:
        return (self.qweight - self.qzeros) * self.scales

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.real())


class Scaled(nn.Linear):
    """A layer of 8-bit floats that mean nothing without their scale."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        scale = linear.weight.detach().abs().amax() / 448
        self.weight = nn.Parameter((linear.weight.detach() / scale).to(torch.float8_e4m3fn), requires_grad=False)
        self.register_buffer("weight_scale_inv", scale)

    def real(self) -> Tensor:
        return self.weight.to(torch.float32) * self.weight_scale_inv

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.real())


def replaced(model: Any, kind: Callable[[nn.Linear], Any]) -> tuple[Any, Any]:
    """A copy with every layer of that kind, and one with the weights that those stand for."""
    quantised, meant = copy.deepcopy(model), copy.deepcopy(model)
    for layer, other in zip(quantised.model.layers, meant.model.layers, strict=True):
        for part, same in ((layer.self_attn, other.self_attn), (layer.mlp, other.mlp)):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, kind(linear))
                    getattr(same, name).weight.data = getattr(part, name).real()
    return quantised, meant


@pytest.mark.parametrize("kind", [Packed, Scaled])
def test_layers_without_a_floating_weight(plain: Any, full: Any, folders: Path, kind: Any) -> None:
    """The base alone, a LoRA reward on it, a full one beside it, and such a model as the reward of a plain base."""
    quantised, meant = replaced(plain, kind)
    decoder = GuidedDecoder(quantised, {"lora": folders / "adapter", "full": full})
    assert [row["path"] for row in decoder.describe()] == ["hf", "hf", "fused"]
    assert_streams_are(decoder, [meant, with_adapter(meant, folders / "adapter"), full], 1e-4)
    assert_streams_are(GuidedDecoder(plain, {"r": quantised}), [plain, meant], 1e-4)
    assert {layer[0].dtype for layer in read_adapter(folders / "adapter").fit(quantised).layers.values()} == {
        torch.float32
    }


@pytest.mark.parametrize("where", ["a layer", "all", "disk"])
def test_weights_that_accelerate_keeps_elsewhere(
    plain: Any, full: Any, folders: Path, tmp_path: Path, where: str
) -> None:
    away = copy.deepcopy(plain)
    if where == "disk":
        disk_offload(away, str(tmp_path), CPU)
    else:
        cpu_offload(away.model.layers[1] if where == "a layer" else away, CPU)
    head = save_adapter(plain, "llama", tmp_path / "head", seed=5, target_modules=["q_proj", "lm_head"])
    adapted = with_adapter(plain, folders / "adapter")
    decoder = GuidedDecoder(away, {"lora": folders / "adapter", "head": head, "full": full})
    assert_streams_are(decoder, [plain, adapted, with_adapter(plain, head), full], 1e-4)
    assert_streams_are(GuidedDecoder(plain, {"r": away}), [plain, plain], 1e-4)


def test_a_device_map_goes_through_to_transformers(plain: Any, folders: Path, tmp_path: Path) -> None:
    places = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", "model.layers.0"), "cpu")
    decoder = GuidedDecoder.from_pretrained(
        folders / "base",
        {"lora": folders / "adapter"},
        device_map={**places, "model.layers.1": "disk"},
        offload_folder=str(tmp_path),
    )
    assert next(decoder.base_model.model.layers[1].parameters()).device.type == "meta"  # type: ignore[union-attr, index]
    assert_streams_are(decoder, [plain, with_adapter(plain, folders / "adapter")], 1e-4)


def test_a_model_that_was_not_loaded_is_refused(plain: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="on the meta device"):
        GuidedDecoder(copy.deepcopy(plain).to("meta"))


def torchao_config() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


# library -> its package, what it is told, and how far two shapes of one product are apart in its arithmetic
LIBRARIES: dict[str, tuple[str, Callable[[], Any], float]] = {
    "bitsandbytes 4 bits": ("bitsandbytes", lambda: BitsAndBytesConfig(load_in_4bit=True), 1e-4),
    "bitsandbytes 8 bits": ("bitsandbytes", lambda: BitsAndBytesConfig(load_in_8bit=True), 1e-3),
    "torchao int8": ("torchao", torchao_config, 1e-4),
    "quanto int8": ("optimum.quanto", lambda: QuantoConfig(weights="int8"), 1e-4),
}


def is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def rounds_4_bits() -> bool:
    """Whether bitsandbytes takes this processor's products of bfloat16 for weights of 4 bits."""
    functional = importlib.import_module("bitsandbytes.functional")
    return bool(functional.has_avx512bf16())


@pytest.mark.parametrize(("package", "config", "tolerance"), LIBRARIES.values(), ids=LIBRARIES.keys())
def test_a_base_quantised_by_a_library(full: Any, folders: Path, package: str, config: Any, tolerance: float) -> None:
    """Loaded by us from a path; held against PEFT's layers put on that very module."""
    if not is_there(package):
        pytest.skip(f"NOT RUN: {package} is not installed")
    if getattr(config(), "load_in_4bit", False) and rounds_4_bits():
        pytest.skip("NOT RUN: bitsandbytes computes with 4 bits in bfloat16 on this processor, too coarsely to compare")
    rewards = {"lora": folders / "adapter", "full": full}
    decoder = GuidedDecoder.from_pretrained(folders / "base", rewards, device="cpu", quantization_config=config())
    base: Any = decoder.base_model
    assert type(base.model.layers[0].mlp.up_proj.weight) is not nn.Parameter, "it is quantised"
    assert [row["path"] for row in decoder.describe()] == ["hf", "hf", "fused"]
    assert_streams_are(GuidedDecoder(base, {"full": full}), [base, full], tolerance)
    said = log_probs(decoder)
    peft = PeftModel.from_pretrained(base, str(folders / "adapter")).eval()
    by_peft = log_probs(GuidedDecoder(full, {"r": peft}))
    torch.testing.assert_close(said, by_peft, atol=tolerance, rtol=tolerance)


def log_probs(decoder: GuidedDecoder) -> Tensor:
    out = decoder.generate([[5, 6, 7], [8, 9]], allowed_tokens=[11], max_new_tokens=3, return_logprobs=True)
    assert out.model_logprobs is not None
    return out.model_logprobs[..., 1]


def test_layers_that_torch_itself_quantised(plain: Any, full: Any, folders: Path) -> None:
    """Their scale follows all tokens of a pass, so passes of other shapes differ in the second digit."""
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain), {nn.Linear}, dtype=torch.qint8)
    decoder = GuidedDecoder(quantised, {"lora": folders / "adapter", "full": full})
    assert_streams_are(decoder, [plain, with_adapter(plain, folders / "adapter"), full], 0.03)
    with pytest.raises(AssertionError):
        assert_streams_are(decoder, [plain, plain, full], 0.03)


@pytest.mark.filterwarnings("ignore:.*is an adapter. the model is:UserWarning")
def test_a_lora_folder_on_a_quantised_base_is_not_rounded_into_it(plain: Any, folders: Path, tmp_path: Path) -> None:
    if not is_there("bitsandbytes"):
        pytest.skip("NOT RUN: bitsandbytes is not installed")
    options = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}
    tuned = save_adapter(load_model(folders / "base", Source(torch.float32, CPU)), "llama", tmp_path / "tuned", seed=6)
    bare: Any = load_model(folders / "base", Source(torch.float32, CPU, options=options))
    model: Any = load_model(tuned, Source(torch.float32, CPU, options=options))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(bare, str(tuned)).eval()(input_ids=ids).logits
        assert torch.allclose(model(input_ids=ids).logits, wanted, atol=1e-4)
