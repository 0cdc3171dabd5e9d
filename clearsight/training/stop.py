"""Ctrl-C and SIGTERM as a wish to stop, which the fit loop grants at the next safe point."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """While entered, the first SIGINT or SIGTERM sets `received`; a second SIGINT stops at once.

    A SIGINT that was ignored before stays ignored: nohup and scripts that start a job with `&` mean that Ctrl-C is not for it.
    Not `enabled`, or in any other than the main thread, it does nothing, because Python delivers signals to the main thread only.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if self._enabled and threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            for number in (signal.SIGTERM,) if ignored else (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
