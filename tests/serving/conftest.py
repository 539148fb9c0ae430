"""Guided decoding inside vLLM, in the environment of `make test-serving`. Elsewhere these tests are skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served_cases import BASE, RUNNER_V2, guidance, make_wide_model

HERE = find_spec("vllm") is not None
collect_ignore_glob = [] if HERE else ["test_[!i]*.py"]  # test_installed.py says why

if HERE:  # before vLLM is imported, which reads them then
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if RUNNER_V2:  # its kernels run in Triton's interpreter (interpreted/), in the engine's own processes alone
        os.environ |= {"TRITON_INTERPRET": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full reward model of another shape than the base's, with one id more."""
    return make_wide_model(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="session")
def engine(wide: Path) -> Callable[..., AbstractContextManager[Any]]:
    """Starts vLLM's engine on the embedded base with two LoRA reward models and the full one."""
    from vllm import LLM

    from genarm.serving.settings import hf_overrides

    @contextmanager
    def start(**settings: Any) -> Iterator[Any]:
        told: dict[str, Any] = {
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 256,
            "max_num_seqs": 64,
            "hf_overrides": hf_overrides(guidance(wide)),
        }
        llm = LLM(BASE, **{**told, **settings})
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()

    return start
