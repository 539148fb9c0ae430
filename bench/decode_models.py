"""Models of real shapes with random weights, adapters on them, and the bytes a decoding step has to read.

Weights are drawn on the device they run on: speed does not depend on what they are, as long as the logits are finite.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen3Config

from genarm.models.activation import Activation
from genarm.models.adapters import LoraAdapter

MODELS = ("Llama-3.1-8B", "Llama-2-7B", "Llama-3.2-1B", "Qwen3-0.6B")
RANK = 16
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}


def _llama(hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, vocab: int, **others: Any) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=mlp,
        vocab_size=vocab,
        max_position_embeddings=others.pop("positions", 131072),
        **others,
    )


def config(name: str) -> PreTrainedConfig:
    """The configuration of a model of this shape."""
    match name:
        case "tiny":
            return _llama(64, 2, 4, 2, 128, 512, positions=4096)
        case "small":  # 201 million weights, 168 million of them read in a step
            return _llama(1024, 12, 16, 4, 2816, 32000, positions=8192)
        case "Llama-2-7B":
            # The released one has 4,096 positions: a longer context here is a measurement of its shape only.
            return _llama(4096, 32, 32, 32, 11008, 32000, positions=32768)
        case "Llama-3.1-8B":
            return _llama(4096, 32, 32, 8, 14336, 128256, rope_parameters=LLAMA3_ROPE | {"factor": 8.0})
        case "Llama-3.2-1B":
            rope = LLAMA3_ROPE | {"factor": 32.0}
            return _llama(2048, 16, 32, 8, 8192, 128256, rope_parameters=rope, tie_word_embeddings=True)
        case "Qwen3-0.6B":
            return Qwen3Config(
                hidden_size=1024,
                num_hidden_layers=28,
                num_attention_heads=16,
                num_key_value_heads=8,
                head_dim=128,
                intermediate_size=3072,
                vocab_size=151936,
                max_position_embeddings=40960,
                rope_parameters={"rope_type": "default", "rope_theta": 1e6},
                tie_word_embeddings=True,
            )
    raise ValueError(f"no model is named {name!r}")


@dataclass(slots=True)
class Family:
    """A base model and the adapters that make reward models of it."""

    name: str
    base: Any
    adapters: list[LoraAdapter] = field(default_factory=list)

    def adapter(self, index: int) -> LoraAdapter:
        while len(self.adapters) <= index:
            self.adapters.append(random_adapter(self.base, RANK, len(self.adapters)))
        return self.adapters[index]

    def activated(self, index: int) -> LoraAdapter:
        """The same adapter, asleep on prompts."""
        return replace(self.adapter(index), activation=Activation())

    def merged(self, index: int) -> nn.Module:
        """A copy of the base with an adapter added into its weights: what has weights of its own."""
        torch.manual_seed(1 + index)
        model = random_model(self.base.config, self.base.dtype, self.base.device)
        model.load_state_dict(self.base.state_dict())
        with torch.no_grad():
            for name, (down, up, _) in self.adapter(index).layers.items():
                model.get_submodule(name).weight.addmm_(up, down)
        return model


@lru_cache(maxsize=1)
def family(name: str, dtype: torch.dtype, device: torch.device) -> Family:
    """The last one asked for is kept, so that cases on one model share it."""
    torch.manual_seed(0)
    return Family(name, random_model(config(name), dtype, device))


def shapes_only(name: str, count: int, layers: int | None = None) -> Family:
    """A model and as many adapters without weights: enough to count bytes. ``layers``: default all that it has."""
    shape = config(name)
    shape.num_hidden_layers = layers or shape.num_hidden_layers
    base = random_model(shape, torch.bfloat16, torch.device("meta"))
    linears = {path: one for path, one in base.named_modules() if isinstance(one, nn.Linear) and path != "lm_head"}

    def adapter() -> LoraAdapter:
        return LoraAdapter(
            "",
            None,
            {
                path: (one.weight.new_empty(RANK, one.in_features), one.weight.new_empty(one.out_features, RANK), None)
                for path, one in linears.items()
            },
        )

    return Family(name, base, [adapter() for _ in range(count)])


def random_model(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> Any:
    """Made where it is used and in its dtype, so that no second copy is ever in memory."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    # At one query token a row eager attention is the faster one on a CPU; neither is slowed by the other's choice.
    model.set_attn_implementation("eager" if device.type == "cpu" else "sdpa")
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.requires_grad_(False)


def random_adapter(model: nn.Module, rank: int, seed: int) -> LoraAdapter:
    """LoRA on every linear layer but the head, small beside the base's own weights."""
    parameter = next(model.parameters())
    generator = torch.Generator(parameter.device).manual_seed(seed)

    def draw(rows: int, columns: int, scale: float) -> Tensor:
        values = torch.randn(rows, columns, generator=generator, device=parameter.device)
        return (values * scale).to(parameter.dtype)

    layers: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name != "lm_head":
            down = draw(rank, layer.in_features, layer.in_features**-0.5)
            layers[name] = (down, draw(layer.out_features, rank, 0.02), None)
    return LoraAdapter(f"random adapter {seed}", None, layers)


@dataclass(frozen=True, slots=True)
class StepBytes:
    """What one step reads at least, by part."""

    weights: int
    adapters: int
    cache: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.cache + self.logits


def step_bytes(
    family: Family, K: int, separate: bool, batch: int, context: float, held_once: tuple[int, int] = (0, 0)
) -> StepBytes:
    """The byte floor of a step of the base and K reward models on it, or beside it with weights of their own.
    ``held_once``: so many prompts of so many tokens are read once for all rows that begin with them.

    Every weight once, the head among them and the embedding's table not; each stream's live keys and values; each
    adapter's A and B; every model's logits once, by the draw. ``context`` is the tokens cached, the steps' mean.
    """
    config, size = family.base.config, family.base.dtype.itemsize
    streams, (prompts, shared) = K + 1, held_once
    own = streams * batch * (context - shared)
    return StepBytes(
        weights=weight_bytes(family.base) * (streams if separate else 1),
        adapters=0 if separate else sum(adapter_bytes(family.adapter(index)) for index in range(K)),
        cache=int((prompts * shared + own) * cache_bytes(config, size)),
        logits=streams * batch * config.vocab_size * size,
    )


def weight_bytes(model: Any) -> int:
    """All weights of a model that a step reads; a head that is the embedding too is read as a head."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    total: int = sum(parameter.nbytes for parameter in model.parameters())
    return total if embedding is head else total - embedding.nbytes


def cache_bytes(config: Any, size: int) -> int:
    """Bytes of one token's keys and values in all layers."""
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size)


def adapter_bytes(adapter: LoraAdapter) -> int:
    return sum(down.nbytes + up.nbytes for down, up, _ in adapter.layers.values())
