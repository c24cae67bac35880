"""Ctrl-C between steps: what is saved on the way out is never half a step."""

import signal
import threading


class Interrupt:
    """While it is entered, the first Ctrl-C is only noted in ``asked``; a second one interrupts at once.

    Outside the main thread, and where Ctrl-C was ignored before, it changes nothing.
    """

    def __enter__(self) -> "Interrupt":
        self.asked = False
        self.before = signal.getsignal(signal.SIGINT)
        in_main_thread = threading.current_thread() is threading.main_thread()
        self.handles = in_main_thread and self.before not in (signal.SIG_IGN, None)
        if self.handles:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handles:
            signal.signal(signal.SIGINT, self.before)

    def _note(self, *_: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self.before)
