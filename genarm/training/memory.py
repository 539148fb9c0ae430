"""What a run needs at least, against what the machine has, before anything is loaded."""

from __future__ import annotations

from ..errors import GenARMError
from ..models.sizes import memory_there, parameters_of
from .settings import TrainingSettings

GIB = 1 << 30
# Bytes per parameter that is trained: its float32 value, its gradient, and AdamW's two moments.
TRAINED = 16
FOUR_BITS = 0.56  # NF4 with quantised scales


def check_memory(settings: TrainingSettings) -> None:
    """Raises GenARMError, with the sum, where the weights and what AdamW keeps of them cannot fit; what a forward pass
    keeps comes on top and is not counted. Nothing is checked where the size of the base cannot be told."""
    count, there = parameters_of(settings.base), memory_there(settings.on_cuda)
    if count is None or there is None:
        return
    per_parameter, parts = bytes_per_parameter(settings)
    needed = count * per_parameter
    if needed <= there:
        return
    where = "this GPU has" if settings.on_cuda else "this machine has"
    cures = ["take a smaller base"]
    if not settings.rank:
        cures.insert(0, "train an adapter (--rank 8)")
    elif not settings.load_in_4bit:
        cures.insert(0, "pass --load-in-4bit")
    raise GenARMError(
        f"{settings.base} has {count / 1e9:.2f} billion parameters, and training takes {per_parameter:g} bytes for "
        f"each of them ({parts}), {needed / GIB:.1f} GiB before any forward pass; {where} {there / GIB:.1f} GiB. "
        f"Models are not sharded over GPUs: {', or '.join(cures)}"
    )


def bytes_per_parameter(settings: TrainingSettings) -> tuple[float, str]:
    """What one parameter of the base takes, and what that is made of."""
    if not settings.rank:
        reference = 4 if settings.kind == "dpo" else 0
        words = "float32 weight 4, gradient 4, AdamW's moments 8" + (", DPO's reference 4" if reference else "")
        return TRAINED + reference, words
    if settings.load_in_4bit:
        return FOUR_BITS, "4 bits and their scales"
    return (2, "frozen, in bfloat16") if settings.bf16 else (4, "frozen, in float32")
