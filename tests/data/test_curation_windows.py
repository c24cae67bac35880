"""Windows of rendered rooms: those that must go are dropped for their reason, and captions tell what is seen."""

import shutil
from dataclasses import asdict, replace

import pytest
import torch
from skimage.filters import gaussian

from tests.data.layouts import change_json
from v4s_lib.data.boxes import is_centred, mask_box
from v4s_lib.data.curation_windows import REASONS, Rules, curate_scan, find_goal, judge, measure
from v4s_lib.data.episodes import Episode, EpisodeObject, load_episode, write_episode
from v4s_lib.data.instructions import NAVIGATION
from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.worlds.paths import latent_frames
from v4s_lib.worlds.raycast import render
from v4s_lib.worlds.scenes import make_scenes

RULES = Rules(length=8, gap=4, context=6, step=1, height=32, width=48)
STOOL = 15  # in demo_0002, the latent from which on a window ends on the stool
LAST = STOOL + RULES.length - 1


@pytest.fixture(scope="module")
def scan() -> Episode:
    return load_episode(MANIFESTS / "scans/demo_0002")


def changed(scan: Episode, first: int, frames: torch.Tensor, c2w: torch.Tensor | None = None) -> Episode:
    """The scan with other frames, and poses, from the frame ``first`` on."""
    part = slice(first, first + len(frames))
    all_frames, all_c2w = scan.frames.clone(), scan.c2w.clone()
    all_frames[part] = frames
    if c2w is not None:
        all_c2w[part] = c2w
    return replace(scan, frames=all_frames, c2w=all_c2w)


def shown(scan: Episode, frame: int) -> torch.Tensor:
    """The truth: instance ids (H, W) of a frame."""
    return render(make_scenes([scan.scene_seed]), torch.tensor([0]), scan.c2w[[frame]], scan.camera, 1).instance[0]


def test_windows_of_a_demo_scan_end_on_what_their_captions_name(scan):
    windows, counts = curate_scan("demo_0002", MANIFESTS / "scans/demo_0002", RULES)
    assert counts["candidates"] == 17 == sum(counts[name] for name in (*REASONS, "navigation", "grounding"))
    assert [w.first for w in windows] == sorted(w.first for w in windows) and len(windows) + counts["unseen"] == 17
    for window in windows:
        end = latent_frames(window.first + window.length) - 1
        if window.kind == "navigation":
            assert window.instruction == NAVIGATION and window.object is None and window.box is None
            continue
        mask = shown(scan, end) == window.object
        (item,) = (item for item in scan.objects if item.instance == window.object)
        assert is_centred(mask) and not (shown(scan, 4 * window.first) == window.object).any()
        assert f"focuses on an {item.label} in the center" in window.instruction  # an orange stool
        assert max(abs(a - b) for a, b in zip(window.box, mask_box(mask).tolist(), strict=True)) <= 1
    assert [w.first for w in windows if w.kind == "grounding"] == [STOOL]


def test_a_blurred_copy_is_dropped_as_unsharp(scan):
    frames = slice(4 * STOOL, latent_frames(STOOL + RULES.length))
    blurred = gaussian(scan.frames[frames] / 255, sigma=(0, 1, 1, 0)) * 255
    copy = changed(scan, 4 * STOOL, torch.from_numpy(blurred).round().byte())
    assert judge(measure(copy, RULES), STOOL, RULES)[0] == "unsharp"
    assert judge(measure(scan, RULES), STOOL, RULES)[0] is None


def test_a_camera_that_stands_still_or_jumps_is_dropped(scan):
    still = changed(scan, 60, scan.frames[60].expand(33, -1, -1, -1), scan.c2w[60].expand(33, -1, -1))
    assert judge(measure(still, RULES), STOOL, RULES)[0] == "still"
    lost = scan.c2w[80:].clone()
    lost[:, 0, 3] += 1.5  # metres
    assert judge(measure(changed(scan, 80, scan.frames[80:], lost), RULES), STOOL, RULES)[0] == "jumping"


def of_unit(scan: Episode, scale: float) -> Episode:
    """The scan without depth in a unit that nobody knows; a power of two keeps every digit."""
    c2w = scan.c2w.clone()
    c2w[:, :3, 3] *= scale
    objects = tuple(
        replace(item, box_min=tuple(scale * v for v in item.box_min), box_max=tuple(scale * v for v in item.box_max))
        for item in scan.objects
    )
    return replace(scan, c2w=c2w, objects=objects, scene_seed=None, metric=False)


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_a_scan_of_unknown_unit_gives_the_same_windows_whatever_the_unit(scan, tmp_path, scale):
    found = {}
    for name, unit in (("plain", 1.0), ("scaled", scale)):
        whole = of_unit(scan, unit)
        write_episode(tmp_path / name, whole.frames, whole.c2w, whole.camera, whole.objects, metric=False)
        found[name] = curate_scan("scan", tmp_path / name, RULES)
    assert found["plain"] == found["scaled"]
    windows, counts = found["scaled"]
    assert counts["still"] == counts["jumping"] == 0 and [w.first for w in windows if w.kind == "grounding"] == [STOOL]
    steps = (scan.c2w[4::4, :3, 3] - scan.c2w[:-4:4, :3, 3]).norm(dim=1)
    for window in windows:
        assert "metres" not in window.scores
        mean = (steps[window.first : window.first + RULES.length - 1].mean() / steps.median()).item()
        assert window.scores["steps"] == pytest.approx(mean, abs=1e-3)
    assert all("steps" not in w.scores for w in curate_scan("s", MANIFESTS / "scans/demo_0002", RULES)[0])


