"""Triton kernels for guided decoding, with a CPU path in torch and a float64 oracle for each operation."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genarm_kernels import reference
    from genarm_kernels.layer.activation import swiglu
    from genarm_kernels.layer.attention import decode_attention
    from genarm_kernels.layer.linear import skinny_linear
    from genarm_kernels.layer.lora import Lora
    from genarm_kernels.layer.norm import add_rms_norm
    from genarm_kernels.layer.rotary import rotary_store
    from genarm_kernels.layer.shared_attention import shared_attention
    from genarm_kernels.layer.sharing import Sharing, new_sharing
    from genarm_kernels.logprobs.logprobs import token_logprobs
    from genarm_kernels.noise import row_seeds
    from genarm_kernels.particles.follow import follow_rows
    from genarm_kernels.particles.resample import Resampled, resample
    from genarm_kernels.sampling.arguments import GuidedSample
    from genarm_kernels.sampling.sample import guided_log_probs, guided_sample
    from genarm_kernels.step.accept import accept
    from genarm_kernels.step.advance import advance
    from genarm_kernels.step.ngram import ngram_draft
    from genarm_kernels.step.progress import Progress
    from genarm_kernels.step.texts import Texts

# Imported on first use: what is read without torch, such as how the C is compiled, lies in this package too.
_LAZY = {
    "reference": "reference",
    "swiglu": "layer.activation",
    "decode_attention": "layer.attention",
    "skinny_linear": "layer.linear",
    "Lora": "layer.lora",
    "add_rms_norm": "layer.norm",
    "rotary_store": "layer.rotary",
    "shared_attention": "layer.shared_attention",
    "Sharing": "layer.sharing",
    "new_sharing": "layer.sharing",
    "token_logprobs": "logprobs.logprobs",
    "row_seeds": "noise",
    "follow_rows": "particles.follow",
    "Resampled": "particles.resample",
    "resample": "particles.resample",
    "GuidedSample": "sampling.arguments",
    "guided_log_probs": "sampling.sample",
    "guided_sample": "sampling.sample",
    "accept": "step.accept",
    "advance": "step.advance",
    "ngram_draft": "step.ngram",
    "Progress": "step.progress",
    "Texts": "step.texts",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'genarm_kernels' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"genarm_kernels.{_LAZY[name]}")
    value = module if _LAZY[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "GuidedSample",
    "Lora",
    "Progress",
    "Resampled",
    "Sharing",
    "Texts",
    "accept",
    "add_rms_norm",
    "advance",
    "decode_attention",
    "follow_rows",
    "guided_log_probs",
    "guided_sample",
    "new_sharing",
    "ngram_draft",
    "reference",
    "resample",
    "rotary_store",
    "row_seeds",
    "shared_attention",
    "skinny_linear",
    "swiglu",
    "token_logprobs",
]
