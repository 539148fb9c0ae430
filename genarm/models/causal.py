"""A stream's model: a causal language model of Hugging Face transformers, perhaps with a LoRA adapter on it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import get_ident
from typing import Any
from weakref import ref

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.variants import ALoraLinearVariant
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from ..errors import InvalidArgumentError, UnsupportedAdapterError, UnsupportedModelError
from ..request.preferences import Preference
from .activation import Activation, AwakePlaces
from .adapters import LoraAdapter
from .placement import compute_dtype, execution_device
from .preference_adapters import PreferenceAdapter

# -> a module, for as long as it lives
Hold = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class CausalModel:
    """One stream's model: a module, perhaps with a LoRA adapter on it, perhaps with PEFT adapters switched off.

    With a PreferenceAdapter it is a model for each preference, which ``given`` makes of it.
    ``without`` is a PeftModel whose adapters live inside ``module`` and must be off while this stream runs.
    ``runs_on`` says in words whose weights these are: a path, a class of models, "the base".
    """

    name: str
    hold: Hold
    adapter: LoraAdapter | PreferenceAdapter | None = None
    hold_without: Hold | None = None
    accepts: frozenset[str] = frozenset()
    runs_on: str = ""

    @property
    def module(self) -> Any:
        return self.hold()

    @property
    def without(self) -> Any:
        return None if self.hold_without is None else self.hold_without()

    def given(self, preference: Preference) -> CausalModel:
        """The model that this one is for a preference."""
        adapter = self.adapter
        return replace(self, adapter=adapter.fold(preference)) if isinstance(adapter, PreferenceAdapter) else self

    @property
    def is_conditioned(self) -> bool:
        """Whether it takes a preference."""
        return isinstance(self.adapter, PreferenceAdapter)

    @property
    def activation(self) -> Activation | None:
        """From which of a prompt's tokens on its adapter is awake; None where it always is, or there is none."""
        return self.adapter.activation if isinstance(self.adapter, LoraAdapter) else None

    def held_weakly(self, modules: Sequence[nn.Module]) -> CausalModel:
        """The same without a hold on those of ``modules`` it uses, which live as long as their owner keeps them."""
        hold, without = self.hold, self.hold_without
        for module in modules:
            if self.module is module:
                hold = ref(module)
            if self.without is module:
                without = ref(module)
        return replace(self, hold=hold, hold_without=without)

    @property
    def config(self) -> Any:
        return self.module.config.get_text_config(decoder=True)

    @property
    def device(self) -> torch.device:
        """Where its forward pass begins, and its prompts are to be."""
        return execution_device(self.module)

    @property
    def dtype(self) -> torch.dtype:
        """Of its activations, and so of its keys and values."""
        return compute_dtype(self.module)

    @property
    def vocab_size(self) -> int:
        """Columns of the LM head, padding included."""
        return self._rows("get_output_embeddings")

    @property
    def input_vocab_size(self) -> int:
        """Rows of the embedding: ids a prompt may hold."""
        return self._rows("get_input_embeddings")

    def _rows(self, getter: str) -> int:
        """Rows of the head's or the embedding's weight; the configured vocabulary where the model names neither."""
        layer = getattr(self.module, getter, lambda: None)()
        weight = getattr(layer, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.is_floating_point():
            return int(weight.shape[0])
        # A quantised layer's weight is packed, or not a tensor.
        counts = (getattr(layer, name, None) for name in ("out_features", "outfeatures", "num_embeddings"))
        return int(next((count for count in counts if count), self.config.vocab_size))

    @property
    def max_positions(self) -> int | None:
        """The longest context the configuration names, None where it names none."""
        value = getattr(self.config, "max_position_embeddings", None)
        return int(value) if value and value > 0 else None

    @property
    def has_position_table(self) -> bool:
        """Whether positions end with a table, learned or made beforehand, rather than being computed: as rotary
        frequencies times any position, or as ALiBi's slopes."""
        names = (name for name, _ in inner_model(self.module).named_buffers())
        return not getattr(self.config, "alibi", False) and not any(name.endswith("inv_freq") for name in names)

    def running(self) -> Callable[[Tensor | None], AbstractContextManager[None]]:
        """-> a block, to be entered again and again, in which a forward pass of ``module`` is this stream's model; of a
        pass in which an activated adapter sleeps in part it is told where it is awake, [B, T] bool.

        What the block changes is looked up here, once; adapters loaded into ``module`` later are not seen.
        """
        if isinstance(self.adapter, PreferenceAdapter):
            raise InvalidArgumentError(
                f"{self.name} is conditioned on a preference, and none was given: pass preferences"
            )
        if self.without is not None:
            refuse_merged(self.name, self.without)
        else:
            refuse_activated_layers(self.name, self.module)
        off = None if self.without is None else _switch_off(self.without)
        places = AwakePlaces()
        hooks = [] if self.adapter is None else self.adapter.hooks(inner_model(self.module), places)

        @contextmanager
        def active(awake: Tensor | None = None) -> Iterator[None]:
            places.awake = awake
            with ExitStack() as stack:
                if off is not None:
                    stack.enter_context(off())
                for layer, hook in hooks:
                    stack.callback(layer.register_forward_hook(_here(hook)).remove)
                yield

        return active


def _here(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A forward hook in this thread alone: in another the caller may be using the module as it is."""
    own = get_ident()
    return lambda *args: hook(*args) if get_ident() == own else None


def make_model(
    name: str, module: nn.Module, adapter: LoraAdapter | PreferenceAdapter | None = None, without: Any = None
) -> CausalModel:
    """Check that ``module`` is a decodable causal LM, and note which keywords its forward takes."""
    inner: Any = inner_model(module)
    config = getattr(inner, "config", None)
    if config is None or not hasattr(inner, "forward"):
        raise UnsupportedModelError(
            f"{name} is a {type(module).__name__}, not a transformers model: pass an AutoModelForCausalLM, a PeftModel "
            "or a path"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name} ({type(inner).__name__}) is an encoder-decoder: pass a causal language model"
        )
    if getattr(getattr(module, "active_peft_config", None), "is_prompt_learning", False):
        raise UnsupportedModelError(
            f"{name} is a PeftModel with virtual tokens (prompt or prefix tuning), which are not decoded: use LoRA"
        )
    if getattr(inner, "_is_stateful", False):
        raise UnsupportedModelError(
            f"{name} ({type(inner).__name__}) keeps a recurrent state, which has no key-value cache: pass a transformer"
        )
    if not _can_generate(inner):
        raise UnsupportedModelError(
            f"{name} ({type(inner).__name__}) has no language-model head: pass an AutoModelForCausalLM"
        )
    accepts = _keywords(inner)
    if "past_key_values" not in accepts:
        raise UnsupportedModelError(
            f"{name} ({type(inner).__name__}) takes no key-value cache (past_key_values): pass a transformer that does"
        )
    if not getattr(inner, "_supports_default_dynamic_cache", lambda: True)():
        raise UnsupportedModelError(
            f"{name} ({type(inner).__name__}) keeps a cache of its own kind (linear attention, say), which rows cannot "
            "be cut from or padded into: pass a transformer that runs on transformers' DynamicCache"
        )
    if execution_device(inner).type == "meta":
        raise UnsupportedModelError(f"{name} is on the meta device (it was not loaded): load it on cpu or cuda")
    if without is not None:
        refuse_merged(name, without)
    else:
        refuse_activated_layers(name, module)
    return CausalModel(name, lambda: module, adapter, (lambda: without) if without is not None else None, accepts)


def _keywords(inner: Any) -> frozenset[str]:
    """What its forward takes by name, and where that hands on what it does not know, those of the classes below."""
    found: set[str] = set()
    for forward in (inner.forward, *(vars(kind)["forward"] for kind in type(inner).__mro__ if "forward" in vars(kind))):
        parameters = inspect.signature(forward).parameters
        found |= {*parameters} - {"self"}
        if all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
            break
    return frozenset(found)


def _can_generate(inner: Any) -> bool:
    no_head = hasattr(inner, "get_output_embeddings") and inner.get_output_embeddings() is None
    return not no_head and bool(getattr(inner, "can_generate", lambda: True)())


def refuse_merged(name: str, peft_model: Any) -> None:
    """Raise where PEFT's adapters are merged into the layers that ``name`` is to run without them: PEFT would take them
    out of the caller's weights, which rounding leaves changed."""
    if any(isinstance(part, BaseTunerLayer) and part.merged for part in peft_model.modules()):
        raise UnsupportedAdapterError(
            f"{name} is a model without the adapters that merge_adapter() merged into its layers, whose own weights "
            "are not there any more: call unmerge_adapter() first, or load that model and the adapter's path anew"
        )


def refuse_activated_layers(name: str, module: nn.Module) -> None:
    """Raise where PEFT's activated LoRA is on in a module: it looks for the tokens that wake it in every pass by
    itself, in one of a step as well, in which they are not any more."""
    for layer in module.modules():
        if isinstance(layer, LoraLayer) and not layer.disable_adapters:
            variants = (getattr(layer, "lora_variant", {}).get(adapter) for adapter in layer.active_adapters)
            if any(isinstance(variant, ALoraLinearVariant) for variant in variants):
                raise UnsupportedAdapterError(
                    f"{name} is a PeftModel whose active adapter is an activated LoRA, which PEFT wakes pass by pass: "
                    "pass the adapter's path as a reward model, and the base without it"
                )


def _switch_off(peft_model: Any) -> Callable[[], AbstractContextManager[None]]:
    """-> a block with PEFT's adapters off. PEFT's own switch walks the model and marks adapters trainable when it goes
    back on; a layer's flag does neither."""
    switch = getattr(type(peft_model.base_model), "disable_adapter_layers", None)
    if switch is not BaseTuner.disable_adapter_layers:  # a tuner with a switch of its own
        return lambda: _switched_off(peft_model)
    layers = [part for part in peft_model.modules() if isinstance(part, BaseTunerLayer | AuxiliaryTrainingWrapper)]

    @contextmanager
    def off() -> Iterator[None]:
        was_on = [layer for layer in layers if not layer._disable_adapters]
        try:
            for layer in was_on:
                layer._disable_adapters = True
            yield
        finally:
            for layer in was_on:
                layer._disable_adapters = False

    return off


@contextmanager
def _switched_off(peft_model: Any) -> Iterator[None]:
    flags = [(parameter, parameter.requires_grad) for parameter in peft_model.parameters()]
    try:
        with peft_model.disable_adapter():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def inner_model(module: nn.Module) -> nn.Module:
    """The transformers model inside a PeftModel or a compiled module, or the module itself."""
    module = getattr(module, "_orig_mod", module)
    getter = getattr(module, "get_base_model", None)
    inner: nn.Module = getter() if callable(getter) else module
    return inner
