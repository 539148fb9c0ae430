"""One copy of the weights: a module's parameters are views of what the fused decoders on it read, and stay its own."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import pytest
import torch
from families import random_prompts, save_adapter, with_adapter
from fused_cases import assert_streams_are, build, kinds, plain_logits, stream_logits, untouched
from peft import PeftModel
from sessions import decode
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import LlamaForCausalLM

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


def storages(tensors: Any) -> dict[int, int]:
    """Bytes of each different storage behind some tensors."""
    found = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def all_tensors(*roots: Any) -> Iterator[Tensor]:
    """Every tensor that some objects hold, through containers and attributes."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, FunctionType | MethodType | ModuleType | type):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            yield one.data
        elif isinstance(one, Mapping):
            todo += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            todo += one
        else:
            todo += vars(one).values() if hasattr(one, "__dict__") else ()
            todo += (getattr(one, name) for name in getattr(one, "__slots__", ()) if hasattr(one, name))


def held_bytes(*roots: Any) -> int:
    return sum(storages(all_tensors(*roots)).values())


def test_parameters_are_views_of_what_a_session_reads(base: Any, folders: list[Path]) -> None:
    before = {name: (id(parameter), parameter.clone()) for name, parameter in base.named_parameters()}
    decoder = GuidedDecoder(base, folders)
    (backbone,) = decoder.engine.backbones
    layers = backbone.session(1, 8)._tensors.layers
    for layer, own in zip(base.model.layers, layers, strict=True):
        for fused, linears in (
            (own.qkv, [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
            (own.out, [layer.self_attn.o_proj]),
            (own.gate_up, [layer.mlp.gate_proj, layer.mlp.up_proj]),
            (own.down, [layer.mlp.down_proj]),
        ):
            start = 0
            for linear in linears:
                for whole, part in ((fused.weight, linear.weight), (fused.bias, linear.bias)):
                    assert whole[start].data_ptr() == part.data_ptr()
                start += linear.out_features
            assert fused.weight.shape[0] == start + 3 * len(linears) * 48
    for name, parameter in base.named_parameters():
        assert id(parameter) == before[name][0]
        assert parameter.requires_grad
        assert isinstance(parameter, nn.Parameter)
        assert torch.equal(parameter, before[name][1])


def test_one_copy_stays(folders: list[Path]) -> None:
    """Of the weights, and two of each adapter: as it was read, and in the rows."""
    base = build("llama", hidden_size=256, intermediate_size=512)
    folder = save_adapter(base, "llama", folders[0].parent / "large", seed=3, r=16)
    weights = held_bytes(base)
    decoder = GuidedDecoder(base, [folder])
    assert decoder.models[1].adapter is not None
    adapter = size(tensor for layer in decoder.models[1].adapter.layers.values() for tensor in layer[:2])
    held = held_bytes(base, decoder, fused_weights(base))
    assert held == weights + 2 * adapter
    again = GuidedDecoder(base, [folder])
    assert held_bytes(base, decoder, again, fused_weights(base)) == held + adapter, "as it was read again"
    (backbone,) = decoder.engine.backbones
    session = backbone.session(1, 8)
    cache = size([session.cache, session.cos, session.sin])
    extra = held_bytes(base, decoder, fused_weights(base), session) - held
    assert extra < cache + 3 * adapter, "on a CPU a session has the adapters' B as torch's products take them"


@pytest.mark.parametrize("K", [0, 1])
def test_while_the_weights_are_fused_there_is_one_layer_more(
    K: int, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = build("llama", num_hidden_layers=10, hidden_size=64)
    folder = save_adapter(base, "llama", folders[0].parent / "large", seed=3, r=16)
    before, layer = held_bytes(base), size(base.model.layers[0].parameters())
    most = 0
    own, new = FusedLinear._move_to, FusedLinear.__init__
    fused: list[FusedLinear] = []

    def noted(self: Any, *args: Any) -> None:
        fused.append(self)
        new(self, *args)

    def measured(self: Any, matrix: Tensor) -> None:
        """When the new matrix is there and the old ones still are."""
        nonlocal most
        most = max(most, held_bytes(base, matrix, fused))
        own(self, matrix)

    monkeypatch.setattr(FusedLinear, "__init__", noted)
    monkeypatch.setattr(FusedLinear, "_move_to", measured)
    decoder = GuidedDecoder(base, [folder] * K)
    adapter = 0
    if K:
        assert decoder.models[1].adapter is not None
        adapter = size(tensor for layer in decoder.models[1].adapter.layers.values() for tensor in layer[:2])
    assert before < most <= before + layer + 2 * adapter


def test_the_module_works_as_before(base: Any, folders: list[Path]) -> None:
    plain = untouched(base)
    decoder = GuidedDecoder(base, folders)
    expected, found = (plain_logits(model, PROMPTS, 3) for model in (plain, base))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert base.state_dict().keys() == plain.state_dict().keys()
    # Trained on, in place, and seen at once.
    ids = PROMPTS[1][None]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in (plain, base)]
    for model, optimizer in zip((plain, base), optimizers, strict=True):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    for one, other in zip(plain.parameters(), base.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert_streams_are(decoder, [untouched(base), *(with_adapter(base, folder) for folder in folders)])


def test_what_is_saved_is_what_was_loaded(base: Any, folders: list[Path], tmp_path: Path) -> None:
    """Files of the same bytes; copies and pickles whose weights are their own."""
    plain = untouched(base)
    plain.save_pretrained(tmp_path / "plain")
    decoder = GuidedDecoder(base, folders)
    base.save_pretrained(tmp_path / "fused")
    first, second = (tmp_path / name / "model.safetensors" for name in ("plain", "fused"))
    assert first.read_bytes() == second.read_bytes()
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "fused").eval()
    stream = io.BytesIO()
    torch.save(base.state_dict(), stream)
    stream.seek(0)
    restored = build("llama with biases", seed=9)
    restored.load_state_dict(torch.load(stream))
    copied, pickled = copy.deepcopy(base), pickle.loads(pickle.dumps(base))
    for model in (loaded, restored, copied, pickled):
        assert not storages(model.parameters()).keys() & storages(base.parameters()).keys()
        torch.testing.assert_close(plain_logits(model, PROMPTS, 1), plain_logits(plain, PROMPTS, 1), atol=1e-6, rtol=0)
        with_own = GuidedDecoder(model, folders)
        assert_streams_are(with_own, [untouched(plain), *(with_adapter(plain, folder) for folder in folders)])
    assert_streams_are(decoder, [plain, *(with_adapter(plain, folder) for folder in folders)])


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


def test_adapters_inside_the_module_are_read_as_they_are(folders: list[Path]) -> None:
    """Optimisers that write to `.data` leave no trace that a decoder could notice."""
    wrapped = PeftModel.from_pretrained(build("llama with biases"), folders[0]).eval()
    decoder = GuidedDecoder(wrapped)
    assert kinds(decoder) == ["fused"]
    before = stream_logits(decoder, [PROMPTS], 2)[0]
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data += 0.3 * parameter.data.roll(1, 0)
    assert_streams_are(decoder, [wrapped])
    assert not torch.allclose(stream_logits(decoder, [PROMPTS], 2)[0], before, atol=1e-2)


def test_what_leaves_no_trace_is_read_on_request(base: Any, folders: list[Path]) -> None:
    plain = untouched(base)
    decoder = GuidedDecoder(base, folders[:1])
    assert decoder.models[1].adapter is not None
    for down, up, _ in decoder.models[1].adapter.layers.values():
        down.zero_()
        up.zero_()
    decoder.refresh()
    assert_streams_are(decoder, [plain, plain])


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
