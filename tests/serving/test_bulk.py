"""Bulk generation over two machines of a Ray cluster, one of which is lost; and a run that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served_cases import PROMPTS

import genarm
from genarm import embedded

if find_spec("ray") is None:
    pytest.skip("Ray is not installed here: make test-serving brings it", allow_module_level=True)

ENGINE = b"ray::MapWorker(MapBatches(Answering))"
DECODING = (
    ENGINE + b".submit"
)  # Ray names a process after the call that it is in, which here is that of a block of rows
TOKENS = 48
PATIENCE = 400  # seconds: engines start in 30 on a machine that does nothing else


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two machines of one CPU each, so that each has room for one engine."""
    from ray.cluster_utils import Cluster

    told = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={**told, "include_dashboard": False})
    found.add_node(**told)
    yield found
    found.shutdown()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    texts = [f"{text} {number}" for number in range(4) for text in PROMPTS]
    lines = [{"id": number, "prompt": text} for number, text in enumerate(texts)]
    for line in lines[::3]:
        line["weights"] = {"art": -1.0}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def start(cluster: Any, rows: Path, output: Path) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "genarm", "generate", "--input", str(rows), "--output", str(output)]
    line += ["--reward", "art:1", "--reward", "risk:0.5", "--temperature", "0", "--max-new-tokens", str(TOKENS)]
    line += ["--dtype", "float32", "--max-length", "128", "--batch-size", "2"]
    line += ["--engine", "ray", "--engines", "2", "--address", cluster.address]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """What the condition says as soon as it says something."""
    limit = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        assert time.monotonic() < limit
        time.sleep(0.05)
    return found


def engines(title: bytes = ENGINE) -> set[int]:
    """The processes of engines that are there; DECODING: those that have rows in hand."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes().startswith(title):
                found.add(int(entry.parent.name))
        except OSError:
            continue
    return found


def is_on(node: Any, engine: int) -> bool:
    machine = node.all_processes["raylet"][0].process.pid
    try:
        return f"PPid:\t{machine}\n" in Path(f"/proc/{engine}/status").read_text()
    except OSError:  # it has gone
        return False


def caught_decoding(node: Any) -> int | None:
    """The engine of a machine, stopped while it has rows in hand."""
    for engine in engines(DECODING):
        if is_on(node, engine):
            os.kill(engine, signal.SIGSTOP)
            if engine in engines(DECODING):
                return engine
            os.kill(engine, signal.SIGCONT)
    return None


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def expected(rows: Path) -> dict[int, str]:
    """The embedded engine's texts."""
    asked = lines(rows)
    paths = {name: str(embedded.REWARDS[name]) for name in ("art", "risk")}
    decoder = genarm.GuidedDecoder.from_pretrained(str(embedded.BASE), paths, dtype="float32", device="cpu")
    weights = [{"art": 1.0, "risk": 0.5, **row.get("weights", {})} for row in asked]
    out = decoder.generate([row["prompt"] for row in asked], weights=weights, temperature=0.0, max_new_tokens=TOKENS)
    return {row["id"]: text for row, text in zip(asked, out.texts, strict=True)}


def test_a_machine_that_is_lost_costs_no_row_and_doubles_none(cluster: Any, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "texts.jsonl"
    process = start(cluster, rows, output)
    lost = next(node for node in cluster.list_all_nodes() if not node.is_head())
    # Whichever is loaded first waits with its rows for the other: it might be through with all of them before.
    caught: dict[Any, int] = {}

    def both() -> bool:
        for node in (lost, cluster.head_node):
            if node not in caught and (engine := caught_decoding(node)):
                caught[node] = engine
        return len(caught) == 2

    wait(both, process)
    os.kill(caught[cluster.head_node], signal.SIGCONT)
    assert len(lines(output)) < len(lines(rows)), "the run was over before the machine was lost"
    cluster.remove_node(lost, allow_graceful=False)
    with suppress(ProcessLookupError):
        os.kill(caught[lost], signal.SIGKILL)  # what is stopped does not notice that its machine has gone
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.decode()
    found = lines(output)
    assert [row["id"] for row in found] == list(range(len(lines(rows))))
    assert {row["id"]: row["text"] for row in found} == expected(rows)


def test_a_run_that_is_killed_goes_on_where_it_was(cluster: Any, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "texts.jsonl"
    process = start(cluster, rows, output)
    wait(lambda: len(lines(output)) > 4, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = lines(output)
    assert 4 < len(kept) < len(lines(rows))
    again = start(cluster, rows, output)
    _, errors = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, errors.decode()
    found = lines(output)
    assert [row["id"] for row in found] == list(range(len(lines(rows))))
    assert all(row in found for row in kept)
    assert {row["id"]: row["text"] for row in found} == expected(rows)
