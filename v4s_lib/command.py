"""What every command of the kit does with bad input and with Ctrl-C: one sentence, and an exit status."""

import functools
import sys
from collections.abc import Callable, Iterable, Sequence

from v4s_lib.data.provenance import current_commit


def check_counts(least: int = 1, **asked: int | Iterable[int] | None) -> None:
    """``ValueError`` that names the first of some options which asks for less than ``least``; None asks for nothing."""
    for name, counts in asked.items():
        for count in counts if isinstance(counts, Iterable) else [counts]:
            if count is not None and count < least:
                raise ValueError(f"expected {name} of {least} or more, got {count}: ask for more")


def command(interrupted: str) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Make a ``main`` return its exit status: 2 for input that it refuses, 130 for Ctrl-C, 0 unless it says another.

    ``interrupted`` says what is left after Ctrl-C, and how to go on.
    """

    def wrap(main: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(*arguments: Sequence[str]) -> int:
            current_commit()  # kept, before the code changes under a command that runs
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
