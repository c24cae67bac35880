"""Rooms built by hand, seen from known places: depth, area, colour and ids are known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from v4s_lib.worlds.cameras import Camera, inverse, pose
from v4s_lib.worlds.paths import scan_path
from v4s_lib.worlds.raycast import Render, render
from v4s_lib.worlds.scenes import SLOTS, TEXELS, Scenes, make_scenes, scene_seed

SIZE = (6.0, 5.0, 3.0)
SQUARE = Camera(101, 101, 60)  # an odd number of pixels: the middle one looks straight ahead
MIDDLE = (50, 50)


def room(*primitives: tuple) -> Scenes:
    """An empty grey room with primitives ``(kind, centre, half sizes, taper, instance)``, each of its own colour."""
    rows = {kind: [] for kind in SLOTS}
    for kind, centre, half, taper, instance in primitives:
        rows[kind].append((centre, half, taper, (instance / 100, 0.5, 0.5), instance))
    empty = ((0, 0, -100), (1e-3, 1e-3, 1e-3), 1, (0, 0, 0), -1)
    columns = zip(
        *[row for kind in SLOTS for row in rows[kind] + [empty] * (SLOTS[kind] - len(rows[kind]))], strict=True
    )
    center, half, taper, color, instance = (torch.tensor(np.array(column)).float()[None] for column in columns)
    light = torch.tensor([[0.0, 0.0, 1.0]])
    free = torch.tensor([[1.0, 1.0]])
    textures = (torch.arange(6) / 10 + 0.1).view(1, 6, 1, 1, 1).expand(1, 6, TEXELS, TEXELS, 3)
    return Scenes(torch.tensor([SIZE]), textures, light, center, half, taper, color, instance.long(), free, free, [[]])


def things(picture: Render) -> set[int]:
    """Ids in the picture, walls, floor and ceiling left out."""
    return {instance for instance in picture.instance.unique().tolist() if instance > 5}


def look(scenes: Scenes, place: tuple, yaw: float = 0, pitch: float = 0, camera: Camera = SQUARE) -> Render:
    angles = torch.deg2rad(torch.tensor([yaw, pitch], dtype=torch.float32))
    c2w = pose(torch.tensor(place, dtype=torch.float32), angles[0], angles[1])[None]
    return render(scenes, torch.zeros(1, dtype=torch.long), c2w, camera, samples=1)


@pytest.mark.parametrize(
    ("yaw", "pitch", "surface", "distance"),
    [(180, 0, 0, 2), (0, 0, 1, 4), (-90, 0, 2, 1.5), (90, 0, 3, 3.5), (0, -90, 4, 1.2), (0, 90, 5, 1.8)],
)
def test_walls_floor_and_ceiling_are_where_they_are(yaw, pitch, surface, distance):
    picture = look(room(), (2.0, 1.5, 1.2), yaw, pitch, Camera(9, 9, 20))
    assert (picture.instance == surface).all()
    # Depth is along the optical axis: the same all over a wall that one looks at squarely.
    torch.testing.assert_close(picture.depth, torch.full_like(picture.depth, distance), atol=1e-4, rtol=0)


def test_depth_of_an_oblique_wall():
    picture = look(room(), (2.0, 2.5, 1.5), yaw=30, camera=Camera(1, 1, 20))
    assert picture.depth.item() == pytest.approx(4 / math.cos(math.radians(30)), abs=1e-4)


def test_a_ball_straight_ahead_has_the_known_depth_area_and_id():
    distance, radius = 2.0, 0.5
    picture = look(room(("ellipsoid", (3.5, 2.5, 1.5), (radius,) * 3, 1, 20)), (1.5, 2.5, 1.5))
    assert picture.depth[0][MIDDLE].item() == pytest.approx(distance - radius, abs=1e-4)
    # Seen along its axis a ball is a disc of radius f r / sqrt(d^2 - r^2).
    disc = math.pi * (SQUARE.focal * radius) ** 2 / (distance**2 - radius**2)
    covered = picture.instance == 20
    assert covered.sum().item() == pytest.approx(disc, rel=0.01)
    assert things(picture) == {20}
    # Light from above: no part of the ball is darker than the ambient light, the top is the brightest.
    red = picture.rgb[0, :, 50, 0]
    ball = covered[0, :, 50].nonzero()[:, 0]
    assert red[ball].argmax() == 0
    assert red[ball].min().item() == pytest.approx(0.65 * 0.2, abs=1e-3)


def test_a_box_straight_ahead_has_the_known_depth_area_and_id():
    picture = look(room(("box", (4.0, 2.5, 1.5), (0.5, 0.4, 0.3), 1, 7)), (1.5, 2.5, 1.5))
    assert picture.depth[0][MIDDLE].item() == pytest.approx(2.0, abs=1e-4)
    face = (2 * 0.4 * SQUARE.focal / 2.0) * (2 * 0.3 * SQUARE.focal / 2.0)
    assert (picture.instance == 7).sum().item() == pytest.approx(face, rel=0.04)
    assert picture.rgb[0][MIDDLE].tolist() == pytest.approx(
        [0.65 * 0.07, 0.325, 0.325], abs=1e-5
    )  # lit from above only


@pytest.mark.parametrize("taper", [1.0, 0.5, 2.0, 0.1])
def test_a_frustum_has_the_known_depth_from_the_side_and_from_above(taper):
    foot, reach = 0.4, 0.5
    scenes = room(("frustum", (4.0, 2.5, 1.0), (foot, foot, reach), taper, 21))
    for height in (0.7, 1.0, 1.3):
        radius = foot * (1 + (taper - 1) * (height - 0.5) / (2 * reach))
        picture = look(scenes, (1.5, 2.5, height))
        assert picture.depth[0][MIDDLE].item() == pytest.approx(2.5 - radius, abs=1e-4)
        assert picture.instance[0][MIDDLE] == 21
    above = look(scenes, (4.0, 2.5, 2.9), pitch=-90)
    assert above.depth[0][MIDDLE].item() == pytest.approx(2.9 - 1.5, abs=1e-4)
    below = look(scenes, (4.0, 2.5, 0.1), pitch=90)
    assert below.depth[0][MIDDLE].item() == pytest.approx(0.4, abs=1e-4)
    assert above.instance[0][MIDDLE] == below.instance[0][MIDDLE] == 21


def test_the_nearest_thing_hides_the_others_and_nothing_is_seen_behind():
    near, far = ("box", (3.0, 2.5, 1.5), (0.1, 0.4, 0.4), 1, 7), ("ellipsoid", (4.0, 2.5, 1.5), (0.3,) * 3, 1, 20)
    assert things(look(room(near, far), (1.5, 2.5, 1.5))) == {7}
    assert look(room(near, far), (5.5, 2.5, 1.5), yaw=180).instance[0][MIDDLE] == 20
    assert things(look(room(near, far), (3.5, 2.5, 1.5), yaw=90)) == set()
    behind = ("frustum", (4.5, 2.5, 1.5), (0.1, 0.1, 0.5), 0.5, 21)
    assert things(look(room(near, far, behind), (5.0, 2.5, 1.5))) == set()


def rooms_and_views(frames: int = 6) -> tuple[Scenes, Tensor]:
    scenes = make_scenes([scene_seed("validation", 5)])
    return scenes, scan_path(scenes, torch.Generator().manual_seed(0), frames=frames * 16)[0, ::16]


def test_rendered_points_lie_in_the_box_of_the_object_they_show():
    scenes, c2w = rooms_and_views(12)
    camera = Camera(48, 72)
    picture = render(scenes, torch.zeros(len(c2w), dtype=torch.long), c2w, camera, samples=1)
    rays = camera.rays()[:, :, 0]
    points = torch.einsum("fij,fhwj->fhwi", c2w[:, :3, :3], rays * picture.depth[..., None]) + c2w[:, None, None, :3, 3]
    seen = 0
    for item in scenes.objects[0]:
        inside = points[picture.instance == item.instance]
        seen += len(inside) > 0
        assert (inside > torch.tensor(item.box_min) - 1e-3).all() and (inside < torch.tensor(item.box_max) + 1e-3).all()
    assert seen >= 3
    pixel, depth = camera.project(
        torch.einsum("fij,fhwj->fhwi", inverse(c2w)[:, :3, :3], points - c2w[:, None, None, :3, 3])
    )
    torch.testing.assert_close(depth, picture.depth, atol=1e-3, rtol=0)


def test_more_rays_a_pixel_reduce_the_error_at_edges():
    """Against the mean of 9x9 rays a pixel, from a picture nine times as large."""
    scenes, c2w = rooms_and_views()
    index = torch.zeros(len(c2w), dtype=torch.long)
    fine = render(scenes, index, c2w, Camera(24 * 9, 36 * 9), samples=1, chunk=1).rgb
    truth = fine.view(len(c2w), 24, 9, 36, 9, 3).mean(dim=(2, 4))
    pictures = [render(scenes, index, c2w, Camera(24, 36), samples).rgb for samples in (1, 3, 5)]
    errors = [(picture - truth).square().mean().item() for picture in pictures]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.8 * errors[1]


def test_size_of_a_chunk_changes_nothing_and_scenes_do_not_mix():
    seeds = [scene_seed("validation", index) for index in range(3)]
    scenes = make_scenes(seeds)
    c2w = scan_path(scenes, torch.Generator().manual_seed(0), frames=2).flatten(0, 1)
    index = torch.tensor([0, 0, 1, 1, 2, 2])
    together = render(scenes, index, c2w, Camera(16, 24), samples=3, chunk=5)
    for n, seed in enumerate(seeds):
        alone = render(make_scenes([seed]), torch.zeros(2, dtype=torch.long), c2w[2 * n : 2 * n + 2], Camera(16, 24), 3)
        torch.testing.assert_close(together.rgb[2 * n : 2 * n + 2], alone.rgb)
        assert torch.equal(together.instance[2 * n : 2 * n + 2], alone.instance)
    assert together.rgb.min() >= 0 and together.rgb.max() <= 1


def test_rooms_without_their_empty_slots_look_the_same_to_the_bit():
    scenes = make_scenes([scene_seed("validation", 3)])
    few = scenes.without_empty_slots()
    assert sum(few.kinds) == few.half.shape[1] < sum(SLOTS.values()) and all(few.kinds)
    c2w = pose(scenes.free_min[:1].repeat(4, 2)[:, :3].clamp(max=1.5), torch.arange(4.0), torch.full((4,), -0.2))
    room = torch.zeros(4, dtype=torch.long)
    shown = [render(rooms, room, c2w, Camera(32, 48), samples=3) for rooms in (scenes, few)]
    for name in ("rgb", "depth", "instance"):
        assert torch.equal(getattr(shown[0], name), getattr(shown[1], name))
    assert (shown[1].instance > 5).any()
