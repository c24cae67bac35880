"""The optional localizer: exact conversions, and a context that is still a function of itself alone."""

import pytest
import torch

from tests.model.drawn import randn
from v4s_lib.model.localizer import fall, place_path, pose_matrix, pose_numbers, smooth, turn_to
from v4s_lib.model.pose import relative_to_start
from v4s_lib.worlds.cameras import check_rigid, inverse, pose, rotation_angle, turning

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def inputs(latents, make_path) -> dict[str, torch.Tensor]:
    return {
        **latents,
        "camera_path": relative_to_start(make_path(4, 9)),
    }


def test_a_pose_comes_back_from_its_numbers(make_path):
    c2w = make_path(3, 9)
    torch.testing.assert_close(pose_matrix(pose_numbers(c2w)), c2w, **CLOSE)


def test_any_numbers_give_a_rigid_pose():
    """Even zeros, from which an untrained head starts, give finite numbers."""
    c2w = pose_matrix(randn(50, 3, 3, seed=2))
    check_rigid(c2w, "predicted poses")
    assert torch.isfinite(pose_matrix(torch.zeros(3, 3))).all()


@torch.no_grad()
def test_a_cached_context_gives_what_an_uncached_one_gives(make_transformer, inputs):
    model = make_transformer(localize_after=1, relative_time=True, ray_rotary=True)
    expected = model(**inputs)
    cache = model.encode_context(inputs.pop("context_latents"), inputs.pop("context_time_index"))
    torch.testing.assert_close(model(**inputs, context_cache=cache), expected, **CLOSE)


@torch.no_grad()
def test_poses_alone_are_those_that_the_whole_model_finds(make_transformer, inputs):
    model, found = make_transformer(localize_after=1, relative_time=True), []
    findings = model(**inputs, only_findings=True)
    context, target = findings.context_numbers, findings.target_numbers
    assert context.shape == (2, 5, 4, 3, 3) and target.shape == (4, 3, 4, 3, 3)
    model.localizer.register_forward_hook(lambda _, args, output: found.append(output))
    model(**inputs)
    torch.testing.assert_close(found[0], context, **CLOSE)
    torch.testing.assert_close(found[1], target, **CLOSE)


def by_ray(make_transformer, start: torch.Tensor, after: int = 0):
    """A ray-rotary model whose head says that every latent stands at ``start``, and that sees rays by rotation only."""
    model = make_transformer(localize_after=after, ray_rotary=True)
    model.localizer.pose.weight.zero_()
    model.localizer.pose.bias.copy_(pose_numbers(start).flatten().repeat(4))
    for layer in [*model.localizer.adapter, *model.pose_adapter, model.localizer.carry]:
        layer.weight.zero_()
        layer.bias.zero_()
    return model


@torch.no_grad()
def test_with_ray_rotary_a_common_turn_of_room_and_camera_changes_nothing_and_a_turn_of_the_camera_does(
    make_transformer, inputs
):
    """Only where a token looks relative to the others counts: rotary embedding turns queries, keys and values alike."""
    turn = torch.eye(4)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = 0.6, 0.8, -0.8, 0.6  # about the camera's own upright axis
    still = {**inputs, "camera_path": torch.eye(4).expand(4, 3, 4, 4, 4)}
    expected = by_ray(make_transformer, torch.eye(4))(**still)
    torch.testing.assert_close(by_ray(make_transformer, turn)(**still), expected, **CLOSE)
    turned = by_ray(make_transformer, torch.eye(4))(**{**still, "camera_path": turn.expand(4, 3, 4, 4, 4)})
    assert (turned - expected).abs().max() > 1e-3


@torch.no_grad()
def test_where_no_path_is_known_it_goes_where_the_model_plans_it(make_transformer, inputs):
    """The head says that no latent leaves the start, so the plan is to stay: the path of someone who stands."""
    model = by_ray(make_transformer, torch.eye(4))
    still = {**inputs, "camera_path": torch.eye(4).expand(4, 3, 4, 4, 4)}
    expected = model(**still)
    masked = model(**inputs, camera_mask=torch.zeros(4, dtype=torch.bool))
    torch.testing.assert_close(masked, expected, **CLOSE)
    without = {name: value for name, value in inputs.items() if name != "camera_path"}
    torch.testing.assert_close(model(**without), expected, **CLOSE)
    mixed = model(**inputs, camera_mask=torch.tensor([True, False, True, False]))
    torch.testing.assert_close(mixed[[1, 3]], expected[[1, 3]], **CLOSE)
    torch.testing.assert_close(mixed[[0, 2]], model(**inputs)[[0, 2]], **CLOSE)


