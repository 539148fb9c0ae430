"""The time of one decoding step as bytes, instructions and latencies predict it. Nothing here was measured.

    python -m bench.step_prediction           # writes the tables of docs/kernels.md, "A step"

A kernel takes the longer of its bytes over the bandwidth of a copy and its instructions over the lanes' rate; before
that it starts and waits for its chain of dependent loads, and no width of the chip shortens either. One kernel follows
the other: nothing of them overlaps. ``before`` is how a step was launched at commit 6d50fa1, ``after`` how it is now,
which a test holds to the launches that bench/launches.py records. Instructions are those of docs/kernels.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench import page
from bench.decode_models import RANK, Family, config, shapes_only, step_bytes
from bench.kernel_predictions import CLOCK, COPY_BANDWIDTH, CYCLES_A_STEP, GAP, LANE_INSTRUCTIONS, ROUND_TRIP
from bench.tables import markdown
from genarm_kernels.card import CARDS, DEFAULT, Card
from genarm_kernels.layer.attention_layout import FINE, SPLITS

# State.advance, when it was torch's operations.
TAIL = (
    "_to_copy", "bitwise_or", "eq", "scalar_tensor", "where", "eq", "where", "full_like", "eq", "any",
    "masked_fill_", "scalar_tensor", "where", "eq", "where", "copy_", "stack", "add_", "add_",
)  # fmt: skip
KERNELS_PAGE = Path(__file__).parents[1] / "docs/kernels.md"
MODEL, COUNTS, CONTEXTS, ON = "Llama-3.1-8B", (0, 1, 3), (1024, 8192), ("H200", "H100 SXM")
SIZE = 2  # bytes of a number in bfloat16
L1_BYTES = 64  # per cycle that one processor can take from L2


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch: bytes and lane instructions of the whole grid, round trips and instructions in its longest chain."""

    name: str
    bytes: float = 0
    instructions: float = 0
    trips: int = 1
    chain: float = 50
    cycles: float = 0  # of one processor, where one does what all could
    handshakes: int = 0  # round trips between programs of the launch: until a store is seen, a counter, what it is for

    def latency(self, handshake: float = ROUND_TRIP) -> float:
        """Seconds that no width of the chip shortens."""
        waits = self.trips * ROUND_TRIP + self.handshakes * handshake
        return GAP + waits + (self.chain * CYCLES_A_STEP + self.cycles) / CLOCK

    def seconds(self, card: Card, handshake: float = ROUND_TRIP) -> float:
        lanes = LANE_INSTRUCTIONS / DEFAULT.processors * card.processors
        return max(self.bytes / copied(card), self.instructions / lanes) + self.latency(handshake)


def copied(card: Card) -> float:
    """Bytes that a copy reads and writes per second: the same share of the bus as an H200's."""
    return COPY_BANDWIDTH / DEFAULT.bandwidth * card.bandwidth


@dataclass(frozen=True, slots=True)
class Step:
    """What is decoded: a model's shape with K LoRA reward models on it, one row each, after so many tokens."""

    model: str
    K: int
    context: int
    layers: int | None = None  # default all that the model has

    @property
    def rows(self) -> int:
        return self.K + 1

    @property
    def guided(self) -> bool:
        return self.K > 0


def product(
    name: str, step: Step, N: int, targets: int, H: int, more: int = 0, normed: bool = False, **chain: int
) -> Kernel:
    """W [N, H] and the adapters' A read once, and more bytes. A warp's step of 32 · 256 weights is about 66
    instructions, and 170 with the norm's scaling."""
    numbers = (N + step.K * targets * RANK) * H
    instructions = numbers / (32 * 256) * 4 * 32 * (170 if normed else 66)
    return Kernel(name, numbers * SIZE + more, instructions, **({"chain": 400 if normed else 200} | chain))


def adapters_up(step: Step, N: int) -> int:
    return step.K * N * RANK * SIZE


