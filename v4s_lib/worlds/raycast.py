"""A batched ray caster: colour, depth and instance ids of rooms, on any device, with torch alone.

Every ray meets the room's box from inside and every primitive from outside; the nearest hit is shaded with one
directional light. Several rays a pixel are averaged against aliasing; depth and ids are those of the centre ray.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.scenes import TEXELS, Scenes

AMBIENT = 0.65  # share of the light that comes from everywhere
FAR = 1e4


@dataclass
class Render:
    """N rendered frames."""

    rgb: Tensor  # (N, H, W, 3) in 0..1
    depth: Tensor  # (N, H, W) metres along the optical axis
    instance: Tensor  # (N, H, W) instance ids, see Scenes


def render(
    scenes: Scenes,
    scene_index: Tensor,
    c2w: Tensor,
    camera: Camera,
    samples: int = 5,
    chunk: int = 4,
    compiled: bool = False,
) -> Render:
    """Render frame n of scene ``scene_index[n]`` from ``c2w[n]``.

    Args:
        scenes: the rooms, on the device to render on.
        scene_index: (N,) which room each frame shows.
        c2w: (N, 4, 4) poses.
        camera: shared intrinsics and size.
        samples: rays a pixel: 1, 3 or 5.
        chunk: frames at a time; small on a CPU (its cache), large on a GPU.
        compiled: use torch.compile: several times faster after some seconds of compiling, equal but for rounding.
    """
    render_chunk = _compiled_chunk() if compiled else _render_chunk
    rays = camera.rays(samples, c2w.device)
    parts = [
        render_chunk(scenes, scene_index[i : i + chunk], c2w[i : i + chunk], rays) for i in range(0, len(c2w), chunk)
    ]
    return Render(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@cache
def _compiled_chunk() -> Callable:
    return torch.compile(_render_chunk)


def _render_chunk(scenes: Scenes, scene_index: Tensor, c2w: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    height, width, samples, _ = rays.shape
    direction = rays.reshape(-1, 3) @ c2w[:, :3, :3].transpose(1, 2)  # (n, R, 3); its length is depth's unit
    direction = torch.where(direction.abs() < 1e-6, 1e-6, direction)
    origin = c2w[:, :3, 3]
    surface_t, surface = _hit_room(scenes.room[scene_index], origin, direction)
    primitive_t, primitive = _hit_primitives(scenes, scene_index, origin, direction)
    is_primitive = primitive_t < surface_t
    t = torch.minimum(primitive_t, surface_t)
    point = origin[:, None] + t[..., None] * direction

    frame = torch.arange(len(scene_index), device=c2w.device)[:, None].expand_as(t)
    painted = _surface_color(scenes, scene_index, surface, point)
    solid, normal = _primitive_color(scenes, scene_index[frame], primitive, point)
    shade = AMBIENT + (1 - AMBIENT) * (normal * scenes.light[scene_index][:, None]).sum(-1).clamp(min=0)
    color = torch.where(is_primitive[..., None], solid * shade[..., None], painted)
    ids = torch.where(is_primitive, scenes.instance[scene_index[frame], primitive], surface)

    shape = (len(scene_index), height, width, samples)
    return color.view(*shape, 3).mean(dim=3), t.view(shape)[..., 0], ids.view(shape)[..., 0]


def _hit_room(size: Tensor, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (n, R) to the wall, floor or ceiling a ray leaves the room through, and which one (n, R)."""
    plane = torch.where(direction > 0, size[:, None], 0.0)
    t, axis = ((plane - origin[:, None]) / direction).min(dim=-1)
    positive = direction.gather(-1, axis[..., None])[..., 0] > 0
    upright = axis == 2
    return t, torch.where(upright, 4 + positive.long(), 2 * axis + positive.long())


