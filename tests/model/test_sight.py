"""The optional sight: what is solved from true pairs is exact, and the context stays a function of itself alone."""

import math
from dataclasses import replace

import pytest
import torch

from tests.model.drawn import disturbed, errors, randn
from v4s_lib.model import alignment
from v4s_lib.model.alignment import NEIGHBOURS, Pairs, Points, align, between, chain, pair_up
from v4s_lib.model.finder import Finder
from v4s_lib.model.fusion import agree
from v4s_lib.model.outputs import Findings
from v4s_lib.model.places import agree_all, on_the_way, place_context, place_start
from v4s_lib.model.sight import KEY, LEAST_CELL, Seen, Sight
from v4s_lib.worlds.cameras import check_rigid, inverse, pose, rotation_angle, turning

CLOSE = {"atol": 1e-5, "rtol": 0}
FINDS = {"text_dim": 6, "vocabulary": ["ball", "red", "the"], "find_words": 4}
SEES = {"localize_after": 1, "see_places": 4, "position_size": (4, 6)}
TIMES = torch.tensor([[0, 2, 3], [1, 2, 5]])  # of three latents in two scans


@pytest.fixture
def sight() -> Sight:
    torch.manual_seed(0)
    return Sight(8, (2, 3), 90.0).eval()


def true_pairs(c2w: torch.Tensor, count: int = 400, seed: int = 5) -> Pairs:
    """Pairs between the frames (R, n, 4, 4) of R rooms, from points scattered in the room."""
    rooms, frames = c2w.shape[:2]
    place = torch.cat([3 * randn(rooms, count, 3, seed=seed), torch.ones(rooms, count, 1)], dim=-1)
    generator = torch.Generator().manual_seed(seed + 1)
    of_one = torch.randint(0, frames, (rooms, count), generator=generator)
    of_other = (of_one + torch.randint(1, frames, (rooms, count), generator=generator)) % frames
    room = torch.arange(rooms)[:, None]
    sides = [
        Points((inverse(c2w)[room, of] @ place[..., None])[..., :3, 0], torch.full((rooms, count), 0.1))
        for of in (of_one, of_other)
    ]
    return Pairs(*sides, of_one, of_other, torch.ones(rooms, count))


@pytest.mark.parametrize(("wrong", "turn", "shift"), [(0.0, 0.5, 0.03), (0.3, 2, 0.2)])
def test_frames_are_placed_by_what_they_share_without_a_guess(make_path, wrong, turn, shift):
    """Each is paired with its neighbours alone, so that the first is reached by way of all others."""
    truth = make_path(2, 5)
    truth = inverse(truth[:, -1:]) @ truth
    pairs = true_pairs(truth, count=2000)
    near = (pairs.of_one - pairs.of_other).abs() == 1
    bad = torch.rand(near.shape, generator=torch.Generator().manual_seed(0)) < wrong
    pairs.other.place = torch.where(bad[..., None], 3 * randn(*bad.shape, 3, seed=9), pairs.other.place)
    found = chain(replace(pairs, weight=near.float()), 5)
    check_rigid(found, "poses")
    assert torch.equal(found[:, -1], torch.eye(4).expand(2, 4, 4))
    off = errors(found, truth)
    assert off[0] < turn and off[1] < shift


def test_a_chain_takes_the_way_for_which_most_speaks(make_path):
    """The pairs of the first and the last frame are wrong, but half as many: one goes by way of the second."""
    truth = make_path(1, 3)
    truth = inverse(truth[:, -1:]) @ truth
    pairs = true_pairs(truth, count=900)
    direct = (pairs.of_one - pairs.of_other).abs() == 2
    pairs.other.place = torch.where(direct[..., None], pairs.other.place + 1, pairs.other.place)
    for weight, home in ((0.02, True), (0.5, True), (1.0, False)):
        found = chain(replace(pairs, weight=torch.where(direct, weight, 1.0)), 3)
        assert (errors(found, truth)[1] < 0.05) == home


