"""The checkers behind the notebooks' exercises: each prints "right", or "not yet" and what is missing.

None of them raises on a wrong answer, so that a notebook with open exercises runs to its end.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from v4s_lib.data.episodes import flip_axes
from v4s_lib.data.windows import latent_frame_range
from v4s_lib.evaluation.judges import best_of, box_overlap
from v4s_lib.evaluation.picture import pooled_psnr
from v4s_lib.training.full import latents_of
from v4s_lib.training.loss import LossConfig
from v4s_lib.training.presets import Preset
from v4s_lib.worlds.cameras import pose, rotation_angle, translation_distance


def _say(right: bool, hint: str) -> None:
    print("right" if right else f"not yet: {hint}")


def check_turn(path: Tensor, degrees: float, frames: int) -> None:
    """00: a path (F, 4, 4) of ``frames`` poses that ends ``degrees`` away from its start and stays on the spot."""
    turned = rotation_angle(path[0], path[-1]).item()
    walked = translation_distance(path[0], path[-1]).item()
    right = len(path) == frames and abs(turned - degrees) < 1 and walked < 0.01
    hint = f"{len(path)} poses, turned by {turned:.0f} degrees, walked {walked:.2f} m"
    _say(right, f"{hint}; wanted {frames} poses, {degrees:.0f} degrees, 0 m")


def check_context_frames(frames: Sequence[int], context_index: Tensor) -> None:
    """00: the numbers of all scan frames that the latents ``context_index`` hold, in order."""
    truth = [frame for latent in context_index.tolist() for frame in latent_frame_range(latent)]
    _say(list(frames) == truth, f"{len(frames)} frames named; latent k holds frames 4k-3 to 4k, latent 0 frame 0 alone")


def check_allowed(answer: int | None) -> None:
    """01: of 32 latents, how many may be context for a target at latents 12 to 19 with a gap of 4."""
    _say(answer == 32 - 8 - 2 * 4, "take the target's 8 latents and 4 on either side of them from 32")


def check_flip(function: Callable[[Tensor], Tensor]) -> None:
    """01: from nerfstudio's camera axes (OpenGL) to OpenCV's, for poses (..., 4, 4)."""
    c2w = pose(torch.tensor([[1.0, 2.0, 1.5]]), torch.tensor([0.4]), torch.tensor([-0.2]))
    answer = function(flip_axes(c2w))
    same = isinstance(answer, Tensor) and answer.shape == c2w.shape and torch.allclose(answer, c2w, atol=1e-6)
    _say(same, "the y and z axes of the camera change their sign; its position stays")


def check_tokens(answer: int | None, preset: Preset) -> None:
    """02: tokens of the whole sequence, context and target."""
    latents = preset.task.context_latents + preset.task.target_latents
    rows, columns = preset.model["position_size"]
    _say(answer == latents * rows * columns, "(context latents + target latents) * rows * columns of a latent")


def check_guide(function: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """02: joint guidance from the unconditional and the conditional output (PAPER.md §2)."""
    free, conditional = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0])
    answers = [function(free, conditional, scale) for scale in (0.0, 1.0, 2.0)]
    truths = [torch.tensor(values) for values in ([1.0, -2.0], [3.0, 1.0], [5.0, 4.0])]
    same = all(isinstance(a, Tensor) and torch.allclose(a, b) for a, b in zip(answers, truths, strict=True))
    _say(same, "scale 0 gives the unconditional output, 1 the conditional one, 2 goes as far again beyond it")


def check_weight(function: Callable[[Tensor], Tensor]) -> None:
    """03: what a squared error of clean latents counts at noise level sigma."""
    sigma = torch.tensor([0.05, 0.3, 0.5, 1.0])
    answer, floor = function(sigma), LossConfig().min_sigma
    same = isinstance(answer, Tensor) and torch.allclose(answer, sigma.clamp(min=floor) ** -2)
    _say(same, f"the error is divided by max(sigma, {floor}) before it is squared")


def check_uses_context(function: Callable[[float, float, float], bool]) -> None:
    """03: from ``psnr_recall`` with its own, another room's and no context, whether a model uses its context."""
    cases = {(16.0, 12.0, 13.0): True, (13.1, 13.0, 13.1): False, (14.0, 13.9, 11.0): False, (12.0, 14.0, 13.0): False}
    wrong = [case for case, truth in cases.items() if bool(function(*case)) != truth]
    _say(not wrong, f"at {wrong[:1]} you say otherwise; its own context must beat both controls by at least 0.5 dB")


