"""shared_attention on a CPU: a prefix comes from memory by pieces, which all of its rows take before the next one does.

Everything is float32 up to the one rounding at the end, and a product has a single row's queries, so that no bit of a
row depends on the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from genarm_kernels.layer.sharing import Sharing

PIECE = 512  # positions of a prefix at a time


@dataclass(frozen=True, slots=True)
class Part:
    """The last `tokens` of a row's `length`, which see positions from `first` on; those below `shared` are a prefix's.

    query: [H_kv, tokens · G, D] float32, scaled. weights: [H_kv, tokens · G, length − first], scores at first. out: as
    query.
    """

    row: int
    prefix: int
    shared: int
    tokens: int
    length: int
    first: int
    query: Tensor
    weights: Tensor
    out: Tensor

    def of(self, start: int, end: int) -> Tensor:
        """The weights of these positions."""
        return self.weights[:, :, start - self.first : end - self.first]


def attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, prefix_keys: Tensor, prefix_values: Tensor,
    sharing: Sharing, scale: float, window: int, longest: int,
) -> Tensor:  # fmt: skip
    """shared_attention of checked arguments; nothing beyond `longest` is read."""
    R, Q, _, D = query.shape
    H_kv, caches = keys.shape[2], (keys, values, prefix_keys, prefix_values)
    held = sharing.extents.clamp(max=prefix_keys.shape[1]).tolist()
    heads = (query.float() * scale).view(R, Q, H_kv, -1, D).transpose(1, 2)
    parts = []
    for row, (prefix, own, length) in enumerate(
        zip(sharing.of_row.tolist(), sharing.lengths.tolist(), lengths.tolist(), strict=True)
    ):
        shared = max(min(own, held[prefix]), 0)
        parts.append(part_of(heads[row], row, prefix, shared, min(length, shared + keys.shape[1], longest), window))
    attend(parts, *caches, window)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for part in parts:
        out[part.row] = by_token(part)
        if Q > 1 and bool(part.out.isnan().any()):
            # What a token does not see may be NaN, which a weight of 0 does not stop.
            own_lengths = range(part.length - Q + 1, part.length + 1)
            alone = [
                part_of(heads[part.row, :, q : q + 1], part.row, part.prefix, part.shared, length, window)
                for q, length in enumerate(own_lengths)
            ]
            attend(alone, *caches, window)
            out[part.row] = torch.cat([by_token(token) for token in alone])
    return out


def part_of(heads: Tensor, row: int, prefix: int, shared: int, length: int, window: int) -> Part:
    """Of a row's queries [H_kv, tokens, G, D]."""
    H_kv, tokens, G, D = heads.shape
    length = max(length, 0)
    first = max(length - tokens + 1 - window, 0) if window else 0
    query = heads.reshape(H_kv, tokens * G, D)
    weights = query.new_empty(H_kv, tokens * G, length - first)
    return Part(row, prefix, shared, tokens, length, first, query, weights, torch.zeros_like(query))


def by_token(part: Part) -> Tensor:
    """[tokens, H, D]"""
    H_kv, _, D = part.out.shape
    return part.out.view(H_kv, part.tokens, -1, D).transpose(0, 1).reshape(part.tokens, -1, D)


def attend(
    parts: list[Part], keys: Tensor, values: Tensor, prefix_keys: Tensor, prefix_values: Tensor, window: int
) -> None:
    """Fill the parts' `out`, with NaN too where a token meets some that others of its row see."""
    for part, start, end, k in pieces(parts, keys, prefix_keys):
        part.of(start, end).copy_(part.query @ k.mT)
    for part in parts:
        soften(part, window)
    for part, start, end, v in pieces(parts, values, prefix_values):
        part.out.add_(part.of(start, end) @ v)


def pieces(parts: list[Part], cache: Tensor, prefixes: Tensor) -> Iterator[tuple[Part, int, int, Tensor]]:
    """All that the parts see: from one position to another, what a cache holds there, [H_kv, n, D] float32."""
    for prefix, group in groupby(sorted(parts, key=lambda part: part.prefix), key=lambda part: part.prefix):
        sharing = [(part, min(part.shared, part.length)) for part in group]
        for start in range(0, max(end for _, end in sharing), PIECE):
            seen = [(part, max(part.first, start), min(end, start + PIECE)) for part, end in sharing]
            seen = [(part, begin, end) for part, begin, end in seen if begin < end]
            if seen:
                last = max(end for _, _, end in seen)
                piece = prefixes[prefix, start:last].transpose(0, 1).float()
            for part, begin, end in seen:
                yield part, begin, end, piece[:, begin - start : end - start]
    for part in parts:
        begin = max(part.first, part.shared)
        if begin < part.length:
            own = cache[part.row, begin - part.shared : part.length - part.shared]
            yield part, begin, part.length, own.transpose(0, 1).float()


def soften(part: Part, window: int) -> None:
    """Scores to weights that add up to 1, or to 0 for a token that sees nothing."""
    if part.tokens > 1:
        at = torch.arange(part.first, part.length)
        place = part.length - part.tokens + torch.arange(part.tokens)[:, None]
        unseen = at > place
        if window:
            unseen |= at <= place - window
        part.weights.masked_fill_(unseen.repeat_interleave(part.query.shape[1] // part.tokens, 0), -torch.inf)
    if part.length:
        part.weights.copy_(part.weights.softmax(-1))
    empty = part.tokens - part.length  # of the tokens, stand before the first position
    if 0 < empty < part.tokens:
        part.weights[:, : empty * (part.query.shape[1] // part.tokens)] = 0
