"""Launches per step as a device would tell them: a graph's nodes by a driver that stands in for CUDA's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from bench import decode, graph_nodes, step_counts
from bench.decode_cases import Case, Contender, ours
from bench.step_counts import Launches, expected, launches, per_step

KERNEL, COPY, FILL, HOST, CHILD, EMPTY = range(6)
CASE = Case("tiny", "lora", 2, 12, ours(1), rounds=1)


class Driver:
    """Graphs by their handles: their nodes, and each node's kind, or the graph that it is."""

    def __init__(self, graphs: Mapping[int, Sequence[int]], children: Mapping[int, int], status: int = 0) -> None:
        self.graphs, self.children, self.status = graphs, children, status

    def cuGraphGetNodes(self, graph: Any, nodes: Any, count: Any) -> int:
        found = self.graphs[graph.value]
        if nodes is None:
            count._obj.value = len(found)
        else:
            assert count._obj.value == len(found)
            nodes[:] = [graph.value + index for index in range(len(found))]
        return self.status

    def cuGraphNodeGetType(self, node: Any, kind: Any) -> int:
        handle = node.value // 100 * 100
        kind._obj.value = self.graphs[handle][node.value - handle]
        return 0

    def cuGraphChildGraphNodeGetGraph(self, node: Any, graph: Any) -> int:
        graph._obj.value = self.children[node.value]
        return 0


class Graph:
    """What torch.cuda.CUDAGraph is to whoever counts."""

    def __init__(self, keep_graph: bool = False) -> None:
        self.keep_graph = keep_graph

    def raw_cuda_graph(self) -> int:
        assert self.keep_graph, "torch refuses it otherwise"
        return 100


DRIVER = Driver({100: [KERNEL, COPY, HOST, CHILD, EMPTY, KERNEL], 200: [FILL, KERNEL], 300: []}, {103: 200})


class Decoder:
    """Captures a step, unless it cannot."""

    engine = "fused (CUDA graphs)"

    def __init__(self, captures: bool = True) -> None:
        self.decoder, self.captures = self, captures
        self.calls: list[tuple[Any, ...]] = []

    def release(self) -> None:
        self.calls.append(("release",))

    def __call__(self, prompts: torch.Tensor, tokens: int) -> None:
        self.calls.append((prompts.shape, tokens))
        if self.captures:
            torch.cuda.CUDAGraph()


def test_a_graph_s_kernels_copies_and_fills_are_its_launches() -> None:
    assert graph_nodes.launches(Graph(keep_graph=True), DRIVER) == 5
    assert graph_nodes._launches(DRIVER, 300) == 0
    with pytest.raises(RuntimeError, match="cuGraphGetNodes failed with CUresult 700"):
        graph_nodes._launches(Driver({100: []}, {}, status=700), 100)


def test_a_step_is_captured_anew_in_a_graph_that_keeps_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(graph_nodes.ctypes, "CDLL", lambda name: DRIVER)
    decoder = Decoder()
    found = launches(CASE, Contender("particles", 1), decoder, torch.zeros(2, 99), 6.0)
    assert found == Launches(5.0, "graph", None)
    assert decoder.calls == [("release",), ((2, step_counts.FEW_TOKENS), 2)]
    assert torch.cuda.CUDAGraph is Graph


def test_where_nodes_cannot_be_counted_the_profiler_s_count_stands_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    found = launches(CASE, Contender("ours", 1), Decoder(captures=False), torch.zeros(2, 99), 6.0)
    assert found.counted == 6.0 and found.expected == expected("tiny", "lora", 1, 2)
    assert found.by == "profiler (RuntimeError: nothing was captured: the step ran on fused (CUDA graphs))"


def test_what_a_profiler_saw_is_counted_over_the_steps_alone() -> None:
    assert per_step([0.5, 1.0, 1.5, 2.0, 2.5], since=1.0, steps=2) == 2.0


def test_on_a_gpu_launches_are_counted_for_this_library_s_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU the step runs uncaptured, and the profiler stands in."""
    monkeypatch.setattr(decode, "GPU", True)
    monkeypatch.setattr(decode, "release", lambda: None)
    monkeypatch.setattr(decode, "profiled", lambda *_: (0.5, 7.0))
    case = Case("tiny", "lora", 1, 4, (*ours(0, 1), Contender("hf", 0)), rounds=1, tokens=3)
    found = decode.measured(case, torch.float32)
    assert list(found.launches) == list(ours(0, 1)) and found.busy[Contender("hf", 0)] == 0.5
    assert all(one.counted == 7.0 and one.by.startswith("profiler") for one in found.launches.values())
    assert [one.expected for one in found.launches.values()] == [expected("tiny", "lora", K, 1) for K in (0, 1)]
