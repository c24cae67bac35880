"""All four frames of every latent, placed by the shipped weights' sight: known poses, disturbed, are found again."""

import torch

from tests.model.drawn import disturbed, errors
from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.windows import grouped_frames
from v4s_lib.model.places import PlacedFrames, place_start, refine_all
from v4s_lib.model.refinement import Pictures
from v4s_lib.training.presets import SMALL
from v4s_lib.training.weights import load_pipeline
from v4s_lib.worlds.cameras import check_rigid, inverse

INDEX = torch.arange(2, 18)


@torch.no_grad()
def test_frames_of_a_scan_are_refined_together():
    episode, pipeline = navigation_episode("validation", 0, SMALL.task), load_pipeline("small")
    sight, codec = pipeline.transformer.sight, pipeline.codec
    frames = grouped_frames(INDEX)
    latents = codec.encode_groups(episode.scan.rgb[frames][None]).repeat(2, 1, 1, 1, 1)
    to_last = inverse(episode.scan_c2w[frames[-1, -1]])
    truth = (to_last @ episode.scan_c2w[frames]).repeat(2, 1, 1, 1, 1)
    guess = disturbed(truth, 2.0, 0.08, seed=1)
    guess[:, -1, -1] = truth[:, -1, -1]
    seen, blind = sight(latents), torch.tensor([False, True])
    placed, known = refine_all(sight, latents, seen, guess, blind)
    check_rigid(placed, "poses")
    for frame in range(4):
        before, after = (errors(poses[:1, :, frame], truth[:1, :, frame], "mean") for poses in (guess, placed))
        assert after[0] < 0.7 * before[0] and after[1] < 0.8 * before[1]
    assert torch.equal(placed[:, -1, -1], truth[:, -1, -1])
    assert torch.equal(placed[1], guess[1])  # what is blind stays
    assert torch.equal(known.c2w, placed[:, :, -1])
    assert torch.equal(known.stand[:, :-16].unflatten(1, (16, 3)), placed[:, :, :-1])
    assert torch.equal(known.stand[:, -16:], placed[:, :, -1])
    pictures = 2 * episode.scan.rgb[frames].permute(0, 1, 4, 2, 3) - 1
    assert torch.allclose(known.pictures.color[0, :-16].unflatten(0, (16, 3)), pictures[:, :-1], atol=1e-6)
    assert torch.allclose(known.pictures.color[0, -16:], pictures[:, -1], atol=1e-6)


@torch.no_grad()
def test_a_start_frame_is_placed_nearer_than_in_training():
    """Among frames whose poses and depths are true, so that its own refinement is all that differs."""
    pipeline, off = load_pipeline("small"), {True: [], False: []}
    sight, codec, frames = pipeline.transformer.sight, pipeline.codec, grouped_frames(INDEX)
    for room in range(3):
        episode = navigation_episode("validation", room, SMALL.task)
        seen = sight(codec.encode_groups(episode.scan.rgb[frames][None]))
        to_last = inverse(episode.scan_c2w[frames[-1, -1]])
        stand, rows = (to_last @ episode.scan_c2w[frames])[None], frames.flatten()
        color = 2 * episode.scan.rgb[rows].permute(0, 3, 1, 2) - 1
        shown = Pictures(color[None], episode.scan.depth[rows][None])
        known = PlacedFrames(seen, stand[:, :, -1], torch.tensor([False]), shown, stand.flatten(1, 2))
        start = codec.encode(episode.target.rgb[None, :1])
        for quick, found in off.items():
            placed, _ = place_start(sight, start, sight(start), known, quick=quick)
            found.append(errors(placed[0, 0, -1:], to_last @ episode.target_c2w[:1]))
    (quick_turn, quick_shift), (turn, shift) = (torch.tensor(off[quick]).mean(dim=0) for quick in (True, False))
    assert turn < 0.7 * quick_turn and shift < 0.7 * quick_shift
