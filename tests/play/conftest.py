"""`genarm play` started as its users start it, and a real browser on it; what is missing for that is said by a skip."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

START = "import sys; from genarm.cli.app import main; sys.exit(main())"  # the tree's own, whatever is installed
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SAID = "the page is at "
PATIENCE = 120.0  # seconds for models to load on a busy machine


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Where the page of the embedded models is."""
    pytest.importorskip("gradio", reason="genarm play needs Gradio: run make test-play")
    with subprocess.Popen(
        [sys.executable, "-c", START, "play"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"},
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            yield _address(server)
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(20)
    assert status == 143, "SIGTERM ends it as it does every command"


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    until, said = time.monotonic() + PATIENCE, []
    for line in server.stderr:
        said.append(line)
        if SAID in line:
            return line.partition(SAID)[2].split()[0]
        if time.monotonic() > until:
            break
    raise AssertionError(f"the page did not come up: {''.join(said)}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser without a window: the system's own, or playwright's."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="pages are tested with playwright: run make test-play"
    )
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as running:
        if found is None and not Path(running.chromium.executable_path).exists():
            pytest.skip("there is no Chromium here: install chromium, or run `playwright install chromium`")
        opened = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page at an address. What goes wrong in it fails the test, and so does a word to another host."""
    wrong: list[str] = []
    contexts = []

    def open_page(address: str, query: str = "", width: int = 1400, height: int = 1000, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: wrong.append(asked.url) if not _is_own(asked.url, address) else None)
        page.goto(address + query)
        page.wait_for_function("document.querySelector('#plot')?.innerText")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def opened(visit: Callable[..., Any], address: str) -> Callable[..., Any]:
    """Opens the page of the embedded models with a query."""
    return functools.partial(visit, address)


def _is_own(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))
