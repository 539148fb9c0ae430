"""A session's three verbs on every path: text that grew, was copied or was cut is as if it had been read so.

Each path is held against a plain forward pass of its model over the whole text, rows ragged, the base beside LoRA
streams; Q tokens at once against one after the other.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import make_model, random_prompts, save_adapter, with_adapter
from fused_cases import build, untouched
from torch import Tensor

from genarm import GuidedDecoder
from genarm.models.backbone import Session

LENGTHS = [5, 13, 1, 8]
# Fused families on both CPU paths with two adapters each; models on transformers' static cache; padded ones.
FUSED = ["llama", "llama with biases", "mistral", "qwen2 with some windows", "qwen3", "yarn positions"]
STATIC = ["gpt2", "gemma2", "gemma3", "llama"]
CASES = [
    *((f"torch {name}", name) for name in FUSED),
    *((f"native {name}", name) for name in FUSED[1:5]),
    *((f"hf {name}", name) for name in STATIC),
    *((f"padded {name}", name) for name in ("gpt2", "llama")),
]


class Streams:
    """One backbone's session, and the plain models that its streams are."""

    def __init__(self, kind: str, name: str, folder: Path) -> None:
        fused = kind in ("torch", "native")
        base = build(name) if fused else make_model(name, seed=1)
        family = "gpt2" if name == "gpt2" else "llama"
        folders = [save_adapter(base, family, folder / str(r), seed=r, r=r) for r in (3, 7)] if fused else []
        self.plain = [untouched(base), *(with_adapter(base, one) for one in folders)]
        self.decoder = GuidedDecoder(base, folders, engine="auto" if fused else "hf")
        (self.backbone,) = self.decoder.engine.backbones
        if kind == "padded":
            self.backbone.static = False  # type: ignore[attr-defined]
        assert self.backbone.kind == {"torch": "fused", "native": "fused", "padded": "hf-padded"}.get(kind, kind)

    def session(self, prompts: list[Tensor]) -> Session:
        session = self.backbone.session(len(prompts), 40)
        session.prefill([prompts] * len(self.plain))
        return session

    def logits(self, rows: list[Tensor], last: int) -> list[Tensor]:
        """S of [B, last, V]: what follows each of the rows' last tokens, in one pass over the whole row."""
        with torch.no_grad():
            return [torch.stack([model(input_ids=row[None]).logits[0, -last:] for row in rows]) for model in self.plain]

    def assert_appends(self, session: Session, rows: list[Tensor], tokens: Tensor) -> list[Tensor]:
        """Append to ``rows``, which the session holds -> the longer rows."""
        assert session.lengths.tolist() == [[len(row) for row in rows]] * len(self.plain)
        longer = [torch.cat([row, new]) for row, new in zip(rows, tokens, strict=True)]
        found = session.append(tokens)
        for own, expected in zip(found, self.logits(longer, tokens.shape[1]), strict=True):
            torch.testing.assert_close(own, expected, atol=1e-4, rtol=0)
        return longer


FEW = [case for case in CASES if case[0] in ("torch llama", "native qwen3", "hf gpt2", "padded llama")]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def case(request: pytest.FixtureRequest) -> tuple[str, str, list[Streams]]:
    """Its kind and family, and its streams once they are made."""
    name, family = request.param
    return name.partition(" ")[0], family, []


@pytest.fixture
def streams(
    case: tuple[str, str, list[Streams]], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Streams:
    """Those of all tests of a case, which leave models as they are and have sessions of their own."""
    kind, family, made = case
    if kind in ("torch", "native"):
        request.getfixturevalue(f"{kind}_path")
    if not made:
        made.append(Streams(kind, family, tmp_path_factory.mktemp("streams")))
    return made[0]


def tokens_of(Q: int, seed: int, rows: int = len(LENGTHS)) -> Tensor:
    return torch.stack(random_prompts([Q] * rows, seed=seed))


def test_append_is_reading_the_longer_text(streams: Streams, request: pytest.FixtureRequest) -> None:
    """Four tokens at once are four times one: bit for bit where C runs, within 1e-5 where sums have another order."""
    prompts, tokens = random_prompts(LENGTHS, seed=1), tokens_of(4, seed=2)
    at_once, by_one = streams.session(prompts), streams.session(prompts)
    rows = streams.assert_appends(at_once, prompts, tokens)
    (whole,) = [[own.clone() for own in streams.session(prompts).append(tokens)]]
    parts = [torch.cat(own, 1) for own in zip(*(by_one.append(tokens[:, at : at + 1]) for at in range(4)), strict=True)]
    exact = "native" in request.node.name
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other) if exact else float((one - other).abs().max()) < 1e-5 * float(one.abs().max())
    assert torch.equal(at_once.lengths, by_one.lengths)
    for session in (at_once, by_one):
        longer = streams.assert_appends(session, rows, tokens_of(3, seed=3))
        streams.assert_appends(session, longer, tokens_of(1, seed=4))


def test_what_was_cut_was_never_there(streams: Streams) -> None:
    prompts = random_prompts(LENGTHS, seed=1)
    session = streams.session(prompts)
    rows = streams.assert_appends(session, prompts, tokens_of(4, seed=2))
    kept = [6, 13, 5, 2]  # one row loses nothing of its new text but three tokens, one loses some of its prompt
    session.truncate(kept)
    rows = [row[:length] for row, length in zip(rows, kept, strict=True)]
    rows = streams.assert_appends(session, rows, tokens_of(2, seed=5))
    session.truncate(torch.tensor([[len(row) - 1 for row in rows]] * len(streams.plain)))
    streams.assert_appends(session, [row[:-1] for row in rows], tokens_of(1, seed=6))


