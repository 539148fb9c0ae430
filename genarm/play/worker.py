"""Decodes in a thread while the page asks, ten times per second, what there is by now.

A page has one run at a time: a new one stops the one before, which ends after the step it is in. Runs of several pages
on one writer wait for one another where the writer cannot do more than one at a time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass, field

from ..errors import GenARMError, RunError
from .settings import PlaySettings
from .written import Writer, WrittenPair


@dataclass(slots=True)
class Worker:
    """One run. ``pair`` is what it has written by now; once it ``is_over``, ``error`` says why there is no more.

    turn: held while it decodes.
    """

    writer: Writer
    settings: PlaySettings
    turn: contextlib.AbstractContextManager[object]
    pair: WrittenPair = field(default_factory=WrittenPair)
    error: GenARMError | None = None
    is_over: bool = False
    is_replaced: bool = False  # by a newer one of the same page
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, name="genarm play", daemon=True).start()

    def stop(self) -> None:
        """End the run after the step it is in."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def _run(self) -> None:
        try:
            with self.turn:
                if not self.is_stopped:
                    self._write()
        except GenARMError as error:
            self.error = error
        except Exception as error:  # of a model's own code, say: the page says so, and the server goes on
            logging.getLogger(__name__).exception("a run of the page failed")
            self.error = RunError(f"{type(error).__name__}: {error} (the server's terminal says where)")
        finally:
            self.is_over = True

    def _write(self) -> None:
        with contextlib.closing(self.writer.write(self.settings)) as pairs:
            for pair in pairs:
                self.pair = pair
                if self.is_stopped:
                    return


class Workers:
    """The runs of all pages, by the page's session."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._turn = threading.Lock() if writer.one_at_a_time else contextlib.nullcontext()
        self._latest: dict[str, Worker] = {}
        self._changing = threading.Lock()

    def start(self, session: str, settings: PlaySettings) -> Worker:
        """A page's new run; the one before is stopped."""
        worker = self.reserve(session, settings)
        worker.start()
        return worker

    def reserve(self, session: str, settings: PlaySettings) -> Worker:
        """The same, of a run that its caller starts, if no other takes its place before."""
        worker = Worker(self._writer, settings, self._turn)
        with self._changing:
            before, self._latest[session] = self._latest.get(session), worker
        if before is not None:
            before.is_replaced = True
            before.stop()
        return worker

    def stop(self, session: str) -> None:
        """Stop a page's run, where it has one."""
        with self._changing:
            worker = self._latest.pop(session, None)
        if worker is not None:
            worker.stop()