def test_a_strip_of_points_does_not_turn_a_frame_about_it(monkeypatch):
    """20 times, its depths off by a tenth: half a turn about it fits as well, but frames stand near each other."""
    height = torch.linspace(-1, 1, 60)
    strip = torch.stack([torch.full_like(height, 0.5), height, torch.full_like(height, 2.0)], dim=-1)
    turn = turning(torch.tensor([0.0, 1.0, 0.0]))
    places = (strip * (1 + 0.1 * randn(20, 60, 1, seed=1)), strip @ turn.T * (1 + 0.1 * randn(20, 60, 1, seed=2)))
    of = torch.zeros(20, 60, dtype=torch.long)
    pairs = Pairs(*(Points(place, torch.full((20, 60), 0.1)) for place in places), of, of, torch.ones(20, 60))
    truth, worst = torch.eye(4), []
    truth[:3, :3] = turn
    for near in (alignment.NEAR, 1e6):
        monkeypatch.setattr(alignment, "NEAR", near)
        worst.append(rotation_angle(between(pairs, 1, 1)[0][:, 0, 0], truth).max())
    assert worst[0] < 10 and worst[1] > 90


def test_between_frames_that_share_nothing_nothing_speaks_for_a_pose(make_path):
    pairs = replace(true_pairs(make_path(2, 3)), weight=torch.zeros(2, 400))
    c2w, weight = between(pairs, 3, 3)
    assert c2w.shape == (2, 3, 3, 4, 4) and (weight == 0).all()
    check_rigid(c2w, "poses")


@pytest.mark.parametrize("latents", [(0, 1, 3, 6), (2, 3, 5), (1, 9)])
def test_frames_between_two_latents_are_on_the_way(latents):
    """A camera that turns by 4 degrees and walks by 0.1 m a frame; latent 0 holds one frame, whatever its number."""
    frames = torch.arange(40)
    truth = pose(torch.stack([0.1 * frames, 0 * frames, 0 * frames], dim=-1), torch.deg2rad(4.0 * frames), 0.0 * frames)
    latents = torch.tensor(latents)
    numbers = (4 * latents[:, None] + torch.arange(-3, 1)).clamp(min=0)
    for offset in (0, 500):
        found = on_the_way(truth[4 * latents][None], latents[None] + offset, latents[None] == 0)[0]
        torch.testing.assert_close(found, truth[numbers], atol=1e-4, rtol=0)
    alone = on_the_way(truth[None, 8:9], torch.tensor([[2]]), torch.tensor([[False]]))
    torch.testing.assert_close(alone, truth[None, 8:9, None].expand(-1, -1, 4, -1, -1), **CLOSE)


def test_how_quickly_a_camera_moves_is_told_by_the_shorter_step():
    """It stands still from latent 1 to 5, and has turned by 40 degrees at latent 6: so it turned within that one."""
    truth = pose(torch.zeros(3, 3), torch.deg2rad(torch.tensor([0.0, 0.0, 40.0])), torch.zeros(3))
    found = on_the_way(truth[None], torch.tensor([[1, 5, 6]]), torch.zeros(1, 3, dtype=torch.bool))[0]
    for latent, degrees in ((0, 0.0), (1, 30.0), (2, 30.0)):
        first = rotation_angle(found[latent, 0], found[latent, 3])
        torch.testing.assert_close(first, torch.tensor(degrees), atol=1e-3, rtol=0)


def test_true_pairs_bring_all_frames_home(make_path):
    truth = make_path(3, 5)
    guess = disturbed(truth, 6, 0.2, seed=7)
    guess[:, -1] = truth[:, -1]
    assert errors(guess, truth)[0] > 5
    found = align(guess, true_pairs(truth), slice(0, 4))
    turn, shift = errors(found, truth)
    assert turn < 0.5 and shift < 0.03  # the guess counts for a little, too
    assert torch.equal(found[:, -1], guess[:, -1])
    check_rigid(found, "poses")


