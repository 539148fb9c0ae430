"""The float64 oracle of each operation: short, obviously right, used by every test."""

from genarm_kernels.reference.layer import (
    add_rms_norm,
    decode_attention,
    rotary_store,
    shared_attention,
    skinny_linear,
    swiglu,
)
from genarm_kernels.reference.logprobs import token_logprobs
from genarm_kernels.reference.particles import follow_rows, resample
from genarm_kernels.reference.sampling import guided_log_probs, guided_sample
from genarm_kernels.reference.step import accept, advance, ngram_draft

__all__ = [
    "accept",
    "add_rms_norm",
    "advance",
    "decode_attention",
    "follow_rows",
    "guided_log_probs",
    "guided_sample",
    "ngram_draft",
    "resample",
    "rotary_store",
    "shared_attention",
    "skinny_linear",
    "swiglu",
    "token_logprobs",
]
