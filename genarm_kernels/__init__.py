"""Triton kernels for guided decoding, with a CPU path in torch and a float64 oracle for each op."""

from genarm_kernels import reference
from genarm_kernels.activation import swiglu
from genarm_kernels.arguments import GuidedSample
from genarm_kernels.attention import decode_attention
from genarm_kernels.linear import skinny_linear
from genarm_kernels.logprobs import token_logprobs
from genarm_kernels.lora import Lora
from genarm_kernels.norm import add_rms_norm
from genarm_kernels.rotary import rotary_store
from genarm_kernels.sampling import guided_log_probs, guided_sample
from genarm_kernels.seeds import row_seeds

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