def norm(step: Step, hidden: int, adds: bool = True) -> Kernel:
    """Residual, z, adapters and then B through one processor."""
    expands = step.guided and adds
    cycles = hidden * RANK * SIZE / L1_BYTES if expands else 0
    up = adapters_up(step, hidden) if expands else 0
    return Kernel("add_rms_norm_kernel", up, 0, 1 + expands, 712 if expands else 125, cycles)


def rotary(step: Step, columns: int) -> Kernel:
    """Positions and adapters, then angles and B."""
    return Kernel("rotary_store_kernel", adapters_up(step, columns), 0, 2, 581 if step.guided else 214)


def swiglu(step: Step, I: int) -> Kernel:  # noqa: E741
    size = adapters_up(step, 2 * I) + step.rows * 3 * I * SIZE
    return Kernel("swiglu_kernel", size, 0, 1 + step.guided, 1274 if step.guided else 167)


def splits(context: int) -> tuple[int, int]:
    """How many a row's positions are cut into, and the steps of 64 that each takes."""
    blocks = -(-context // 64)
    each = max(-(-blocks // SPLITS), 2 if blocks > FINE else 1)
    return -(-blocks // each), each


def attention(step: Step, names: tuple[str, ...]) -> list[Kernel]:
    """Lengths, then keys and values; then lengths and splits in a second kernel, or in the first, by the last program
    to arrive: its stores seen, the counter, peaks, and 16 splits at a time. A program's later splits are taken to hide
    behind other programs' bytes."""
    shape = config(step.model)
    count, each = splits(step.context)
    live = step.rows * step.context * 2 * shape.num_key_value_heads * shape.head_dim * SIZE
    parts = step.rows * shape.num_attention_heads * count * (shape.head_dim + 2) * 4
    if len(names) == 1:
        rounds = -(-count // 16)
        return [Kernel(names[0], live + 2 * parts, 0, 2, 342 * each + 370 + 250 * rounds, handshakes=3 + rounds)]
    return [Kernel(names[0], live + parts, 0, 2, 342 * each + 250), Kernel(names[1], parts, 0, 2, 250)]


def sampling(step: Step) -> list[Kernel]:
    V = config(step.model).vocab_size
    group = Kernel("group_kernel", step.rows * V * SIZE, (7.5 + 3.3 * step.rows) * V, 1, 32 * (7.5 + 3.3 * step.rows))
    return [group, Kernel("draw_kernel", 0, 0, 3, 750)]


def torch_kernels(*names: str) -> list[Kernel]:
    """Small operations of torch's: one load, one store."""
    return [Kernel(name) for name in names]


def before(step: Step) -> list[Kernel]:
    """Ten kernels per layer and 27 beside them."""
    shape = config(step.model)
    H, I, q = shape.hidden_size, shape.intermediate_size, shape.num_attention_heads * shape.head_dim  # noqa: E741
    qkv = q + 2 * shape.num_key_value_heads * shape.head_dim
    layer = [
        product("linear_kernel", step, qkv, 3, H),
        rotary(step, qkv),
        *attention(step, ("split_kernel", "combine_kernel")),
        product("linear_kernel", step, H, 1, q),
        norm(step, H),
        product("linear_kernel", step, 2 * I, 2, H),
        swiglu(step, I),
        product("linear_kernel", step, H, 1, I),
        norm(step, H),  # the next layer's first, and the last layer's final one
    ]
    first = [*torch_kernels("clone", "add_"), Kernel("index", trips=2), *torch_kernels("repeat"), norm(step, H, False)]
    head = product("linear_kernel", step, shape.vocab_size, 0, H)
    return [*first, *layer * (step.layers or shape.num_hidden_layers), head, *sampling(step), *torch_kernels(*TAIL)]


def after(step: Step) -> list[Kernel]:
    """Seven kernels per layer and five beside them.

    A product with the norm in its input adds up squares while its first weights are on their way. One that adds to the
    residual reads it behind its loop, and where there are adapters waits for h: stored, counted, seen, loaded."""
    shape = config(step.model)
    H, I, q = shape.hidden_size, shape.intermediate_size, shape.num_attention_heads * shape.head_dim  # noqa: E741
    qkv = q + 2 * shape.num_key_value_heads * shape.head_dim
    adding = {"chain": 690, "handshakes": 4} if step.guided else {"chain": 270, "trips": 2}
    up = adapters_up(step, H)
    out, down = (product("add_linear_kernel", step, H, 1, width, up, **adding) for width in (q, I))
    layer = [
        product("linear_kernel", step, qkv, 3, H, normed=True),
        rotary(step, qkv),
        *attention(step, ("attention_kernel",)),
        out,
        product("linear_kernel", step, 2 * I, 2, H, normed=True),
        swiglu(step, I),
        down,
    ]
    head = product("linear_kernel", step, shape.vocab_size, 0, H, normed=True)
    embed, tail = Kernel("embed_kernel", trips=2, chain=176), Kernel("advance_kernel", trips=3, chain=400)
    return [embed, *layer * (step.layers or shape.num_hidden_layers), head, *sampling(step), tail]


WAYS: dict[str, Callable[[Step], list[Kernel]]] = {"before": before, "after": after}


def seconds(kernels: Iterable[Kernel], card: Card, handshake: float = ROUND_TRIP) -> float:
    return sum(kernel.seconds(card, handshake) for kernel in kernels)


@cache
def family(model: str) -> Family:
    return shapes_only(model, max(COUNTS))


def floor_bytes(step: Step) -> int:
    """What a step reads at least."""
    return step_bytes(family(step.model), step.K, False, 1, step.context).total


def steps_table() -> str:
    rows = []
    for card in (CARDS[name] for name in ON):
        for step in (Step(MODEL, K, context) for context in CONTEXTS for K in COUNTS):
            least, ways = floor_bytes(step) / copied(card), [build(step) for build in WAYS.values()]
            old, new = (seconds(kernels, card) for kernels in ways)
            quick = seconds(ways[1], card, ROUND_TRIP / 2)
            figures = [f"{time * 1e3:.2f}" for time in (least, old, new)]
            shares = [f"{least / time:.0%}" for time in (old, new)]
            saved = f"{(old - new) * 1e3:.2f}–{(old - quick) * 1e3:.2f}"
            rows.append([card.name, f"{step.context:,}", str(step.K), *figures, saved, *shares])
    head = ("card", "context", "K", "floor, ms", "before", "after", "saved", "floor / before", "floor / after")
    return markdown(head, rows)


def kernels_table(step: Step, card: Card) -> str:
    """A line for each kind of kernel, and one for torch's own."""
    rows = []
    for way, build in WAYS.items():
        kernels = build(step)
        own = [kernel for kernel in kernels if kernel.name.endswith("_kernel")]
        others = [kernel for kernel in kernels if kernel not in own]
        for kernel in dict.fromkeys(own):
            count, name = own.count(kernel), kernel.name.removesuffix("_kernel")
            figures = (kernel.bytes / 1e6, kernel.latency() * 1e6, kernel.seconds(card) * 1e6 * count)
            rows.append([way, name, str(count), *(f"{figure:,.1f}" for figure in figures)])
        if others:
            rows.append([way, "torch's, small", str(len(others)), "", "", f"{seconds(others, card) * 1e6:,.1f}"])
        rows.append([way, "**all**", f"**{len(kernels)}**", "", "", f"**{seconds(kernels, card) * 1e6:,.0f}**"])
    return markdown(("", "kernel", "launches", "MB each", "latency each, µs", "µs per step"), rows)


def parts() -> dict[str, str]:
    step = Step(MODEL, 3, 1024)
    return {"steps predicted": steps_table(), "kernels of a step": kernels_table(step, CARDS["H200"])}


if __name__ == "__main__":
    page.write(KERNELS_PAGE, parts())
