"""Triton kernels for guided decoding, with a CPU path in torch and a float64 oracle for each operation."""

from genarm_kernels import reference
from genarm_kernels.layer.activation import swiglu
from genarm_kernels.layer.attention import decode_attention
from genarm_kernels.layer.linear import skinny_linear
from genarm_kernels.layer.lora import Lora
from genarm_kernels.layer.norm import add_rms_norm
from genarm_kernels.layer.rotary import rotary_store
from genarm_kernels.logprobs.logprobs import token_logprobs
from genarm_kernels.noise import row_seeds
from genarm_kernels.sampling.arguments import GuidedSample
from genarm_kernels.sampling.sample import guided_log_probs, guided_sample

__all__ = [
    "GuidedSample",
    "Lora",
    "add_rms_norm",
    "decode_attention",
    "guided_log_probs",
    "guided_sample",
    "reference",
    "rotary_store",
    "row_seeds",
    "skinny_linear",
    "swiglu",
    "token_logprobs",
]
