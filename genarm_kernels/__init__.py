"""Triton kernels for guided decoding, with a CPU path in torch and a float64 oracle for each op."""

from genarm_kernels import reference
from genarm_kernels.arguments import GuidedSample
from genarm_kernels.attention import decode_attention
from genarm_kernels.linear import skinny_linear
from genarm_kernels.sampling import guided_log_probs, guided_sample
from genarm_kernels.seeds import row_seeds

__all__ = [
    "GuidedSample",
    "decode_attention",
    "guided_log_probs",
    "guided_sample",
    "reference",
    "row_seeds",
    "skinny_linear",
]