def test_a_scan_of_unknown_unit_stands_still_or_jumps_by_its_own_steps(scan):
    """A thousandfold unit, so that by metres all of it jumps; without turns, so that steps alone decide."""
    c2w = scan.c2w[:1].repeat(len(scan.frames), 1, 1)
    c2w[:, 0, 3] = torch.arange(len(c2w)) * 250.0  # a step of 1000 from latent to latent
    slow, fast = c2w.clone(), c2w.clone()
    slow[60:, 0, 3] = c2w[60, 0, 3] + torch.arange(len(c2w) - 60) * 20.0  # a step of 80
    fast[80:, 0, 3] += 9500  # once a step of 10500
    for path, reason in ((slow, "still"), (fast, "jumping")):
        measured = measure(replace(of_unit(scan, 1.0), c2w=path), RULES)
        assert judge(measured, STOOL, RULES)[0] == reason
    slow[60:, 0, 3] = c2w[60, 0, 3] + torch.arange(len(c2w) - 60) * 30.0  # a step of 120
    fast[80:, 0, 3] -= 1000  # once a step of 9500
    for path in (slow, fast):
        measured = measure(replace(of_unit(scan, 1.0), c2w=path), RULES)
        assert judge(measured, STOOL, RULES)[0] not in ("still", "jumping")
    metric = measure(replace(scan, c2w=fast, scene_seed=None), RULES)
    assert judge(metric, STOOL, RULES)[0] == "jumping"


def test_captions_name_the_place(tmp_path):
    shutil.copytree(MANIFESTS / "scans/demo_0002", tmp_path / "scan")
    change_json(tmp_path / "scan/transforms.json", place="park")
    windows = {window.first: window for window in curate_scan("scan", tmp_path / "scan", RULES)[0]}
    for window in curate_scan("scan", MANIFESTS / "scans/demo_0002", RULES)[0]:
        said = asdict(windows[window.first]) | {"instruction": None}
        assert said == asdict(window) | {"instruction": None}
        assert windows[window.first].instruction == window.instruction.replace(" a room", " a park")
    assert windows[STOOL].kind == "grounding" and "through a park." in windows[STOOL].instruction


def test_a_frame_that_the_context_holds_drops_the_window(scan):
    again = changed(scan, 3, scan.frames[80][None])
    assert judge(measure(again, RULES), STOOL, RULES)[0] == "repeated"


def test_windows_need_a_context_and_one_that_has_seen_what_they_show(scan):
    measured = measure(scan, RULES)
    assert judge(measured, STOOL, replace(RULES, context=12))[0] == "gap"  # 24 latents, of which 13 are too near
    assert judge(measured, STOOL, replace(RULES, context=11))[0] is None
    assert judge(measured, 8, RULES)[0] == "unseen"  # eight latents of context look elsewhere
    assert judge(measure(replace(scan, scene_seed=None), RULES), 8, RULES)[0] == "unseen"


def test_without_depth_poses_alone_find_the_same_window(scan):
    measured = measure(replace(scan, scene_seed=None), RULES)
    assert measured.depth is None
    reason, scores = judge(measured, STOOL, RULES)
    item, box = find_goal(measured, STOOL, RULES)
    assert reason is None and item.label == "orange stool"
    true = mask_box(shown(scan, latent_frames(LAST + 1) - 1) == item.instance)
    assert (true - torch.tensor(box)).abs().max() <= 2  # a round thing does not fill the box around it
    assert scores["covisible"] == pytest.approx(judge(measure(scan, RULES), STOOL, RULES)[1]["covisible"], abs=0.1)