def test_without_a_context_paths_stand_in_the_start_frames_axes(make_path):
    path, poses = relative_to_start(make_path(2, 9)), pose_matrix(randn(2, 3, 4, 3, 3, seed=6))
    torch.testing.assert_close(place_path(path, None, poses, has_context=False), path)
    planned = place_path(None, None, poses, has_context=False)
    torch.testing.assert_close(planned[:, 0], torch.eye(4).expand(2, 4, 4, 4))
    torch.testing.assert_close(planned[:, 1:], inverse(poses[:, :1, -1:]) @ poses[:, 1:])
    torch.testing.assert_close(place_path(path, None, poses, has_context=True), poses[:, :1, -1:] @ path)


@torch.no_grad()
@pytest.mark.parametrize("context_attention", ["one_way", "two_way"])
def test_true_poses_put_the_path_into_the_contexts_axes(make_transformer, make_path, inputs, context_attention):
    """A head that always says where the start frame stands: later blocks see start pose times path."""
    model = make_transformer(localize_after=0, context_attention=context_attention)
    plain = make_transformer(context_attention=context_attention)
    start = make_path(1, 1, seed=5)[0, 0]
    model.localizer.pose.weight.zero_()
    model.localizer.pose.bias.copy_(pose_numbers(start).flatten().repeat(4))
    for layer in [*model.localizer.adapter, model.localizer.carry]:
        layer.weight.zero_()
        layer.bias.zero_()
    plain.load_state_dict(model.state_dict(), strict=False)
    model.role_embedding[3] = model.role_embedding[0]  # the last context latent has a role of its own
    expected = plain(**{**inputs, "camera_path": start @ inputs["camera_path"]})
    torch.testing.assert_close(model(**inputs), expected, **CLOSE)


@torch.no_grad()
def test_the_later_blocks_begin_with_the_pixels_afresh(make_transformer, inputs):
    """Whatever the first block writes, nothing of it is left if nothing is carried and the head is constant."""
    model = by_ray(make_transformer, torch.eye(4), after=1)
    expected = model(**inputs)
    model.blocks[0].ffn.net[2].weight.mul_(-3)
    torch.testing.assert_close(model(**inputs), expected, **CLOSE)
    model.localizer.carry.weight.copy_(torch.eye(24))
    assert (model(**inputs) - expected).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("after", [1, 2])
def test_two_way_blocks_come_after_the_localizer(make_transformer, inputs, after):
    """What is kept of the context serves every step. The last block's own view of it comes too late to matter."""
    changes = {"localize_after": after, "num_layers": 3, "ray_rotary": True}
    model, one_way = make_transformer(context_attention="two_way", **changes), make_transformer(**changes)
    targets = {name: value for name, value in inputs.items() if not name.startswith("context")}
    expected, cache = model(**inputs), model.encode_context(inputs["context_latents"], inputs["context_time_index"])
    assert [kept is not None for kept in cache.blocks] == [i < after for i in range(3)]
    assert cache.stream.states.shape == (2, 5 * 6, 24)
    torch.testing.assert_close(model(**targets, context_cache=cache), expected, **CLOSE)
    moved = model(**targets | {"target_latents": targets["target_latents"].roll(1, 0)}, context_cache=cache)
    assert (moved - expected).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3  # nothing of a target is kept
    torch.testing.assert_close(model(**targets, context_cache=cache), expected, **CLOSE)
    difference = (one_way(**inputs) - expected).abs().max()
    assert difference < 1e-5 if after == 2 else difference > 1e-3


@torch.no_grad()
def test_a_target_hears_of_no_other_by_their_context(make_transformer, inputs):
    model = make_transformer(localize_after=1, num_layers=3, context_attention="two_way")
    other = {**inputs, "target_latents": inputs["target_latents"].clone()}
    other["target_latents"][1:] += 1.0
    torch.testing.assert_close(model(**other)[0], model(**inputs)[0], **CLOSE)


def test_what_a_localizer_needs(make_transformer):
    with pytest.raises(ValueError, match="^expected a position_size for a localizer, got None"):
        make_transformer(localize_after=1, position_size=None)
    with pytest.raises(ValueError, match="^expected a localizer for ray_rotary"):
        make_transformer(ray_rotary=True)
    with pytest.raises(ValueError, match=r"^expected localize_after to be one of \(None, 0, 1\), got 2"):
        make_transformer(localize_after=2)


def level_path() -> torch.Tensor:
    """Two level paths (2, 3, 4, 4, 4) of three latents that turn by 60 and -90 degrees, look down and move."""
    share = torch.linspace(0, 1, 12)
    yaw = torch.tensor([[60.0], [-90.0]]).deg2rad() * share
    pitch = torch.deg2rad(-10 - 10 * share).expand(2, -1)
    position = torch.stack([share, 1 - share, 1.5 + 0 * share], dim=-1).expand(2, -1, 3)
    return pose(position, yaw, pitch).unflatten(1, (3, 4))


