"""guided_sample and guided_log_probs: draw from, or write out, the guided distribution.

    p(v) ∝ exp((bias_v + Σ_m w_m z_m,v) / T)        m = 0 is the base; no model's normaliser is needed

On a GPU a draw without filters is two kernels: the group pass (combine.py) streams the M·B·V logits once, and one
program per row races the groups and then the winner's tokens (draw.py). Filters add up to four small ones over the
scores of the rows that have one, base filters as many more over the base's logits (filters.py). On a CPU the same
algorithm runs in torch (cpu.py) with the same noise words, or the kernels themselves in Triton's interpreter under
TRITON_INTERPRET=1.
"""

from collections.abc import Sequence
from typing import Literal, overload

from torch import Tensor

from genarm_kernels.sampling import ops
from genarm_kernels.sampling.arguments import GuidedSample, PerRow, prepare


def guided_sample(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float] | Sequence[Sequence[float]],
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    base_min_p: PerRow = 0.0,
    base_top_p: PerRow = 1.0,
    bias: Tensor | None = None,
    seed: int | Tensor = 0,
    position: int | Tensor = 0,
    return_logprobs: bool = False,
    vocab_size: int | None = None,
    return_normalizers: bool = False,
) -> GuidedSample:
    """Draw one token per row from softmax((bias + Σ w_m z_m) / temperature), filtered.

    A row's token depends on its own logits, parameters, seed and position only, whatever the rest of the batch.

    Args:
        logits: M ≤ 8 tensors [B, V_m], bfloat16, float16 or float32, the base's first. V is the smallest V_m.
        weights: [M] or [B, M], any sign. 0 leaves a model out; otherwise its −inf excludes a token, and the base's
            always does.
        temperature: ≥ 0; at 0 the largest score is taken, the lowest id of equal ones.
        top_k, top_p, min_p: filters on the tempered distribution, in this order; off at 0, 1 and 0.
        base_min_p, base_top_p: filters on the base's own distribution at temperature 1, before the others.
        bias: float32 [V] or [B, V], added to the scores; −inf excludes a token.
        seed: a batch seed, of which row b draws with row_seeds(seed, B)[b], or int64 row seeds [B].
        position: the index of the drawn token in its sequence, int64.
        return_logprobs: also return log-probabilities of the tokens.
        vocab_size: use only the first so many ids.
        return_normalizers: also return how much mass the product of the models' own distributions has.

    Temperature, the filters, seed and position are scalars or tensors [B] on the logits' device. Nothing on a GPU is
    waited for; weights in a list are copied there, so pass a tensor to capture a graph. torch.compile takes a call as
    one node, and compiles again for another list of weights or another seed beyond 64 bits.

    Returns:
        tokens [B] int64; logprobs [B], under what the token was drawn from (at temperature 0: under the unfiltered
        distribution at temperature 1); model_logprobs [B, M], each model's own at temperature 1, unfiltered; status [B]
        int32, 0 where all is well, bit m for NaN or +inf in model m's row (examined if its weight is not 0 or
        log-probs are asked for), bit 8 where nothing is left to draw. A row whose status is not 0 has the argmax of the
        base's finite logits as its token, or 0, and NaN log-probs. log_normalizers [B], of what the token was drawn
        from: log Σ_v exp((bias_v + Σ_m w_m log p_m,v) / T) over the ids v that the filters keep, with p_m as in
        model_logprobs (at temperature 0: over all ids at temperature 1); −inf where nothing is left to draw, NaN where
        the status has another bit.

    Raises:
        TypeError, ValueError: for an argument of the wrong kind, shape, device or range.
    """
    inputs = prepare(
        logits, weights, temperature, top_k, top_p, min_p, base_min_p, base_top_p, bias, seed, position, vocab_size
    )
    return ops.guided_sample(inputs, return_logprobs, return_normalizers)


@overload
def guided_log_probs(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float] | Sequence[Sequence[float]],
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    base_min_p: PerRow = 0.0,
    base_top_p: PerRow = 1.0,
    bias: Tensor | None = None,
    vocab_size: int | None = None,
    return_normalizers: Literal[False] = False,
) -> Tensor: ...


@overload
def guided_log_probs(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float] | Sequence[Sequence[float]],
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    base_min_p: PerRow = 0.0,
    base_top_p: PerRow = 1.0,
    bias: Tensor | None = None,
    vocab_size: int | None = None,
    *,
    return_normalizers: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def guided_log_probs(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float] | Sequence[Sequence[float]],
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    base_min_p: PerRow = 0.0,
    base_top_p: PerRow = 1.0,
    bias: Tensor | None = None,
    vocab_size: int | None = None,
    return_normalizers: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The distribution that guided_sample draws from -> [B, V] float32, normalised, −inf where filtered.

    Arguments as for guided_sample. At temperature 0 a row is 0 at the token that would be taken and −inf elsewhere. A
    row for which guided_sample's status would not be 0 is NaN.

    With return_normalizers also guided_sample's log_normalizers [B]: where the temperature is not 0 their sum is
    bias_v / T + Σ_m w_m log p_m,v / T wherever a token is kept.
    """
    inputs = prepare(logits, weights, temperature, top_k, top_p, min_p, base_min_p, base_top_p, bias, 0, 0, vocab_size)
    log_probs, log_normalizers = ops.guided_log_probs(inputs, return_normalizers)
    return log_probs if log_normalizers is None else (log_probs, log_normalizers)
