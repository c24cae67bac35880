"""Training samples are a function of seed, process and step, and what belongs together stays together."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.data.rooms import make_rooms
from v4s_lib.model.pose import relative_to_start
from v4s_lib.training.data import RoomStream, draw_sample, step_seed, time_indices
from v4s_lib.training.loss import Sample
from v4s_lib.training.presets import SMOKE

CLOSE = {"atol": 1e-5, "rtol": 0}


def equal(first: Sample, second: Sample) -> bool:
    return all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Sample))


@pytest.fixture(scope="module")
def stream() -> RoomStream:
    stream = RoomStream(SMOKE, 0, "cpu")
    stream.sample(5)
    return stream


def draw(stream: RoomStream, seed: int) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    return draw_sample(list(stream.groups.values()), stream.task(5), stream.codec, generator)


def scan_latents(stream: RoomStream, sample: Sample, row: int) -> Tensor:
    """Which of its room's rendered scan latents a context holds, found by their pixels."""
    context = stream.codec.decode_groups(sample.context_latents)[row]
    same = (context[:, None] - list(stream.groups.values())[row].scan_frames[0]).flatten(2).abs().amax(dim=2) < 1e-6
    assert (same.sum(dim=1) == 1).all()
    return same.int().argmax(dim=1)


def test_a_sample_is_a_function_of_seed_process_and_step():
    walked, jumped = RoomStream(SMOKE, 0, "cpu"), RoomStream(SMOKE, 0, "cpu")
    samples = [walked.sample(step) for step in range(4)]
    assert equal(jumped.sample(3), samples[3])
    assert equal(jumped.sample(1), samples[1])  # backwards, too
    assert equal(jumped.sample(1), samples[1])
    others = [RoomStream(SMOKE, 1, "cpu").sample(3), RoomStream(SMOKE, 0, "cpu", 1, 2).sample(3), samples[2]]
    assert not any(torch.equal(other.target_latents, samples[3].target_latents) for other in others)


def test_one_group_of_rooms_in_reuse_is_new_at_each_step():
    stream = RoomStream(SMOKE, 0, "cpu")
    stream.sample(0)
    first = stream.groups
    stream.sample(1)
    assert (list(first), list(stream.groups)) == ([0, 1], [1, 2])
    assert stream.groups[1] is first[1]


def test_no_room_is_met_twice_by_steps_processes_or_seeds():
    rooms = []
    for seed, process in ((0, 0), (0, 1), (1, 0)):
        stream = RoomStream(replace(SMOKE, reuse=1), seed, "cpu", process, processes=2)
        for step in range(2):
            stream.sample(step)
            rooms += [tuple(size) for size in stream.groups[step].scenes.room.tolist()]
    assert len(rooms) == len(set(rooms)) == 12
    seeds = [step_seed(seed, step, process) for seed in range(3) for step in range(9) for process in range(8)]
    assert len(seeds) == len(set(seeds))


def test_the_curriculum_grows_by_step_to_the_task():
    preset = replace(SMOKE, first_reach=0.2, first_spread=10.0, ramp_steps=100)
    preset = replace(preset, task=replace(preset.task, reach=0.6, spread=90.0))
    stream = RoomStream(preset, 0, "cpu")
    values = [(stream.task(step).reach, stream.task(step).spread) for step in (0, 25, 100, 5000)]
    assert values == [pytest.approx(pair) for pair in ((0.2, 10), (0.3, 30), (0.6, 90), (0.6, 90))]
    assert stream.task(5000) == preset.task


def test_rooms_to_locate_in_hold_start_frames_alone():
    preset = RoomStream.for_locating(SMOKE)
    sample = RoomStream(preset, 0, "cpu").sample(0)
    assert len(sample.context_latents) == SMOKE.locate_contexts
    count = SMOKE.locate_contexts * SMOKE.locate_targets
    assert sample.target_latents.shape[:1] + sample.target_latents.shape[2:3] == (count, 1)


