"""What tests do with a session of the engine's."""

from __future__ import annotations

from torch import Tensor

from genarm.models.backbone import Session


def decode(session: Session, tokens: Tensor) -> list[Tensor]:
    """Append a token to each row, [B] -> S logits [B, V] of the next."""
    return [logits[:, 0] for logits in session.append(tokens[:, None])]
