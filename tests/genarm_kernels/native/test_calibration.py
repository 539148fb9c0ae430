"""What runs on a CPU is what was faster there: measured once, kept, and found by every process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from genarm_kernels.native import calibration, choice, compiler, figures, library, linear
from genarm_kernels.native.figures import PRODUCT_ROWS, STEP_ROWS, Figures
from genarm_kernels.native.trial import Trial
from genarm_kernels.native.why import why

DTYPES = (torch.float32, torch.bfloat16)
Measure = Callable[[torch.dtype], Figures]
pytestmark = pytest.mark.usefixtures("native_path")


def measured(steps: float = 0.5, products: float = 0.5) -> Figures:
    """As if C took these shares of torch's time."""
    return Figures(dict.fromkeys(STEP_ROWS, (steps, 1.0)), dict.fromkeys(PRODUCT_ROWS, (products, 1.0)))


@pytest.fixture
def measures(native_path: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Figures]]:
    """Nothing is known of this machine yet; whatever it measures is the list's next, which must not be empty."""
    results: list[Figures] = []
    build = {dtype: compiler.compiled(library.DEFINES[dtype]) for dtype in DTYPES}
    kernels = {dtype: library._load(_copy(path, tmp_path)) for dtype, path in build.items()}
    monkeypatch.setattr(library, "_library", kernels.get)
    places = {str(dtype).removeprefix("torch."): tmp_path / path.name for dtype, path in build.items()}
    monkeypatch.setattr(compiler, "place", places.get)
    monkeypatch.setattr(choice, "wanted", lambda: None)
    monkeypatch.delenv("GENARM_NATIVE", raising=False)
    monkeypatch.setattr(calibration, "_measured", lambda dtype: results.pop(0))
    calibration.figures.cache_clear()
    yield results
    calibration.figures.cache_clear()


def _copy(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    return copy


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix != ".so")


@pytest.mark.parametrize(("share", "runs"), [(0.9, True), (1.1, False)])
def test_the_faster_way_runs(measures: list[Figures], share: float, runs: bool) -> None:
    measures += [measured(share), measured(2 - share)]
    assert (choice.library(torch.float32) is not None) == runs
    assert (choice.library(torch.bfloat16) is not None) == (not runs)
    x, weight = torch.ones(2, 4), torch.ones(3, 4)
    assert linear.suits(x, weight) == runs
    chosen, text = why()
    faster = "float32" if runs else "bfloat16"
    assert (
        chosen
        and f"faster for {faster}. " in text
        and f"float32 on 1 thread: a step of 1 and 4 rows takes {share:.1f} and" in text
    )


def test_neither_dtype_may_be_faster(measures: list[Figures], tmp_path: Path) -> None:
    assert why()[0] is None and not kept(tmp_path)  # asking measures nothing
    measures += [measured(1.5), measured(1.5)]
    for dtype in DTYPES:
        choice.figures(dtype)
    chosen, text = why()
    assert not chosen and "faster for neither dtype. bfloat16 on 1 thread: a step" in text


def test_a_step_of_one_row_and_one_of_four_count_alike() -> None:
    assert Figures({1: (0.5, 1.0), 4: (19.0, 10.0)}, {}).native
    assert not Figures({1: (0.5, 1.0), 4: (21.0, 10.0)}, {}).native


def test_more_rows_than_it_was_faster_for_are_torch_s(measures: list[Figures]) -> None:
    times = measured().products
    assert Figures({}, times).most_rows == math.inf
    times[32] = (2.0, 1.0)
    assert Figures({}, times).most_rows == 8
    measures.append(Figures(measured().steps, times))
    weight = torch.ones(3, 4)
    assert linear.suits(torch.ones(8, 4), weight) and not linear.suits(torch.ones(9, 4), weight)
    times[8] = (2.0, 1.0)
    assert Figures({}, times).most_rows == STEP_ROWS[-1]


def test_it_is_measured_once_for_every_dtype_and_number_of_threads(measures: list[Figures], tmp_path: Path) -> None:
    measures += [measured(0.25), measured(0.5), measured(0.75)]
    first = [choice.figures(dtype) for dtype in DTYPES]
    torch.set_num_threads(2)
    try:
        assert choice.figures(torch.float32) == measured(0.75)
    finally:
        torch.set_num_threads(1)
    calibration.figures.cache_clear()  # as another process
    assert [choice.figures(dtype) for dtype in DTYPES] == first == [measured(0.25), measured(0.5)]
    assert len(kept(tmp_path)) == 3


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"steps": {}, "products": {}}', '{"steps": {"1": [1, 0], "4": [1, 1]}, "products": {}}', "\udcff"],
    ids=["empty", "half", "no names", "no figures", "no time at all", "no text"],
)
def test_a_file_that_holds_no_figures_is_made_again(measures: list[Figures], tmp_path: Path, text: str) -> None:
    measures += [measured(0.25), measured(0.75)]
    choice.figures(torch.float32)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(text.encode(errors="surrogateescape"))
    calibration.figures.cache_clear()
    assert choice.figures(torch.float32) == measured(0.75)
    assert len(whole) == len(file.read_bytes()) and kept(tmp_path) == [file]


