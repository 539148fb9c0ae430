"""Reports arrive in order and whole, whatever the lag, though the device writes each over the last."""

from __future__ import annotations

import pytest
import torch

from genarm.engine.loop import Readback


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_reports_come_in_order(lag: int) -> None:
    report = torch.zeros(3, 2, dtype=torch.int64)
    readback = Readback(report, lag)
    found = []
    for step in range(7):
        report.copy_(torch.arange(6).view(3, 2) + 10 * step)
        readback.send(report)
        if readback.waiting > readback.lag:
            found.append(readback.read())
            assert len(found) == step + 1 - lag
    while readback.waiting:
        found.append(readback.read())
    assert found == [(torch.arange(6).view(3, 2) + 10 * step).tolist() for step in range(7)]


def test_reading_may_go_on_in_another_mode() -> None:
    with torch.inference_mode():
        report = torch.ones(3, 1, dtype=torch.int64)
        readback = Readback(report, 1)
        readback.send(report)
    readback.send(torch.zeros(3, 1, dtype=torch.int64))
    assert [readback.read(), readback.read()] == [[[1]] * 3, [[0]] * 3]
