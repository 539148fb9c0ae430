"""What is installed: packages that static tools find, and metadata that a package index can show."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import setuptools

ROOT = Path(__file__).parent.parent
BUILD = (
    "from setuptools import build_meta; build_meta.build_editable('../editable'); build_meta.build_wheel('../wheel')"
)


@pytest.fixture(scope="module")
def setup_py() -> dict[str, Any]:
    """The names in setup.py, and what it hands to setuptools as ``arguments``."""
    arguments: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", arguments.update)
        return {**runpy.run_path(str(ROOT / "setup.py")), "arguments": arguments}


def test_static_tools_find_the_packages_after_an_editable_install_and_a_wheel_holds_nothing_else(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    for folder in ("source", "editable", "wheel"):
        (tmp_path / folder).mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("genarm", "genarm_kernels", "bench", "tests"):
        (source / folder).mkdir()
        (source / folder / "__init__.py").touch()
        (source / folder / "py.typed").touch()
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, capture_output=True, check=True)
    editable, wheel = (ZipFile(next((tmp_path / folder).glob("*.whl"))) for folder in ("editable", "wheel"))
    # Editors and type checkers read the paths in .pth files and never run code: a finder would show them nothing.
    (path_file,) = [name for name in editable.namelist() if name.endswith(".pth")]
    paths = editable.read(path_file).decode().splitlines()
    for package in ("genarm", "genarm_kernels"):
        spec = PathFinder.find_spec(package, paths)
        assert spec is not None and spec.origin == str(source / package / "__init__.py")
    assert {name.partition("/")[0] for name in wheel.namelist() if "dist-info" not in name} == {
        "genarm",
        "genarm_kernels",
    }
    assert "genarm/py.typed" in wheel.namelist()


def test_the_index_page_has_no_link_that_leads_nowhere(setup_py: dict[str, Any]) -> None:
    page = setup_py["arguments"]["long_description"]
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert targets and all(target.startswith("https://") for target in targets)
    text = "![plot](docs/a.png) [pages](docs/b.md#part), [paper](https://x.org/1) and [here](#part)"
    assert setup_py["index_page"](text, "") == " pages, [paper](https://x.org/1) and [here](#part)"
    assert setup_py["index_page"](text, "https://h.org/g") == (
        "![plot](https://h.org/g/raw/main/docs/a.png) [pages](https://h.org/g/blob/main/docs/b.md#part), "
        "[paper](https://x.org/1) and [here](#part)"
    )


def test_every_extra_is_of_use(setup_py: dict[str, Any]) -> None:
    extras = setup_py["arguments"]["extras_require"]
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "genarm").rglob("*.py")]
    for requirement in [*extras["flash-attn"], *extras["plots"], *extras["train"]]:
        module = re.split(r"[<>=]", requirement)[0].replace("-", "_")
        assert any(re.search(rf"\b{module}\b", text) for text in sources), requirement
