"""How a step is recorded: what is asked of torch and in which order, without a device."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from genarm.engine import recording
from genarm.engine.graphs import CapturedRuns
from genarm.engine.memory import bucket
from genarm.engine.recording import capture, first_cause, own_streams
from genarm.engine.run import on_stream, side_by_side


def test_buckets_are_powers_of_two() -> None:
    assert [bucket(batch) for batch in range(1, 10)] == [1, 2, 4, 4, 8, 8, 8, 8, 16]
    assert all(bucket(1 << n) == 1 << n for n in range(12))


class Stream:
    def __init__(self, log: list[str], name: str, device: Any = None, number: int = 0) -> None:
        self.log, self.name, self.device, self.cuda_stream = log, name, device, number

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class Device:
    """torch.cuda as far as it is used, writing down what happens."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.made = 0
        self.current = Stream(self.log, "main")
        self.capturing = False
        for name in ("device", "stream", "graph", "Stream", "CUDAGraph", "current_stream"):
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)

    def Stream(self, device: Any) -> Stream:
        """One of 32, in turn, as torch has it."""
        self.made += 1
        return Stream(self.log, f"side {self.made}", device, (self.made - 1) % recording.MOST_STREAMS)

    def current_stream(self, _device: Any = None) -> Stream:
        return self.current

    @contextmanager
    def device(self, device: Any) -> Any:
        self.log.append(f"on {device}")
        yield

    @contextmanager
    def stream(self, stream: Stream) -> Any:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def CUDAGraph(self) -> Any:
        log = self.log

        class Graph:
            def replay(self) -> None:
                log.append("replay")

        return Graph()

    @contextmanager
    def graph(self, _graph: Any, pool: Any, stream: Stream, capture_error_mode: str) -> Any:
        self.log.append(f"record on {stream.name} in {pool}, {capture_error_mode}")
        self.capturing = True
        with self.stream(stream):
            yield
        self.capturing = False


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


CUDA = torch.device("cuda", 1)


def test_a_step_runs_aside_before_it_is_recorded_there(device: Device) -> None:
    replays = []
    (stream,) = own_streams(1, CUDA)
    for _ in range(2):
        step = lambda: device.log.append(f"step on {device.current.name}")  # noqa: E731
        replays.append(capture(step, "pool", stream))
    once = ["side 1 waits for main", "on cuda:1", *["step on side 1"] * recording.WARM_UP_STEPS]
    once += ["record on side 1 in pool, thread_local", "step on side 1"]
    assert device.log == once * 2, "the same stream, or captures would not share the pool's memory"
    assert device.current.name == "main"
    device.log.clear()
    replays[0]()
    assert device.log == ["replay"]


def test_a_recording_that_fails_leaves_the_callers_stream(device: Device) -> None:
    def step() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        capture(step, None, own_streams(1, CUDA)[0])
    assert device.current.name == "main"
    assert not recording.ONE_AT_A_TIME.locked()


def test_branches_of_a_recording_fork_and_join(device: Device) -> None:
    def branch(name: str) -> Any:
        def run() -> list[Any]:
            device.log.append(f"{name} on {device.current.name}")
            return [name]

        return run

    calls = [branch("a"), branch("b"), branch("c")]
    sides = own_streams(2, CUDA)
    assert side_by_side(calls, sides) == [["a"], ["b"], ["c"]]
    assert device.log == ["a on main", "b on main", "c on main"], "without a recording one after the other"
    device.log.clear()
    device.capturing = True
    assert side_by_side(calls, sides) == [["a"], ["b"], ["c"]]
    forks = ["side 1 waits for main", "b on side 1", "side 2 waits for main", "c on side 2"]
    assert device.log == [*forks, "a on main", "main waits for side 1", "main waits for side 2"]
    device.log.clear()
    assert side_by_side(calls[:1], sides) == [["a"]]
    assert device.log == ["a on main"]
    assert side_by_side(calls, []) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("place", [0, 1])
def test_a_branch_that_fails_leaves_no_stream_alone(
    place: int, refuses: bool, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Capture would end with an error of its own that hides the branch's; so would a join that is refused."""
    joins = []

    def join(stream: Stream, other: Stream) -> None:
        if stream.name == "main":
            joins.append(other.name)
            if refuses:
                raise RuntimeError("operation not permitted")

    def fail() -> list[Any]:
        raise RuntimeError("out of memory")

    calls: list[Any] = [list, list]
    calls[place] = fail
    device.capturing = True
    sides = own_streams(1, CUDA)
    monkeypatch.setattr(Stream, "wait_stream", join)
    with pytest.raises(RuntimeError, match="out of memory"):
        side_by_side(calls, sides)
    assert joins == ["side 1"]


def test_a_recordings_own_error_does_not_hide_the_first() -> None:
    try:
        try:
            raise ValueError("too large")
        finally:
            raise RuntimeError("the capture was broken off")
    except RuntimeError as error:
        assert str(first_cause(error)) == "too large"


def test_a_calls_steps_stay_in_order_whatever_stream_the_caller_is_on(device: Device) -> None:
    own, other = device.current, Stream(device.log, "another")
    with on_stream(own):
        pass
    assert not device.log
    device.current = other
    with on_stream(own):
        assert device.current is own
    assert device.current is other
    assert device.log == ["main waits for another", "another waits for main"]


def test_no_two_engines_graphs_share_a_stream(device: Device) -> None:
    """Ending a graph takes cuBLAS's workspace from all graphs of its stream."""
    living = [CapturedRuns((None, None)) for _ in range(10)]
    for runs in living:
        runs.take_streams(3, CUDA)
    numbers = [stream.cuda_stream for runs in living for stream in runs.streams]
    assert len(set(numbers)) == len(numbers) == 30
    gone = {stream.cuda_stream for stream in living.pop(4).streams}
    late = CapturedRuns((None, None))
    late.take_streams(5, CUDA)
    assert {stream.cuda_stream for stream in late.streams} >= gone, "what ended gives its streams back"
    late.take_streams(3, CUDA)
    assert len(late.streams) == 3, "shared where there are no others"