def test_of_processes_that_measure_at_once_all_take_the_first_one_s(
    measures: list[Figures], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def slow(dtype: torch.dtype) -> Figures:
        monkeypatch.setattr(calibration, "_measured", lambda dtype: measured(0.25))
        calibration.figures.__wrapped__(dtype, 1)  # the other process, done before this one
        return measured(0.75)

    monkeypatch.setattr(calibration, "_measured", slow)
    assert choice.figures(torch.float32) == measured(0.25)
    assert len(kept(tmp_path)) == 1


def test_the_file_appears_whole(measures: list[Figures], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    link, seen = os.link, []

    def watched(source: str, target: Path) -> None:
        seen.append((figures.read(Path(source)), target.exists()))
        link(source, target)

    monkeypatch.setattr(calibration.os, "link", watched)
    measures.append(measured())
    choice.figures(torch.float32)
    assert seen == [(measured(), False)]


def test_where_nothing_can_be_written_a_process_measures_for_itself(
    measures: list[Figures], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(calibration.os, "link", full)
    measures += [measured(0.25), measured(0.75)]
    assert choice.figures(torch.float32) == choice.figures(torch.float32) == measured(0.25)
    calibration.figures.cache_clear()
    assert choice.figures(torch.float32) == measured(0.75) and not kept(tmp_path)


def test_the_environment_is_asked_first(measures: list[Figures], monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in (True, False):
        monkeypatch.setattr(choice, "wanted", lambda asked=asked: asked)
        assert (choice.library(torch.float32) is not None) == asked
        assert choice.figures(torch.float32) is None  # and nothing was measured
        monkeypatch.setenv("GENARM_NATIVE", str(int(asked)))
        assert why() == (asked, f"GENARM_NATIVE={int(asked)}")
    assert linear.most_rows(torch.float32) == linear.MOST_FLOAT_ROWS


def test_without_kernels_there_is_nothing_to_measure(measures: list[Figures], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_library", lambda dtype: None)
    assert choice.figures(torch.float32) is None and choice.library(torch.float32) is None
    assert choice.figures(torch.float16) is None


def test_the_median_decides_whatever_one_call_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now, takes = [0.0], {"own": iter([9.0, 1.0, 50.0, 2.0, 3.0, 1.0, 2.0, 2.0]), "torch": iter([9.0, *[4.0] * 7])}

    def way(name: str) -> Callable[[], None]:
        def call() -> None:
            now[0] += next(takes[name])

        return call

    monkeypatch.setattr(calibration, "perf_counter", lambda: now[0])
    monkeypatch.setattr(calibration, "PATIENCE", 1000)
    assert calibration._milliseconds(way("own"), way("torch")) == (2000, 4000)


def test_a_slow_comparison_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    def way() -> None:
        calls.append(now[0])
        now[0] += 1

    monkeypatch.setattr(calibration, "perf_counter", lambda: now[0])
    assert calibration._milliseconds(way, lambda: way()) == (1000, 1000)
    assert len(calls) == 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_ways_of_a_trial_are_the_same_step(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """On other numbers than those that are timed, all of which are equal."""
    generator = torch.Generator().manual_seed(0)

    def random(self: Trial, *shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(dtype)

    monkeypatch.setattr(Trial, "_full", random)
    monkeypatch.setattr("genarm_kernels.native.trial.WEIGHT_BYTES", 25 * 10**6 * dtype.itemsize)
    trial = Trial(dtype, 4)
    own, torchs = trial.by_kernels().float(), trial.by_torch().float()
    assert len(trial._layers) == 2
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(own, torchs, rtol=0, atol=tolerance * float(own.abs().max()))


def test_a_fresh_process_measures_in_any_mode_and_leaves_its_random_numbers_alone(tmp_path: Path) -> None:
    script = (
        "import torch\n"
        "from genarm_kernels.native import choice, library, trial\n"
        "trial.WEIGHT_BYTES = 50_000_000\n"
        "state = torch.get_rng_state()\n"
        "with torch.device('meta'), torch.autocast('cpu'), torch.inference_mode():\n"
        "    found = choice.figures(torch.float32)\n"
        "assert torch.equal(state, torch.get_rng_state())\n"
        "print(sorted(found.steps) + sorted(found.products), found.native)\n"
    )
    folder = tmp_path / "genarm" / "native"
    folder.mkdir(mode=0o700, parents=True)
    _copy(compiler.compiled(library.DEFINES[torch.float32]), folder)  # what is compiled already is not again
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "GENARM_NATIVE": ""}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str([*STEP_ROWS, *PRODUCT_ROWS]))
    assert [path.suffix for path in kept(folder)] == [".json"]