def test_a_mix_holds_its_share_of_parks_in_which_nothing_is_sought():
    """A park is far larger than a room; its things have names that no instruction knows."""
    mixed = replace(SMOKE.task, parks=0.5, grounding=1.0)
    batches = [make_rooms([seed], mixed, 2) for seed in range(16)]
    parks = [float(batch.scenes.room[0, 0]) > 20 for batch in batches]
    assert 3 < sum(parks) < 13
    for batch, park in zip(batches, parks, strict=True):
        assert not park or (batch.sought == -1).all() and set(batch.instructions[0]) == {NAVIGATION}
    assert any((batch.sought != -1).any() for batch in batches)
    rooms = make_rooms([parks.index(False)], replace(mixed, parks=0.0), 2)
    assert float(rooms.scenes.room[0, 0]) < 20
    assert RoomStream.for_locating(replace(SMOKE, task=mixed)).task.parks == 0


def test_time_indices_cover_their_range_and_keep_the_gap(stream):
    """Scans of 8 latents and a gap of 4: a target starts 12 after the scan's first latent."""
    lowest, highest = 1023, 0
    for seed in range(200):
        sample = draw(stream, seed)
        context, target = sample.context_time_index, sample.target_time_index
        assert (context.diff(dim=1) > 0).all() and (target.diff(dim=1) == 1).all()
        before = target[:, :1].unflatten(0, (-1, SMOKE.task.targets))[:, 0] - context
        assert before.min() > SMOKE.task.gap and before.max() <= 12
        lowest, highest = min(lowest, int(context.min())), max(highest, int(target.max()))
    assert 0 <= lowest < 30 and 990 < highest <= 1023


def test_the_context_of_the_longest_scan_may_stand_for_that_of_the_shortest(stream):
    task, batch = replace(SMOKE.task, scan_latents=(8, 14)), next(iter(stream.groups.values()))
    assert int(batch.start_index.max()) == 8 + task.gap
    draws = [time_indices(batch, torch.arange(2), task, torch.Generator().manual_seed(seed)) for seed in range(3000)]
    assert min(int(target.min()) for _, target in draws) - (14 + task.gap) in range(3)
    assert max(int(target.max()) for _, target in draws) in range(1021, 1024)


def test_targets_stay_with_their_context_path_and_room(stream):
    sample = draw(stream, 7)
    batches, targets = list(stream.groups.values()), SMOKE.task.targets
    frames = stream.codec.decode(sample.target_latents)
    for row in range(len(frames)):
        batch = batches[row // targets]  # one room a group
        matches = (batch.target_frames[0] - frames[row]).flatten(1).abs().amax(dim=1) < 1e-6
        assert matches.sum() == 1
        c2w = batch.target_c2w[0, matches]
        torch.testing.assert_close(sample.camera_path[row], relative_to_start(c2w)[0], **CLOSE)
    for row, batch in enumerate(batches):
        found = scan_latents(stream, sample, row)
        assert torch.equal(batch.time_index[0, found].diff(), sample.context_time_index[row].diff())


def test_context_poses_stand_in_the_axes_of_the_last_context_frame(stream):
    sample = draw(stream, 7)
    last = sample.context_poses[:, -1, -1]
    torch.testing.assert_close(last, torch.eye(4).expand_as(last), **CLOSE)
    for row, batch in enumerate(stream.groups.values()):
        scan = batch.scan_c2w[0, scan_latents(stream, sample, row)]
        torch.testing.assert_close(scan[-1, -1] @ sample.context_poses[row], scan, **CLOSE)
        starts = scan[-1, -1] @ sample.start_pose.unflatten(0, (-1, SMOKE.task.targets))[row]
        distance = (starts[:, None] - batch.target_c2w[0, :, 0]).flatten(2).abs().amax(dim=2).amin(dim=1)
        assert (distance < 1e-5).all()


def test_contexts_must_be_a_multiple_of_reuse():
    with pytest.raises(ValueError, match="^expected contexts to be a multiple of reuse, got 3 and 2"):
        RoomStream(replace(SMOKE, contexts=3), 0, "cpu")


def test_to_locate_the_last_frame_of_a_latent_stands_for_all_four():
    """The rooms are the same, so the last frames and their depths are, too."""
    locating = RoomStream.for_locating(SMOKE).task
    assert locating.only_last
    short, whole = (make_rooms([3, 4], replace(locating, only_last=last), 2) for last in (True, False))
    for name in ("scan_depth", "scan_c2w", "target_frames"):
        assert torch.equal(getattr(short, name), getattr(whole, name)), name
    assert torch.equal(short.scan_frames, whole.scan_frames[:, :, -1:].expand_as(short.scan_frames))
    assert (short.scan_frames - whole.scan_frames).abs().max() > 1e-2