def test_wrong_pairs_are_let_go(make_path):
    truth = make_path(2, 5)
    pairs = true_pairs(truth)
    wrong = torch.rand(pairs.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    pairs.other.place = torch.where(wrong[..., None], 3 * randn(*wrong.shape, 3, seed=9), pairs.other.place)
    guess = disturbed(truth, 3, 0.1, seed=7)
    guess[:, -1] = truth[:, -1]
    turn, shift = errors(align(guess, pairs, slice(0, 4)), truth)
    assert turn < 1.5 and shift < 0.1


def test_pairs_that_do_not_count_leave_the_guess(make_path):
    truth = make_path(2, 4)
    guess = disturbed(truth, 6, 0.2, seed=3)
    pairs = replace(true_pairs(truth), weight=torch.zeros(2, 400))
    torch.testing.assert_close(align(guess, pairs, slice(0, 3)), guess, **CLOSE)


def test_doubt_is_along_the_ray(make_path):
    """Depths that are 30% wrong hurt less when they are doubted, and rays are not, than when neither is."""
    truth = make_path(1, 4)
    guess = disturbed(truth, 3, 0.1, seed=7)
    guess[:, -1] = truth[:, -1]
    pairs = true_pairs(truth)
    scale = torch.exp(0.3 * randn(1, 400, 1, seed=4))
    results = []
    for doubt in (0.3, 0.02):  # 0.02 is as much as rays are off: the same every way
        pairs.one = Points(true_pairs(truth).one.place * scale, torch.full((1, 400), doubt))
        results.append(errors(align(guess, pairs, slice(0, 3)), truth)[1])
    assert results[0] < 0.1 and results[0] < results[1] / 2


@torch.no_grad()
def test_a_cell_is_paired_with_the_cell_of_its_key(sight):
    """Keys are one-hot: cell i of the first frame is cell i + 1 of the third, and nothing is in the second."""
    cells = 4 * 6
    assert cells + 1 < KEY
    keys = torch.zeros(1, 3, cells, KEY)
    keys[0, 0, :, :cells] = torch.eye(cells)
    keys[0, 2, :, :cells] = torch.eye(cells).roll(1, dims=0)
    keys[0, 1, :, -1] = 1
    sight.nothing.fill_(-1.0)
    sight.log_scale.fill_(4.0)
    depth = randn(1, 3, cells, seed=1) / 5
    seen = Seen(keys, depth, torch.zeros(1, 3, cells))
    pairs, _ = pair_up(sight, seen.each(lambda x: x[:, :1]), seen, torch.tensor([[False, True, True]]))
    best = pairs.weight.view(cells, NEIGHBOURS).argmax(dim=1)
    assert (pairs.of_other.view(cells, NEIGHBOURS).gather(1, best[:, None]) == 2).all()
    assert (pairs.of_one == 0).all()
    place = pairs.other.place.view(cells, NEIGHBOURS, 3)[torch.arange(cells), best]
    expected = (depth[0, 2].exp()[:, None] * sight.rays()).roll(-1, dims=0)
    torch.testing.assert_close(place, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_few_frames_at_a_time_are_paired_as_all_together(sight, monkeypatch):
    """Five frames of two rooms: two at a time, and one that is left over."""
    sight.log_scale.fill_(4.0)
    frames, allowed = (2, 5, 24), torch.ones(5, 5, dtype=torch.bool).tril(-1)
    keys = torch.nn.functional.normalize(randn(*frames, KEY, seed=0), dim=-1)
    seen = Seen(keys, randn(*frames, seed=1) / 5, randn(*frames, seed=2) / 5)
    found = []
    for together in (5, 2):
        monkeypatch.setattr(alignment, "AT_ONCE", together)
        pairs, shown = pair_up(sight, seen, seen, allowed)
        found.append([pairs.one.place, pairs.other.doubt, pairs.of_one, pairs.of_other, pairs.weight, shown])
    for together, some in zip(*found, strict=True):
        torch.testing.assert_close(some, together, atol=1e-6, rtol=0)
    assert found[1][2].max() == 4


def test_rays_go_through_the_middles_of_cells(sight):
    rays = sight.rays().view(4, 6, 3)
    assert (rays[..., 2] == 1).all()
    torch.testing.assert_close(rays[0, 0], torch.tensor([-5 / 6, -3 / 6, 1]))  # 90 degrees over 24 pixels
    torch.testing.assert_close(rays[3, 5], torch.tensor([5 / 6, 3 / 6, 1]))


@torch.no_grad()
def test_noise_stands_at_the_identity(sight):
    latents = randn(2, 4 * 3 * 64, 3, 2, 3, seed=4)
    placed, frames = place_context(sight, latents, sight(latents), TIMES, torch.tensor([True, False]))
    nowhere = torch.eye(4).expand(3, 4, 4, 4)
    assert torch.equal(placed[0], nowhere) and (placed[1, :-1] - nowhere[:-1]).abs().amax(dim=(1, 2, 3)).min() > 1e-2
    assert torch.equal(placed[1, -1, -1], torch.eye(4))
    check_rigid(placed, "poses")
    assert torch.equal(frames.c2w, placed[:, :, -1])


@torch.no_grad()
def test_where_poses_are_told_nothing_is_worked_out(sight, make_path):
    told = make_path(2, 12, seed=1).unflatten(1, (3, 4))
    latents, blind = randn(2, 4 * 3 * 64, 3, 2, 3, seed=4), torch.tensor([True, False])
    placed, frames = place_context(sight, latents, sight(latents), TIMES, blind, told)
    assert torch.equal(placed, told) and torch.equal(frames.c2w, told[:, :, -1])
    start, known = latents[:, :, :1], make_path(2, 1, seed=2)[:, None].expand(-1, -1, 4, -1, -1)
    seen = sight(start)
    stands, shared = place_start(sight, start, seen, frames, known)
    assert torch.equal(stands, known) and shared[0] == 0 and shared[1] > 0
    _, as_found = place_start(sight, start, seen, frames)
    assert torch.equal(shared, as_found)  # how much a context shows is not told


@torch.no_grad()
def test_told_poses_leave_depths_to_be_made_to_agree(sight, make_path):
    told = make_path(2, 12, seed=1).unflatten(1, (3, 4))
    latents, nothing = randn(2, 4 * 3 * 64, 3, 2, 3, seed=4), torch.zeros(2, dtype=torch.bool)
    seen = sight(latents)
    among = agree(sight, seen, told[:, :, -1])
    _, with_older = agree_all(sight, latents, among, told)
    for quick, expected in ((True, among), (False, with_older)):
        _, frames = place_context(sight, latents, seen, TIMES, nothing, told, quick)
        assert torch.equal(frames.seen.log_depth, expected.log_depth)
    assert not torch.equal(among.log_depth, with_older.log_depth)


@torch.no_grad()
def test_a_cached_context_gives_what_an_uncached_one_gives(make_transformer, inputs):
    model = make_transformer(**SEES, **FINDS)
    inputs["words"] = torch.tensor([[2, 1, 0], [3, 1, 0]] * 2)
    expected, findings = model(**inputs, return_findings=True)
    assert findings.context_poses.shape == (2, 5, 4, 4, 4) and findings.target_poses.shape == (4, 3, 4, 4, 4)
    cache = model.encode_context(inputs.pop("context_latents"), inputs.pop("context_time_index"))
    torch.testing.assert_close(model(**inputs, context_cache=cache), expected, **CLOSE)


@torch.no_grad()
def test_a_context_of_noise_places_no_start_frame(make_transformer, inputs):
    """At the timestep of noise it stands at the identity; among clean frames it does not."""
    model, off = make_transformer(**SEES), []
    for timestep in (1000.0, 0.0):
        findings = model(**inputs, context_timestep=torch.full((2,), timestep), return_findings=True)[1]
        off.append((findings.target_poses[:, 0] - torch.eye(4)).abs().max())
    assert off[0] < 1e-5 < 1e-3 < off[1]


@torch.no_grad()
def test_a_context_of_one_latent_is_enough(make_transformer, inputs):
    model = make_transformer(**SEES)
    inputs |= {"context_latents": inputs["context_latents"][:, :, :1], "context_time_index": torch.zeros(2, 1).long()}
    output, findings = model(**inputs, return_findings=True)
    assert torch.isfinite(output).all()
    torch.testing.assert_close(findings.context_poses[:, -1, -1], torch.eye(4).expand(2, 4, 4), **CLOSE)


def test_sight_is_taught_by_what_is_seen_alone(make_transformer, inputs):
    model = make_transformer(**SEES)
    output, _ = model(**inputs, return_findings=True)
    output.square().mean().backward()
    assert all(parameter.grad is None for parameter in model.sight.parameters())
    compared = model(**inputs, only_seen=True).compared
    cells = 4 * 6 * 4 // LEAST_CELL * 4 // LEAST_CELL
    assert compared.context_logits.shape == (2, 2 * cells, 1 + 5 * cells)  # the first and the fourth of five frames
    assert compared.start_logits.shape == (4, cells, 1 + 5 * cells)
    looked = compared.context_logits[..., 1:].view(2, 2, cells, 5, cells)
    assert (looked[:, 1, :, 3] < -1e3).all() and (looked[:, 1, :, [0, 1, 2, 4]] > -1e3).all()  # all but its own
    (compared.context_logits.mean() + compared.context.log_depth.mean() + compared.start.log_doubt.mean()).backward()
    assert all(parameter.grad is not None for parameter in model.sight.parameters())


@torch.no_grad()
def test_where_a_thing_stands_is_told_as_seen_from_the_start(make_path):
    """All choice on the second of three points: its offset in the room, from the start frame, and where that stands."""
    torch.manual_seed(0)
    finder = Finder(dim=84, text_dim=6, patch=4, places=True)
    finder.tell_place.weight.copy_(torch.eye(84))
    points, start = randn(1, 3, 3, seed=1), make_path(1, 1)[0]
    told = finder.place(torch.tensor([[0.0, 0, 80, 0]]), points, start)[0, 0]
    away = points[0, 1] - start[0, :3, 3]
    seen = inverse(start)[0] @ torch.cat([points[0, 1], torch.ones(1)])
    value = torch.cat([away, seen[:3], start[0, :3, 3], start[0, :3, 2]])
    torch.testing.assert_close(told[:12], value, **CLOSE)
    torch.testing.assert_close(told[12:24], (value * math.pi / 4).sin(), **CLOSE)


@torch.no_grad()
def test_where_a_thing_stands_reaches_what_is_drawn(make_transformer, inputs):
    model = make_transformer(**SEES, **FINDS)
    inputs |= {"words": torch.tensor([[2, 1, 0], [3, 1, 0]] * 2)}
    drawn = model(**inputs)
    model.finder.tell_place.weight.mul_(-1)
    assert (model(**inputs) - drawn)[:, :, 1:].abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3


@torch.no_grad()
def test_the_steps_are_told_of_the_thing_that_was_drawn(make_transformer, inputs):
    """What is known of an earlier call stays, and is told as if it had been found: here one cell."""
    model, known = make_transformer(**SEES, **FINDS), Findings()
    inputs |= {"words": torch.tensor([[2, 1, 0], [3, 1, 0]] * 2)}
    likeliest = model(**inputs, known=known)
    torch.testing.assert_close(model(**inputs, known=known), likeliest, **CLOSE)
    known.found = torch.zeros_like(known.found)
    known.found[:, 7] = 50
    assert (model(**inputs, known=known) - likeliest)[:, :, 1:].abs().max() > 1e-3


@torch.no_grad()
def test_a_plan_turns_to_what_was_found_and_stands_still_in_the_tail(make_transformer, inputs):
    """Of four targets two are told words that name nothing: they stay. A model with sight has no head that plans."""
    model = make_transformer(**SEES, **FINDS)
    assert not hasattr(model.localizer, "pose")
    cache = model.encode_context(inputs.pop("context_latents"), inputs.pop("context_time_index"))
    words = torch.tensor([[2, 1, 0], [3, 1, 0]] * 2)
    findings = model(**inputs | {"camera_path": None}, words=words, context_cache=cache, only_findings=True)
    findings.found[:] = 0
    findings.found[1::2, 0] = 50
    findings.found[::2, 7] = 50
    way = model.plan(findings, cache, tail=1)
    assert way.shape == (4, 3, 4, 4, 4) and torch.equal(way[:, 0], findings.start[:, 0])
    assert torch.equal(way[1::2], findings.target_poses[1::2])
    assert torch.equal(way[1::2, 1:], findings.start[1::2, :, -1:].expand(2, 2, 4, 4, 4))
    seen = way[::2, 1:]
    assert torch.equal(seen[:, 1], seen[:, 0, -1:].expand(2, 4, 4, 4))
    place = cache.frames.points(model.sight, 4)[::2, 6]
    away = torch.nn.functional.normalize(place - seen[:, -1, -1, :3, 3], dim=-1)
    torch.testing.assert_close(seen[:, -1, -1, :3, 2], away, atol=1e-3, rtol=0)


def test_what_sight_needs(make_transformer):
    with pytest.raises(ValueError, match=r"^expected patch_size and in_channels .* for see_places 8, got .*: it looks"):
        make_transformer(**SEES | {"see_places": 8})
    for cell in (0, 6, 8):
        with pytest.raises(ValueError, match=f"^expected a cell of 4, 8, .*, of which patches of 4 .* got {cell}: "):
            make_transformer(**SEES | {"cell": cell})
    with pytest.raises(ValueError, match="^expected a localizer for see_places, got localize_after None"):
        make_transformer(**SEES | {"localize_after": None})