def test_a_copy_goes_its_own_way(streams: Streams) -> None:
    """Rows swap, and one text becomes two that later differ."""
    prompts = random_prompts(LENGTHS, seed=1)
    session = streams.session(prompts)
    rows = streams.assert_appends(session, prompts, tokens_of(2, seed=2))
    session.copy([1, 0, 1], torch.tensor([0, 1, 3]))
    rows = [rows[1], rows[0], rows[2], rows[1]]
    rows = streams.assert_appends(session, rows, tokens_of(3, seed=7))
    session.truncate([len(rows[0]) - 2, *(len(row) for row in rows[1:])])
    rows = streams.assert_appends(session, [rows[0][:-2], *rows[1:]], tokens_of(1, seed=8))
    streams.assert_appends(session, rows, tokens_of(1, seed=9))


@pytest.mark.parametrize("case", FEW, indirect=True, ids=lambda case: case[0])
def test_a_failed_row_is_replaced_by_a_sound_one(streams: Streams) -> None:
    """What lies behind a copied row's length, NaN among it, shows nowhere."""
    prompts = random_prompts([3, 9, 8, 4], seed=1, vocab=90)
    embedding = streams.decoder.base_model.get_input_embeddings().weight  # type: ignore[operator]
    kept = embedding.data[95].clone()
    prompts[1][5:] = 95
    embedding.data[95] = torch.nan
    session = streams.session(prompts)
    session.copy([0], [1])
    embedding.data[95] = kept
    streams.assert_appends(session, [prompts[0], prompts[0], *prompts[2:]], tokens_of(2, seed=2))


@pytest.mark.parametrize("case", FEW, indirect=True, ids=lambda case: case[0])
def test_what_does_not_fit_is_refused(streams: Streams) -> None:
    prompts = random_prompts(LENGTHS, seed=1)
    session = streams.session(prompts)
    held = session.lengths.clone()
    with pytest.raises(IndexError, match="do not fit"):
        session.append(tokens_of(28, seed=2))
    for lengths in ([5, 14, 1, 8], [5, 13, -1, 8]):
        with pytest.raises(ValueError, match="from 0 to what each row holds"):
            session.truncate(lengths)
    with pytest.raises(ValueError, match=r"expected \[4\] or"):
        session.truncate([5, 13])
    for sources, targets, words in (
        ([0, 4], [1, 2], "sources are .* rows from 0 to 3"),
        ([0, 1], [2, 2], "targets are .* each row once"),
        ([0, 1], [2], "expected .n. of either"),
    ):
        with pytest.raises(ValueError, match=words):
            session.copy(sources, targets)
    assert torch.equal(session.lengths, held)
    streams.assert_appends(session, prompts, tokens_of(9, seed=3))


def test_more_tokens_than_a_kernel_takes_go_in_parts(tmp_path: Path, torch_path: None) -> None:
    streams = Streams("torch", "llama", tmp_path)
    prompts = random_prompts(LENGTHS, seed=1)
    rows = streams.assert_appends(streams.session(prompts), prompts, tokens_of(21, seed=2))
    assert [len(row) for row in rows] == [length + 21 for length in LENGTHS]


def test_streams_with_prompts_of_their_own_are_cut_apart(tmp_path: Path, cpu_path: str) -> None:
    streams = Streams(cpu_path, "qwen3", tmp_path)
    prompts = [random_prompts(lengths, seed=seed) for seed, lengths in enumerate([[5, 13], [9, 2], [1, 7]])]
    session = streams.backbone.session(2, 40)
    session.prefill(prompts)
    tokens = tokens_of(3, seed=2, rows=2)
    session.append(tokens)
    session.truncate(session.lengths - torch.tensor([1, 3]))
    held = [[torch.cat([own[0], tokens[0, :2]]), own[1]] for own in prompts]
    new = tokens_of(2, seed=5, rows=2)
    for found, model, rows in zip(session.append(new), streams.plain, held, strict=True):
        with torch.no_grad():
            texts = [torch.cat([row, more]) for row, more in zip(rows, new, strict=True)]
            expected = torch.stack([model(input_ids=text[None]).logits[0, -2:] for text in texts])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_lengths_stay_where_a_captured_step_reads_them(tmp_path: Path, torch_path: None) -> None:
    """The verbs write to one tensor on the device, which advances without the host."""
    streams = Streams("torch", "llama", tmp_path)
    session = streams.session(random_prompts(LENGTHS, seed=1))
    place = session.lengths.data_ptr()
    session.append(tokens_of(2, seed=2))
    session.copy([0], [1])
    session.truncate([3, 3, 1, 1])
    session.append(tokens_of(1, seed=2))
    assert session.lengths.data_ptr() == place and session.lengths.tolist() == [[4, 4, 2, 2]] * 3


def test_an_adapter_on_transformers_path_takes_part(tmp_path: Path) -> None:
    base = make_model("qwen2", seed=1)
    folder = save_adapter(base, "llama", tmp_path / "a", seed=3)
    plain = with_adapter(base, folder)
    backbone = GuidedDecoder(base, [folder], engine="hf").engine.backbones[1]
    session, prompts, tokens = backbone.session(4, 40), random_prompts(LENGTHS, seed=1), tokens_of(4, seed=2)
    session.prefill([prompts])
    session.append(tokens)
    session.truncate([length + 1 for length in LENGTHS])
    session.copy([2], [0])
    texts = [torch.cat([prompt, own[:1]]) for prompt, own in zip(prompts, tokens, strict=True)]
    texts = [torch.cat([text, new]) for text, new in zip([texts[2], *texts[1:]], tokens, strict=True)]
    (found,) = session.append(tokens)
    with torch.no_grad():
        expected = torch.stack([plain(input_ids=text[None]).logits[0, -4:] for text in texts])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
