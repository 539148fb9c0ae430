"""A captured call follows what its tensors hold: seeds, positions, weights, filters, logits."""

import pytest
import torch
from gpu_cases import captured
from kernel_cases import assert_same_bits, make_logits, make_weights

from genarm_kernels import guided_sample, reference, row_seeds

pytestmark = pytest.mark.device
CUDA = "cuda"


B, V = 4, 32000
TURNS = 5


@pytest.mark.parametrize("filtered", [False, True])
def test_a_replayed_graph_follows_its_inputs(filtered: bool) -> None:
    logits = make_logits(B, V, 2, (torch.bfloat16,), device=CUDA)
    weights = make_weights(B, 2, device=CUDA)
    heat = torch.ones(B, device=CUDA)
    seeds, positions = row_seeds(1, B, CUDA), torch.zeros(B, dtype=torch.int64, device=CUDA)
    filters = {"top_k": torch.zeros(B, dtype=torch.int64, device=CUDA)} if filtered else {}
    filters |= {name: torch.ones(B, device=CUDA) for name in ("top_p", "base_top_p") if filtered}
    filters |= {name: torch.zeros(B, device=CUDA) for name in ("min_p", "base_min_p") if filtered}
    # Turn by turn: off in every row, on in some, on in others, at their ends.
    values = {
        "top_k": [[0] * B, [5, 0, 0, 900], [0, 40, V, 1], [V - 1, 1, 0, 0], [0] * B],
        "top_p": [[1.0] * B, [1.0, 0.9, 1.0, 0.8], [0.5, 1.0, 0.0, 1.0], [0.999999] * B, [1.0] * B],
        "base_top_p": [[1.0] * B, [1.0, 1.0, 0.9, 1.0], [1.0, 0.7, 1.0, 1.0], [1.0] * B, [1.0] * B],
        "min_p": [[0.0] * B, [0.0, 0.0, 0.1, 0.0], [0.0, 0.01, 0.0, 0.0], [0.0] * B, [0.0] * B],
        "base_min_p": [[0.0] * B, [0.01, 0.0, 0.0, 0.0], [0.0] * B, [0.001] * B, [0.0] * B],
    }

    def call() -> dict[str, object]:
        return {"temperature": heat, "seed": seeds, "position": positions, "return_logprobs": True, **filters}

    graph, out = captured(lambda: guided_sample(logits, weights, **call()))
    seen = []
    for turn in range(TURNS):
        seeds.copy_(row_seeds(turn, B, CUDA))
        positions.fill_(turn * 10)
        # Negative, zero and positive by turns; each row at another time.
        weights[:, 1] = torch.arange(B, device=CUDA) % 3 * 0.75 + turn / 2 - 1.5
        weights[turn % B, 1] = 0.0
        heat.fill_(0.5 + turn / 4)
        heat[(turn + 1) % B] = 0.0
        for name, tensor in filters.items():
            tensor.copy_(torch.tensor(values[name][turn], dtype=tensor.dtype))
        logits[0].copy_(make_logits(B, V, 1, (torch.bfloat16,), seed=turn, device=CUDA)[0])
        if turn == 3:
            logits[0][2, 77] = torch.nan
        graph.replay()
        assert out.status.tolist() == [0, 0, int(turn == 3), 0]
        assert_same_bits(guided_sample(logits, weights, **call()), out)
        expected = reference.guided_sample(logits, weights, **call())
        assert torch.equal(out.tokens, expected.tokens)
        torch.testing.assert_close(out.logprobs, expected.logprobs, rtol=1e-4, atol=1e-4, equal_nan=True)
        seen.append(tuple(out.tokens.tolist()))
    assert len(set(seen)) == TURNS
