"""The checkers of notebooks 07 to 09, as those in ``exercises``: right, or not yet and what is missing."""

from collections.abc import Callable, Sequence

import numpy as np

from v4s_lib.evaluation.statistics import paired_ratio


def check_ranks(function: Callable[[list[int], int], tuple[list[int], list[int]]]) -> None:
    """07: numbers of context and target latents by rank, from places in the scan and the number of targets."""
    context, target = (list(part) for part in function([3, 4, 17, 50], 3))
    _say(
        (context, target) == ([0, 1, 2, 3], [4, 5, 6]), "the first context latent is 0, and the target follows the last"
    )


def check_lost(function: Callable[[float, float], float]) -> None:
    """07: share of a figure that is lost without a part, from the figure with it and without."""
    cases = {(0.8, 0.4): 0.5, (0.5, 0.5): 0.0, (0.5, 0.4): 0.2}
    wrong = [case for case, share in cases.items() if abs(function(*case) - share) > 1e-6]
    _say(not wrong, f"at {wrong[:1]}: what is lost is a share of the figure with the part")


def check_pairs(function: Callable[[int, int, int], int]) -> None:
    """08: pairs of tokens that attend one to the other in a block, by latents of context and target; one-way."""
    cases = [(16, 8, 6), (84, 8, 6), (84, 41, 104)]
    truth = [tokens**2 * (context**2 + target * (context + target)) for context, target, tokens in cases]
    wrong = [case for case, answer in zip(cases, truth, strict=True) if function(*case) != answer]
    _say(not wrong, f"at {wrong[:1]}: context tokens attend to context, target tokens to both")


def check_no_faster(function: Callable[[Sequence[int], Sequence[float]], bool]) -> None:
    """08: whether time grows no faster than the context, from frames and seconds, shortest first."""
    known = {((9, 397), (0.1, 1.0)): True, ((9, 397), (0.1, 5.0)): False, ((100, 400), (1.0, 3.9)): True}
    wrong = [case for case, answer in known.items() if bool(function(*case)) != answer]
    _say(not wrong, f"for {wrong[:1]}: set the time a frame at the longest against that at the shortest")


def check_retention(function: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """09: share of the gain that is left, from the gains (E,) of the same episodes in domain and out of it."""
    inside, outside = np.array([4.0, 2.0, 6.0]), np.array([1.0, 2.0, 3.0])
    truth = paired_ratio(outside, inside, np.arange(3)).mean
    answer = function(inside, outside)
    close = isinstance(answer, int | float | np.number) and abs(answer - truth) < 1e-6
    _say(close, f"for gains {inside} and {outside} you have {answer}, and it is {truth:.2f}")


def check_evenly(function: Callable[[int, int], Sequence[int]]) -> None:
    """09: numbers of at most ``most`` frames out of ``count``, even, the first and the last among them."""
    wrong = []
    for count, most in ((300, 93), (50, 93), (1000, 2)):
        frames, size = [int(frame) for frame in function(count, most)], min(count, most)
        even = len(frames) == size and np.abs(frames - np.linspace(0, count - 1, size)).max() <= 1
        wrong += [] if even else [(count, most)]
    _say(not wrong, f"for (count, most) = {wrong[:1]}: min(count, most) numbers from 0 to count - 1")


def _say(right: bool, hint: str) -> None:
    print("right" if right else f"not yet: {hint}")