def _hit_primitives(scenes: Scenes, scene_index: Tensor, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (n, R) to the nearest primitive (FAR where there is none) and its slot (n, R)."""
    half = scenes.half[scene_index]
    offset = origin[:, None] - scenes.center[scene_index]
    taper = scenes.taper[scene_index][..., None]
    offset, half = (tensor.transpose(1, 2)[..., None] for tensor in (offset, half))  # (n, 3, P, 1)
    ray = direction.transpose(1, 2).contiguous()[:, :, None]  # (n, 3, 1, R): rays last, where the loops are fast
    boxes, ellipsoids = scenes.kinds[0], scenes.kinds[0] + scenes.kinds[1]
    distances = torch.cat(
        [
            _hit_boxes(offset[:, :, :boxes], half[:, :, :boxes], ray),
            _hit_ellipsoids(offset[:, :, boxes:ellipsoids], half[:, :, boxes:ellipsoids], ray),
            _hit_frusta(offset[:, :, ellipsoids:], half[:, :, ellipsoids:], taper[:, ellipsoids:], ray),
        ],
        dim=1,
    )
    return distances.min(dim=1)


def _hit_boxes(offset: Tensor, half: Tensor, ray: Tensor) -> Tensor:
    """Slab test: a ray is inside after it entered the last pair of faces and before it left the first."""
    inverse = 1 / ray
    reach, middle = half * inverse.abs(), -offset * inverse
    enter, leave = (middle - reach).amax(dim=1), (middle + reach).amin(dim=1)
    return torch.where((enter < leave) & (enter > 0), enter, FAR)


def _hit_ellipsoids(offset: Tensor, half: Tensor, ray: Tensor) -> Tensor:
    """First root of |offset + t ray| = 1 in the ellipsoid's own units."""
    offset, ray = offset / half, ray / half
    a, b, c = (ray * ray).sum(1), (ray * offset).sum(1), (offset * offset).sum(1) - 1
    t = (-b - (b * b - a * c).clamp(min=0).sqrt()) / a
    return torch.where((b * b > a * c) & (t > 0), t, FAR)


def _hit_frusta(offset: Tensor, half: Tensor, taper: Tensor, ray: Tensor) -> Tensor:
    """Side of an upright cone cut at foot and top, and the end disc that faces the ray."""
    radius, reach = half[:, 0], half[:, 2]
    slope = radius * (taper - 1) / (2 * reach)  # the radius grows by this much a metre
    middle = radius * (1 + taper) / 2
    (x, y, z), (dx, dy, dz) = offset.unbind(1), ray.unbind(1)
    at_origin, change = middle + slope * z, slope * dz
    a = dx * dx + dy * dy - change * change
    b = x * dx + y * dy - at_origin * change
    c = x * x + y * y - at_origin * at_origin
    t = (-b - (b * b - a * c).clamp(min=0).sqrt()) / a
    on_side = (b * b > a * c) & ((z + t * dz).abs() < reach) & (t > 0)
    side = torch.where(on_side, t, FAR)
    up = -torch.sign(dz)
    t = (up * reach - z) / dz
    disc = middle + slope * up * reach
    on_disc = ((x + t * dx) ** 2 + (y + t * dy) ** 2 < disc * disc) & (t > 0)
    return torch.where(on_disc, torch.minimum(t, side), side)


def _surface_color(scenes: Scenes, scene_index: Tensor, surface: Tensor, point: Tensor) -> Tensor:
    """Texture of the room's surfaces at ``point`` (n, R, 3), darker towards the floor and the corners."""
    place = (point / scenes.room[scene_index][:, None]).clamp(0, 1 - 1e-6)
    column = torch.where(surface < 2, place[..., 1], place[..., 0])
    row = torch.where(surface < 4, place[..., 2], place[..., 1])
    frame_scene = scene_index[:, None].expand_as(surface)
    color = scenes.textures[frame_scene, surface, (row * TEXELS).long(), (column * TEXELS).long()]
    corner = (4 * place * (1 - place)).clamp(max=0.25).sum(-1)
    return color * (0.7 + 0.4 * corner)[..., None]


def _primitive_color(scenes: Scenes, scene: Tensor, primitive: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Colour and outward normal (n, R, 3) of the primitives hit at ``point``."""
    half = scenes.half[scene, primitive]
    local = (point - scenes.center[scene, primitive]) / half
    steepest = local.abs().argmax(dim=-1, keepdim=True)
    box = torch.zeros_like(local).scatter(-1, steepest, local.gather(-1, steepest).sign())
    ellipsoid = local / half
    taper = scenes.taper[scene, primitive]
    slope = half[..., 0] * (1 - taper) / (2 * half[..., 2])
    side = torch.stack([local[..., 0], local[..., 1], slope * local[..., :2].norm(dim=-1)], dim=-1)
    cap = torch.zeros_like(local)
    cap[..., 2] = local[..., 2].sign()
    frustum = torch.where(local[..., 2:].abs() > 0.999, cap, side)
    is_box = (primitive < scenes.kinds[0])[..., None]
    is_frustum = (primitive >= scenes.kinds[0] + scenes.kinds[1])[..., None]
    normal = torch.where(is_box, box, torch.where(is_frustum, frustum, ellipsoid))
    return scenes.color[scene, primitive], torch.nn.functional.normalize(normal, dim=-1)
