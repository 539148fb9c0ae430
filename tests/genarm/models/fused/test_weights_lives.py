"""How long fused weights live: what lays them out anew, what frees them, and who may go on meanwhile."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from families import random_prompts, save_adapter, with_adapter
from fused_cases import assert_streams_are, build, kinds, plain_logits, stream_logits, untouched
from held import held_bytes
from sessions import decode
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from genarm import GuidedDecoder
from genarm.models.fused import weights as module
from genarm.models.fused.linear import FusedLinear
from genarm.models.fused.weights import FusedWeights, fused_weights

PROMPTS = random_prompts([5, 9], seed=1)


@pytest.fixture
def base() -> Any:
    return build("llama with biases")


@pytest.fixture
def folders(base: Any, tmp_path: Path) -> list[Path]:
    return [save_adapter(base, "llama", tmp_path / str(i), seed=4 + i, r=4 + 15 * i) for i in range(3)]


def rows(model: Any) -> list[int]:
    """How many rows the fused query, key and value weights have, by layer."""
    return [len(qkv.columns(9).weight) for qkv, *_ in fused_weights(model)._fused]


def test_decoders_on_one_module_share_its_rows(base: Any, folders: list[Path]) -> None:
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    none = GuidedDecoder(base)
    assert rows(base) == [64, 64]
    one = GuidedDecoder(base, [folders[0]])
    assert rows(base) == [64 + 3 * 16] * 2
    same = GuidedDecoder(base, [folders[0]])
    assert rows(base) == [64 + 3 * 16] * 2
    two = GuidedDecoder(base, [folders[1], folders[0]])
    assert rows(base) == [64 + 2 * 3 * 32] * 2
    decoders = [(none, [0]), (one, [0, 1]), (same, [0, 1]), (two, [0, 2, 1])]
    for _ in range(2):
        for decoder, places in decoders:
            assert kinds(decoder) == ["fused"]
            assert_streams_are(decoder, [plain[place] for place in places])
    place = base.model.layers[0].mlp.up_proj.weight.data_ptr()
    GuidedDecoder(base, folders[:2])
    assert base.model.layers[0].mlp.up_proj.weight.data_ptr() == place, "all of it is in the rows already"


def test_what_is_moved_or_cast_frees_the_fused_memory_at_once(base: Any, folders: list[Path]) -> None:
    decoder = GuidedDecoder(base, folders)
    decoder.generate(PROMPTS, max_new_tokens=2)
    held = [StorageWeakRef(parameter.untyped_storage()) for parameter in base.parameters()]
    base.to(torch.bfloat16)
    gc.collect()
    assert all(one.expired() for one in held), "not at the next call"
    base.to(torch.float32)
    assert kinds(decoder) == ["fused"]


def test_rows_of_decoders_that_are_gone_give_way(base: Any, folders: list[Path]) -> None:
    first, second, third = folders
    decoder = GuidedDecoder(base, [first, second])
    del decoder
    gc.collect()
    GuidedDecoder(base, [third])
    assert rows(base) == [64 + 3 * 48] * 2


def test_a_running_session_keeps_what_it_reads(base: Any, folders: list[Path]) -> None:
    """The weights are laid out anew, cast, and the decoder and the module end, while a stream runs."""
    plain = [untouched(base), with_adapter(base, folders[0])]
    decoder = GuidedDecoder(base, [folders[0]])
    expected = [plain_logits(model, PROMPTS, 5) for model in plain]
    tails = torch.stack(random_prompts([5] * 2, seed=3))
    (backbone,) = decoder.engine.backbones
    session = backbone.session(2, 20)
    outputs = [session.prefill([PROMPTS, PROMPTS])]

    def step() -> None:
        outputs.append(decode(session, tails[:, len(outputs) - 1]))

    step()
    other = GuidedDecoder(base, folders[1:])
    step()
    base.to(torch.bfloat16)
    assert kinds(other) == ["fused"]
    step()
    base.to(torch.float32)
    assert kinds(other) == ["fused"]
    step()
    del backbone, decoder, other
    base = None
    gc.collect()
    step()
    for stream in range(2):
        found = torch.stack([output[stream] for output in outputs])
        torch.testing.assert_close(found, expected[stream], atol=1e-4, rtol=0)


def test_a_stream_in_progress_goes_on_while_another_decoder_is_made(base: Any, folders: list[Path]) -> None:
    expected = GuidedDecoder(untouched(base), [folders[0]]).generate(PROMPTS, max_new_tokens=8, eos_token_id=[])
    decoder = GuidedDecoder(base, [folders[0]])
    found: list[list[Tensor]] = [[], []]
    for number, step in enumerate(decoder.stream(PROMPTS, max_new_tokens=8, eos_token_id=[])):
        for row, tokens in zip(found, step.tokens, strict=True):
            row.append(tokens)
        if number == 3:
            GuidedDecoder(base, folders[1:]).generate(PROMPTS, max_new_tokens=3)
    for row, tokens in zip(found, expected.tokens, strict=True):
        assert torch.equal(torch.cat(row), tokens)


def test_an_idle_decoder_keeps_no_old_copy(base: Any, folders: list[Path]) -> None:
    idle = GuidedDecoder(base, [folders[0]])
    idle.generate(PROMPTS, max_new_tokens=2)
    old = weakref.ref(base.model.layers[0].self_attn.q_proj.weight.untyped_storage())
    other = GuidedDecoder(base, [folders[1]])
    gc.collect()
    assert old() is None or old().nbytes() == 0
    assert held_bytes(base) < held_bytes(base, idle, other, fused_weights(base)) < 2 * held_bytes(base)


def test_the_store_ends_with_the_module_and_not_before(folders: list[Path]) -> None:
    base = build("llama with biases")
    GuidedDecoder(base, [folders[0]])
    store = weakref.ref(fused_weights(base))
    gc.collect()
    assert isinstance(store(), FusedWeights), "the module's parameters are its rows"
    storage_count = len(module._WEIGHTS)
    decoder = GuidedDecoder(base, [folders[0]])
    assert fused_weights(base) is store()
    del base
    gc.collect()
    assert store() is not None, "the decoder holds its base"
    del decoder
    gc.collect()
    assert store() is None
    assert len(module._WEIGHTS) == storage_count - 1


def test_memory_that_runs_out_while_fusing_leaves_a_module_that_works(
    base: Any, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    first = GuidedDecoder(base, [folders[0]])
    own, calls = FusedLinear._move_to, 0

    def failing(self: Any, matrix: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise torch.OutOfMemoryError("no memory left")
        own(self, matrix)

    with monkeypatch.context() as patch:
        patch.setattr(FusedLinear, "_move_to", failing)
        with pytest.raises(torch.OutOfMemoryError) as failure:
            GuidedDecoder(base, folders[1:])
    torch.testing.assert_close(plain_logits(base, PROMPTS, 1), plain_logits(plain[0], PROMPTS, 1), atol=1e-6, rtol=0)
    assert failure.tb is not None, "whoever keeps the error keeps what the decoder got as far as"
    assert_streams_are(GuidedDecoder(base, folders[1:]), [plain[0], *plain[2:]])
    assert_streams_are(first, plain[:2])


def test_two_threads_make_and_use_decoders_at_once(base: Any, folders: list[Path]) -> None:
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    expected = [plain_logits(model, PROMPTS, 4) for model in plain]
    failures: list[str] = []

    def work(places: list[int]) -> None:
        for _ in range(6):
            decoder = GuidedDecoder(base, [folders[place] for place in places])
            found = stream_logits(decoder, [PROMPTS] * (len(places) + 1), 4)
            for own, place in zip(found, [0, *(place + 1 for place in places)], strict=True):
                error = float((own - expected[place]).abs().max())
                if error > 1e-4:
                    failures.append(f"{places}: {error}")

    threads = [threading.Thread(target=work, args=(places,)) for places in ([0], [1, 2], [])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