def test_a_camera_turns_to_a_place():
    """The shorter way round, level, from rest to rest, on the spot; the last frame looks at it. One starts rolled."""
    start, down = level_path()[:, 0, 0], torch.tensor([0.0, 0, -1]).expand(2, 3)
    roll = torch.eye(4)
    roll[:3, :3] = turning(torch.tensor([0.0, 0, 0.2]))
    away = torch.tensor([[-2.0, 0.1, 0.2], [0.3, -2.0, -1.0]])
    place = start[:, :3, 3] + away
    path = turn_to(start, place, down, 24)
    check_rigid(path, "a path")
    torch.testing.assert_close(turn_to(start @ roll, place, down, 24), path, **CLOSE)
    looks = path[..., :3, 2]
    torch.testing.assert_close(looks[:, -1], torch.nn.functional.normalize(away, dim=-1), **CLOSE)
    assert torch.equal(path[..., :3, 3], start[:, None, :3, 3].expand(2, 24, 3))
    torch.testing.assert_close(path[..., 2, 0], torch.zeros(2, 24), **CLOSE)
    yaw = torch.cat([torch.zeros(2, 1), torch.atan2(looks[..., 1], looks[..., 0])], dim=1)  # they start at zero
    torch.testing.assert_close(yaw[:, -1], torch.atan2(away[:, 1], away[:, 0]), **CLOSE)
    steps = yaw.diff(dim=1) / yaw[:, -1:]
    assert (steps > 0).all() and steps.max() < 1.6 / 24 and steps[:, [0, -1]].max() < 0.3 / 24


def test_a_camera_goes_nearer_to_a_place_and_looks_at_it_from_there():
    """Level, from rest to rest, half-way in the middle; and never nearer than a metre, or away from what is."""
    start = pose(torch.tensor([[1.0, 2.0, 1.5]]), torch.tensor([0.3]), torch.tensor([-0.1])).expand(3, 4, 4)
    down = torch.tensor([0.0, 0, -1]).expand(3, 3)
    away = torch.tensor([[0.0, 3.0, -1.0], [0.0, 1.25, -1.0], [0.0, 0.5, -1.0]])
    path = turn_to(start, start[:, :3, 3] + away, down, 24, nearer=0.5)
    check_rigid(path, "a path")
    moved = path[..., :3, 3] - start[:, None, :3, 3]
    ends = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(moved[:, -1], ends, **CLOSE)
    torch.testing.assert_close(moved[:, 11], ends / 2, **CLOSE)
    looks = path[:, -1, :3, 2]
    torch.testing.assert_close(looks, torch.nn.functional.normalize(away - ends, dim=-1), **CLOSE)
    turned = turn_to(start, start[:, :3, 3] + away, down, 24)
    torch.testing.assert_close(path[..., :3, 0], turned[..., :3, 0], **CLOSE)  # as level, and as far round


@pytest.mark.parametrize("dip", [90.0, -90.0])
def test_a_camera_that_looks_straight_down_or_up_turns_to_a_place(dip):
    """What its picture's top or bottom shows is ahead of it, so that it goes on without a jump."""
    start = pose(torch.zeros(1, 3), torch.tensor([0.5]), torch.tensor([-dip]).deg2rad())
    place, down = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    path = turn_to(start, place, down, 24)
    check_rigid(path, "a path")
    turns = rotation_angle(torch.cat([start[:, None], path[:, :-1]], dim=1), path)
    assert turns[0, 0] < 1 and turns.max() < 15
    torch.testing.assert_close(path[:, -1, :3, 2], torch.nn.functional.normalize(place, dim=-1), **CLOSE)


def test_where_things_fall():
    """Across the right axes of level cameras, whichever way they pitch; without a turn, along their down axes."""
    path = level_path().flatten(1, 2)
    down = torch.tensor([0.0, 0, -1]).expand(2, 3)
    torch.testing.assert_close(fall(path), down, atol=5e-3, rtol=0)
    axes = path[:, 7]
    seen = (down[:, None] @ axes[:, :3, :3])[:, 0]
    torch.testing.assert_close(fall(inverse(axes)[:, None] @ path), seen, atol=5e-3, rtol=0)
    torch.testing.assert_close(fall(axes[:, None].expand(2, 5, 4, 4)), axes[:, :3, 1], **CLOSE)


def test_a_plan_that_jumps_is_made_one_movement():
    """Three latents that look 0, 30 and 60 degrees to the left: no frame turns by more than half of a jump."""
    yaw = torch.tensor([0.0, 30, 60]).deg2rad()[:, None].expand(3, 4)
    planned = pose(torch.zeros(3, 4, 3), yaw, torch.zeros(3, 4))[None]
    moved = smooth(planned)
    check_rigid(moved, "a path")
    assert torch.equal(moved[:, 0], planned[:, 0])
    turns = rotation_angle(moved.flatten(1, 2)[0, 4:], moved.flatten(1, 2)[0, 3:-1])
    assert turns.max() < 15 and rotation_angle(planned[0, 1, 0], planned[0, 0, 3]) > 29
    still = planned[:, :1].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(smooth(still), still, atol=1e-6, rtol=0)
