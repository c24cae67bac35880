"""What every command of the kit does with bad input and with Ctrl-C: one sentence, and an exit status."""

import functools
import sys
from collections.abc import Callable, Sequence


def command(interrupted: str) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Make a ``main`` return its exit status: 2 for input that it refuses, 130 for Ctrl-C, 0 unless it says another.

    ``interrupted`` says what is left after Ctrl-C, and how to go on.
    """

    def wrap(main: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(*arguments: Sequence[str]) -> int:
            try:
                return main(*arguments) or 0
            except KeyboardInterrupt:
                print(f"interrupted: {interrupted}", file=sys.stderr)
                return 130
            except (ValueError, OSError, FloatingPointError) as error:
                print(error, file=sys.stderr)
                return 2

        return run

    return wrap