def check_latents(answer: int | None) -> None:
    """04: latents of a video of 81 frames."""
    _say(answer == latents_of(81), "frame 0 alone is one latent, and every four frames after it are one")


def check_block_operations(function: Callable[[int, int, int, int], int]) -> None:
    """04: operations of a block without text, for n tokens that attend to m, of width d and inner width f."""
    sizes = {"n": 7, "m": 19, "d": 12, "f": 50}
    n, m, d, f = sizes.values()
    answer, truth = function(**sizes), 8 * n * d**2 + 4 * n * m * d + 4 * n * d * f
    _say(answer == truth, f"for {sizes} you have {answer:,} of {truth:,}")


def check_pooled(function: Callable[[Tensor, Tensor], float]) -> None:
    """05: PSNR of a clip with the squared error pooled over all pixels of all frames."""
    truth = torch.zeros(2, 4, 4, 3)
    video = torch.stack([torch.full((4, 4, 3), 0.01), torch.full((4, 4, 3), 0.5)])
    answer, expected = function(video, truth), pooled_psnr(video, truth)
    close = isinstance(answer, float | Tensor) and abs(float(answer) - expected) < 1e-3
    _say(close, f"for errors 0.01 and 0.5 in two frames it is {expected:.2f} dB, not the mean of 40 dB and 6 dB")


def check_accuracy(function: Callable[[Tensor, Tensor, Tensor], float]) -> None:
    """05: navigation accuracy from rotation errors (degrees), translation errors (metres) and failures (F,)."""
    rotation, translation = torch.tensor([1.0, 4.9, 5.1, 2.0, 2.0]), torch.tensor([0.1, 0.2, 0.1, 0.3, 0.1])
    failed = torch.tensor([False, False, False, False, True])
    answer = function(rotation, translation, failed)
    close = isinstance(answer, float | Tensor) and abs(float(answer) - 0.4) < 1e-6
    _say(close, "two of the five frames count, by all that section 5 asks of a frame")


def check_best_of(function: Callable[[int, int, int], float]) -> None:
    """06: the chance that one of k samples passes, from how many passed of how many."""
    cases = [(0, 5, 3), (1, 5, 1), (2, 5, 2), (1, 5, 5), (3, 4, 2)]
    answers = [function(*case) for case in cases]
    numbers = all(isinstance(answer, int | float) for answer in answers)
    wrong = [c for c, a in zip(cases, answers, strict=True) if not numbers or abs(a - best_of(*c)) > 1e-6]
    _say(not wrong, f"at (passed, samples, k) = {wrong[:1]}: draw k of the samples without putting one back")


def check_overlap(function: Callable[[Tensor, Tensor], float]) -> None:
    """06: intersection over union of two boxes (4,) of first and last rows and columns, both included."""
    boxes = [torch.tensor(box) for box in ([2, 5, 2, 5], [4, 7, 2, 5], [6, 9, 6, 9])]
    wrong = [b.tolist() for b in boxes if abs(float(function(boxes[0], b)) - box_overlap(boxes[0], b)) > 1e-6]
    _say(not wrong, f"rows and columns 2 to 5 against {wrong[:1]}: the last row and column belong to a box")


def check_verdict(function: Callable[[int, int, bool], str]) -> None:
    """10: the word for how many checks of a claim hold, and whether the decisive ones do."""
    words = ("reproduced", "reproduced in part", "not reproduced", "not reproduced", "reproduced")
    known = dict(zip([(3, 3, True), (1, 3, True), (0, 3, True), (2, 3, False), (1, 1, True)], words, strict=True))
    said = {case: function(*case) for case in known}
    wrong = [case for case in known if said[case] != known[case]]
    first = f"(held, count, decided) = {wrong[0]} is not {said[wrong[0]]!r}" if wrong else ""
    _say(not wrong, f"{len(wrong)} of {len(known)} words are others; {first}; section 2 has the rule")


def check_bar(function: Callable[[float, float, float, float], bool]) -> None:
    """10: whether a whole interval is at or above a bar."""
    known = {(2.0, 3.0, 4.0, 1.9): True, (2.0, 3.0, 4.0, 2.5): False, (2.0, 3.0, 4.0, 3.5): False}
    wrong = [case for case, answer in known.items() if bool(function(*case)) != answer]
    _say(not wrong, f"with low, mean, high and bar {wrong[:1]} you say otherwise: draw the interval, and the bar")
