"""Each checker accepts the answer and says "not yet" to what the notebook starts from; none of them raises."""

import pytest
import torch

from v4s_lib.data.windows import latent_frame_range
from v4s_lib.training.presets import get_preset
from v4s_lib.viewing import exercises
from v4s_lib.viewing.driver import extend_path
from v4s_lib.worlds.cameras import pose

START = pose(torch.tensor([2.0, 2.0, 1.5]), torch.tensor(0.3), torch.tensor(-0.1))[None]
SMALL = get_preset("small")
INDEX = torch.tensor([0, 3, 7])


def walk(*moves: str) -> torch.Tensor:
    path = START
    for move in moves:
        path = extend_path(path, move)
    return path


def pooled(video, truth):
    return -10 * torch.log10((video - truth).square().mean())


def best_of(passed, samples, k):
    failing = 1.0
    for drawn in range(k):  # all of k fail, one after the other
        failing *= max(0, samples - passed - drawn) / (samples - drawn)
    return 1 - failing


def overlap(first, second):
    rows, columns = torch.arange(16)[:, None], torch.arange(16)[None]
    masks = [(rows >= a) & (rows <= b) & (columns >= c) & (columns <= d) for a, b, c, d in (first, second)]
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def accuracy(rotation, translation, failed):
    return ((rotation < 5) & (translation < 0.25) & ~failed).float().mean()


def tokens(preset) -> int:
    task, (rows, columns) = preset.task, preset.model["position_size"]
    return (task.context_latents + task.target_latents) * rows * columns


def word(held, count, decided):
    return "reproduced" if held == count else "reproduced in part" if held and decided else "not reproduced"


CASES = [
    ("check_turn", (walk(*["turn left"] * 3), 60, 13), (walk("turn right"), 60, 13)),
    ("check_context_frames", ([f for i in INDEX.tolist() for f in latent_frame_range(i)], INDEX), ([0, 3, 7], INDEX)),
    ("check_allowed", (16,), (None,)),
    ("check_flip", (lambda c2w: c2w @ torch.diag(torch.tensor([1.0, -1, -1, 1])),), (lambda c2w: c2w,)),
    ("check_tokens", (tokens(SMALL), SMALL), (None, SMALL)),
    ("check_latents", (21,), (None,)),
    ("check_block_operations", (lambda n, m, d, f: 4 * n * d * (2 * d + m + f),), (lambda n, m, d, f: 8 * n * d**2,)),
    ("check_guide", (lambda free, cond, scale: free + scale * (cond - free),), (lambda free, cond, scale: cond,)),
    ("check_weight", (lambda sigma: sigma.clamp(min=0.3) ** -2,), (torch.ones_like,)),
    ("check_uses_context", (lambda a, b, c: a > max(b, c) + 0.5,), (lambda a, b, c: a > c,)),
    ("check_pooled", (pooled,), (lambda video, truth: 23.0,)),
    ("check_best_of", (best_of,), (lambda passed, samples, k: min(1.0, passed / samples * k),)),
    ("check_overlap", (overlap,), (lambda first, second: float(torch.equal(first, second)),)),
    ("check_verdict", (word,), (lambda held, count, decided: "reproduced",)),
    ("check_bar", (lambda low, mean, high, bar: low >= bar,), (lambda low, mean, high, bar: mean >= bar,)),
    ("check_accuracy", (accuracy,), (lambda rotation, translation, failed: (rotation < 5).float().mean(),)),
]


@pytest.mark.parametrize(("name", "answer", "start"), CASES, ids=[case[0] for case in CASES])
def test_checker_knows_the_answer_from_the_start(name, answer, start, capsys):
    check = getattr(exercises, name)
    check(*answer)
    assert capsys.readouterr().out == "right\n"
    check(*start)
    assert capsys.readouterr().out.startswith("not yet: ")


def test_every_checker_is_tested():
    checkers = {name for name in dir(exercises) if name.startswith("check_")}
    assert checkers == {case[0] for case in CASES}
