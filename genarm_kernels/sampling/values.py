"""What a CPU call's tensors hold, checked and put to use as the operation runs.

Values of tensors on a GPU are never read, since that would wait for the device: a NaN weight there makes its row's
status "nothing left to draw" instead of an error.
"""

from dataclasses import replace

from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.sampling.arguments import NOT_FINITE, Inputs
from genarm_kernels.sampling.settings import RANGES, is_on, span


def settle(inputs: Inputs) -> Inputs:
    """The call with filters that are off in every row None, and `greedy` where rows agree on it.

    Values that are not to be read, and calls of no rows, are left as they are.

    Raises:
        ValueError: for a weight that is not finite, or a row's value out of its range.
    """
    if INTERPRETED or inputs.weights.device.type != "cpu" or not inputs.batch_size:
        return inputs
    if not bool(inputs.weights.isfinite().all()):
        raise ValueError(NOT_FINITE)
    coldest, hottest = _ends("temperature", inputs.temperature)
    return replace(
        inputs,
        greedy=True if hottest == 0 else False if coldest > 0 else None,
        top_k=_filter("top_k", inputs.top_k, inputs.vocab_size),
        top_p=_filter("top_p", inputs.top_p, inputs.vocab_size),
        min_p=_filter("min_p", inputs.min_p, inputs.vocab_size),
        base_min_p=_filter("base_min_p", inputs.base_min_p, inputs.vocab_size),
        base_top_p=_filter("base_top_p", inputs.base_top_p, inputs.vocab_size),
    )


def _filter(name: str, values: Tensor | None, V: int) -> Tensor | None:
    """The values [B], or None where they leave out nothing in any row."""
    if values is None:
        return None
    _ends(name, values)
    return values if bool(is_on(name, values, V).any()) else None


def _ends(name: str, values: Tensor) -> tuple[float, float]:
    """The smallest and the largest of the values [B]."""
    least, largest = (float(end) for end in values.aminmax())
    low, high = RANGES[name]
    # NaN is both ends of values that hold one, and compares false.
    if not (low <= least and largest <= high):
        raise ValueError(f"{name} holds a value that is not {span(name)}: correct that row")
    return least, largest