def test_what_a_sensor_has_measured_serves_as_the_depth_of_a_generated_room(scan, tmp_path):
    scenes, c2w = make_scenes([scan.scene_seed]), scan.c2w[::4]
    depth = render(scenes, torch.zeros(len(c2w), dtype=torch.long), c2w, scan.camera, 1).depth
    generated, sensed = measure(scan, RULES), measure(replace(scan, scene_seed=None, depth=depth), RULES)
    assert torch.equal(sensed.depth, generated.depth) and torch.equal(sensed.shares, generated.shares)
    nominal = measure(replace(scan, scene_seed=None), RULES)
    assert not torch.equal(nominal.shares, generated.shares)  # what boxes hide one another is not known
    for first in range(len(c2w) - RULES.length + 1):
        assert judge(sensed, first, RULES) == judge(generated, first, RULES)
        assert find_goal(sensed, first, RULES) == find_goal(generated, first, RULES)
    assert find_goal(sensed, STOOL, RULES)[1] != find_goal(nominal, STOOL, RULES)[1]
    behind = depth.clone()
    behind[LAST] = 0.5  # a hand before the lens
    assert find_goal(measure(replace(scan, scene_seed=None, depth=behind), RULES), STOOL, RULES) is None


def test_a_sensors_depth_follows_every_stride_and_size(scan):
    """Each depth is its number in metres, farther below, with sides that the smaller view cuts off."""
    twice = replace(scan, frames=scan.frames.repeat_interleave(2, 0)[:-1], c2w=scan.c2w.repeat_interleave(2, 0)[:-1])
    depth = torch.arange(1.0, 48)[:, None, None].repeat(1, 16, 24)  # 185 frames, 47 of them with a depth
    depth[:, 8:] += 100  # near and far meet, and nothing is between them
    depth[:, :, :4] = depth[:, :, -4:] = 99
    rules = replace(RULES, stride=2, height=32, width=32)
    measured = measure(replace(twice, scene_seed=None, depth=depth), rules)
    assert measured.depth.shape == (24, 32, 32)
    assert torch.equal(measured.depth[:, 7, 9], torch.arange(1.0, 48, 2))
    assert measured.depth[5].unique().tolist() == [11, 111]


def test_nothing_of_the_same_name_is_in_the_start_frame(scan):
    (stool,) = (item for item in scan.objects if item.label == "orange stool")
    ahead = scan.c2w[4 * STOOL, :3, 3] + 2 * scan.c2w[4 * STOOL, :3, 2]
    other = EpisodeObject("orange stool", 99, tuple((ahead - 0.3).tolist()), tuple((ahead + 0.3).tolist()))
    unseeded = replace(scan, scene_seed=None, objects=(stool,))
    assert find_goal(measure(unseeded, RULES), STOOL, RULES)[0] == stool
    assert find_goal(measure(replace(unseeded, objects=(stool, other)), RULES), STOOL, RULES) is None


def test_labels_of_real_scans_are_named_and_walls_are_not_focused_on(scan, tmp_path):
    (stool,) = (item for item in scan.objects if item.label == "orange stool")
    ahead = scan.c2w[4 * LAST, :3, 3] + 1.4 * scan.c2w[4 * LAST, :3, 2]
    wall = EpisodeObject("wall", 1, tuple((ahead - 0.7).tolist()), tuple((ahead + 0.7).tolist()))
    chair = replace(stool, label="office chair")
    share = measure(replace(scan, scene_seed=None, objects=(wall,)), RULES).shares[0]
    assert share[STOOL] == 0 and share[LAST] > 0.5 and share[:11].max() > 0.1  # all is right but its size
    write_episode(tmp_path / "scan", scan.frames, scan.c2w, scan.camera, [wall, chair])
    windows, counts = curate_scan("scan", tmp_path / "scan", RULES)
    assert counts["grounding"] == 1
    assert [w.instruction for w in windows if w.object == stool.instance] == [
        "The camera moves smoothly through a room. Finally, it focuses on an office chair in the center of the frame."
    ]


def test_every_second_frame_at_another_size_shows_the_same_object_in_a_larger_box(scan, tmp_path):
    large = scan.frames.repeat_interleave(6, dim=1).repeat_interleave(6, dim=2)  # decord reads it
    large, c2w = (part.repeat_interleave(2, dim=0)[:-1] for part in (large, scan.c2w))
    write_episode(tmp_path / "scan", large, c2w, replace(scan.camera, height=192, width=288), scan.objects)
    windows, _ = curate_scan("scan", tmp_path / "scan", replace(RULES, stride=2, height=192, width=288))
    (goal,) = (w for w in windows if w.kind == "grounding")
    small = find_goal(measure(replace(scan, scene_seed=None), RULES), STOOL, RULES)[1]
    assert goal.first == STOOL
    assert (torch.tensor(goal.box) / 6 - torch.tensor(small)).abs().max() < 1.5


def test_a_scan_without_cameras_or_shorter_than_a_window_gives_nothing(tmp_path):
    shutil.copytree(MANIFESTS / "scans/demo_0000", tmp_path / "scan")
    assert curate_scan("scan", tmp_path / "scan", replace(RULES, length=25))[1]["candidates"] == 0
    (tmp_path / "scan/transforms.json").unlink()
    windows, counts = curate_scan("scan", tmp_path / "scan", RULES)
    assert windows == [] and counts["unposed"] == counts["candidates"] == 17
