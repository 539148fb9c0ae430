"""What a step's tail reads and writes where each row moves on by its own number of tokens, checked for all steps."""

from typing import NamedTuple

import torch
from torch import Tensor

from genarm_kernels.sampling.arguments import GuidedSample
from genarm_kernels.step.progress import check_tensor

# Rows of a report, behind those of its tokens.
TAKEN, ACCEPTED, PROPOSED, REASON, STATUS = range(5)
FIGURES = 5


class Texts(NamedTuple):
    """B rows on their way: texts of at most T tokens, prompts included, of V ids, under M models; at most Q tokens per
    row and step. Where a row's own ids and figures are not kept, there is None. On a CPU there are at least Q more
    columns than any row's prompt and limit take, since rows that are full draw on."""

    texts: Tensor  # [B, T] int64
    positions: Tensor  # [B] int64, how many tokens a row's text has: the column of the next one
    counts: Tensor  # [B] int64, how many of them are new
    limits: Tensor  # [B] int64, how many new ones a row may have
    tokens: Tensor  # [B] int64, the last one that each row has taken
    reasons: Tensor  # [B] int64, how rows have ended (rules.py)
    report: Tensor  # [Q + 5, B] int64: the last step's draws, and below them TAKEN, ACCEPTED, PROPOSED, REASON, STATUS
    eos_ids: Tensor  # [E] int64
    stops: Tensor  # [S, L] int64: stop sequences aligned on the right, ANY_TOKEN on their left
    seen: Tensor | None = None  # [B, V] bool, the ids that a row has had; its rows may lie apart
    logprobs: Tensor | None = None  # [B, n] float32, at least Q columns wider than any row's limit
    model_logprobs: Tensor | None = None  # [B, n, M] float32, beside logprobs
    log_normalizers: Tensor | None = None  # [B, n] float32

    @property
    def most(self) -> int:
        """Q."""
        return len(self.report) - FIGURES

    def checked(self) -> "Texts":
        """The same.

        Raises:
            ValueError: shapes, dtypes, devices or strides that do not fit together.
        """
        if self.texts.ndim != 2 or self.report.ndim != 2 or self.stops.ndim != 2 or len(self.report) <= FIGURES:
            raise ValueError("texts [B, T], stops [S, L] and report [Q + 5, B], Q at least 1, have two dimensions each")
        if (self.logprobs is None) != (self.model_logprobs is None):
            raise ValueError("logprobs are kept beside model_logprobs: pass both or neither")
        for name, value in zip(self._fields, self, strict=True):
            if value is not None:
                self._check(name, value)
        return self

    def _check(self, name: str, value: Tensor) -> None:
        (B, T), device = self.texts.shape, self.texts.device
        tables = next((one.shape[1] for one in (self.logprobs, self.log_normalizers) if one is not None), 0)
        own = value.shape[-1] if value.ndim else 0
        shapes = {"texts": (B, T), "report": (len(self.report), B), "eos_ids": (own,), "stops": self.stops.shape}
        shapes |= {"seen": (B, own), "logprobs": (B, tables), "log_normalizers": (B, tables)}
        shapes |= {"model_logprobs": (B, tables, own)}
        dtypes = {"seen": torch.bool}
        dtypes |= dict.fromkeys(["logprobs", "model_logprobs", "log_normalizers"], torch.float32)
        shape, dtype = shapes.get(name, (B,)), dtypes.get(name, torch.int64)
        check_tensor(name, value, shape, dtype, f"{device}, where texts are", device)


def check_draws(sample: GuidedSample, drafts: Tensor, proposed: Tensor, texts: Texts) -> None:
    """In every step, so shapes and no more.

    Raises:
        ValueError: drafts of other rows or too long, draws of other places or models, or without what texts keeps.
    """
    B, Q = len(texts.texts), drafts.shape[-1] + 1
    if drafts.shape != (B, Q - 1) or texts.most < Q:
        raise ValueError(
            f"drafts are {list(drafts.shape)}: expected [{B}, 0 to {texts.most - 1}], by the report's rows at most"
        )
    models = None if texts.model_logprobs is None else texts.model_logprobs.shape[2]
    wanted: dict[str, tuple[int, ...]] = {"tokens": (B * Q,), "status": (B * Q,)}
    wanted |= {} if models is None else {"logprobs": (B * Q,), "model_logprobs": (B * Q, models)}
    wanted |= {} if texts.log_normalizers is None else {"log_normalizers": (B * Q,)}
    for name, shape in wanted.items():
        value: Tensor | None = getattr(sample, name)
        if value is None or value.shape != shape:
            found = "missing" if value is None else list(value.shape)
            raise ValueError(f"{name} of the draw are {found}: expected {list(shape)}, {B} rows of {Q} places")
    if proposed.shape != (B,):
        raise ValueError(f"proposed is {list(proposed.shape)}: expected one number per row, [{B}]")
