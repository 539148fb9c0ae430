"""The log-probability suite itself: ways agree, what is missing is named, the time on a device is bounded."""

import json
from pathlib import Path

import pytest
import torch

from bench import logprobs_peers as peers
from bench import logprobs_table as table
from bench.logprobs_cases import MODES, cpu_cases, gpu_cases

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RECORD = Path(__file__).parents[2] / "bench/results/cpu/logprobs.json"


@pytest.mark.parametrize("mode", MODES)
def test_ways_agree(mode: str) -> None:
    torch.manual_seed(0)
    hidden, lm_head, grads = torch.randn(30, 16), torch.randn(200, 16), torch.linspace(-1, 2, 30)
    token_ids = torch.randint(200, (30,))
    ours, plain = (
        peers.run(peers.BUILDERS[way](), hidden, lm_head, token_ids, mode, grads) for way in ("ours", "plain")
    )
    assert len(ours) == 1 + MODES.index(mode)
    for value, right in zip(ours, plain, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [way for way in peers.BUILDERS if peers.missing(way, CPU) is None] == ["ours", "plain"]
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert "liger-kernel is not installed" in peers.missing("liger", CUDA)
    assert peers.missing("compiled", CUDA) is None


def test_a_run_on_a_device_is_short() -> None:
    # 11 rounds and two calls of 5 ways, at most 3 products a mode and 2 more where they are taken twice.
    short = [case for case in gpu_cases() if not case.full]
    operations = sum(2 * case.N * case.H * case.V * 4 * 5 * 13 for case in short)
    assert operations / 500e12 < 60
    assert {case.mode for case in short} == {case.mode for case in cpu_cases()} == set(MODES)


def test_the_table_holds_every_row_on_record() -> None:
    record = table.load(RECORD)
    text = table.table(record)
    assert len(text.splitlines()) == 4 + len(record["rows"])
    assert "over all logits" in text and "over Liger" not in text


def test_another_suite_s_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "linear.json"
    path.write_text(json.dumps({"rows": [{"notes": {"way": "ours"}}]}))
    with pytest.raises(SystemExit, match="another suite"):
        table.load(path)
