"""What a captured CUDA graph launches: its nodes, asked of the driver."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

LIBRARY = "libcuda.so.1"
# Of the driver's CUgraphNodeType: kernels, copies and fills are launches; a graph within the graph has its own.
LAUNCHES, CHILD = {0, 1, 2}, 4


@contextmanager
def kept() -> Iterator[list[Any]]:
    """A block whose captures keep their nodes, where torch would drop them once a graph can be replayed. The graphs
    are added to the list."""
    graphs: list[Any] = []
    made = torch.cuda.CUDAGraph

    def keeping() -> Any:
        graphs.append(made(keep_graph=True))
        return graphs[-1]

    with patch.object(torch.cuda, "CUDAGraph", keeping):
        yield graphs


def launches(graph: Any, driver: Any = None) -> int:
    """How many kernels, copies and fills a graph of a ``kept`` block has.

    Raises:
        RuntimeError: the driver does not say.
        OSError: there is no driver.
    """
    return _launches(driver or ctypes.CDLL(LIBRARY), graph.raw_cuda_graph())


def _launches(driver: Any, graph: int) -> int:
    kinds = [(node, _kind(driver, node)) for node in _nodes(driver, graph)]
    within = sum(_launches(driver, _child(driver, node)) for node, kind in kinds if kind == CHILD)
    return within + sum(kind in LAUNCHES for _, kind in kinds)


def _nodes(driver: Any, graph: int) -> list[int]:
    count = ctypes.c_size_t()
    _check("cuGraphGetNodes", driver.cuGraphGetNodes(ctypes.c_void_p(graph), None, ctypes.byref(count)))
    if not count.value:
        return []
    nodes = (ctypes.c_void_p * count.value)()
    _check("cuGraphGetNodes", driver.cuGraphGetNodes(ctypes.c_void_p(graph), nodes, ctypes.byref(count)))
    return [int(node or 0) for node in nodes]


def _kind(driver: Any, node: int) -> int:
    kind = ctypes.c_int()
    _check("cuGraphNodeGetType", driver.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind)))
    return kind.value


def _child(driver: Any, node: int) -> int:
    graph = ctypes.c_void_p()
    _check(
        "cuGraphChildGraphNodeGetGraph",
        driver.cuGraphChildGraphNodeGetGraph(ctypes.c_void_p(node), ctypes.byref(graph)),
    )
    return int(graph.value or 0)


def _check(name: str, status: int) -> None:
    if status:
        raise RuntimeError(f"the driver's {name} failed with CUresult {status}: its nodes cannot be counted")
