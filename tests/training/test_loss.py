"""Known losses of models whose prediction is known, and what the model is shown."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from v4s_lib.model.localizer import Told, pose_numbers
from v4s_lib.model.text import PADDING
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.data import RoomStream
from v4s_lib.training.loss import LossConfig, Sample, flow_matching_loss
from v4s_lib.training.presets import SMOKE

VALUE = torch.tensor([0.5, -1.0, 0.25, 2.0])  # of the four channels
PLAIN = LossConfig(drop_context=0.0, drop_instruction=0.0, other_context=0.0)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def make_model(value: Tensor = VALUE, **changes: object) -> ContextVideoTransformer:
    """A transformer that predicts ``value`` (4,) in every pixel, whatever it is given."""
    config = {
        "patch_size": (1, 1, 1),
        "num_attention_heads": 1,
        "attention_head_dim": 12,
        "in_channels": 4,
        "text_dim": None,
        "freq_dim": 8,
        "ffn_dim": 12,
        "num_layers": 2,
        "context_attention": "one_way",
        "pose_encoding": "c2w_12",
        "position_size": (1, 2),
        "prediction_type": "sample",
    }
    torch.manual_seed(0)
    model = ContextVideoTransformer(**config | changes)
    with torch.no_grad():
        model.proj_out.weight.zero_()
        model.proj_out.bias.copy_(value)
    return model


def make_sample(contexts: int = 2, targets: int = 3, value: Tensor = VALUE) -> Sample:
    """Target latents of one value everywhere, but for wild start latents."""
    clean = value[None, :, None, None, None].repeat(contexts * targets, 1, 3, 1, 2)
    clean[:, :, 0] = 1000.0
    eye = torch.eye(4)
    return Sample(
        torch.randn((contexts, 4, 4, 1, 2), generator=generator()),
        torch.arange(4).expand(contexts, -1),
        clean,
        torch.arange(8, 11).expand(contexts * targets, -1),
        eye.expand(contexts * targets, 3, 4, 4, 4),
        torch.ones(contexts * targets, dtype=torch.bool),
        torch.zeros(contexts * targets, 8),
        torch.tensor([[1, 2, 0]]).expand(contexts * targets, -1),
        eye.expand(contexts, 4, 4, 4, 4),
        eye.expand(contexts * targets, 4, 4),
        torch.ones(contexts, 4, 4, 8),
        torch.ones(contexts * targets, 3, 4, 8),
    )


def sigmas(count: int, mean: float = 1.0) -> Tensor:
    """The loss draws its sigmas first."""
    return torch.sigmoid(torch.randn(count, generator=generator()) + mean)


def shown(sample: Sample, config: LossConfig, **changes: object) -> dict[str, Tensor]:
    """What the model is called with."""
    model, calls = make_model(**changes), []
    model.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    flow_matching_loss(model, sample, config, generator())
    (((noisy, timestep, _), others),) = calls
    return {"noisy": noisy, "timestep": timestep, **others}


def test_a_perfect_prediction_costs_nothing_whatever_the_start_latent_is():
    assert flow_matching_loss(make_model(), make_sample(), PLAIN, generator()).item() == 0


@pytest.mark.parametrize("min_sigma", [0.1, 0.3, 2.0])
def test_predicting_zero_costs_the_mean_square_over_floored_sigma_squared(min_sigma):
    config = replace(PLAIN, min_sigma=min_sigma)
    loss = flow_matching_loss(make_model(torch.zeros(4)), make_sample(), config, generator())
    expected = VALUE.square().mean() / sigmas(6).clamp(min=min_sigma).square()
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_targets_are_mixed_with_noise_by_their_sigma_and_starts_are_not():
    first, second = (shown(make_sample(value=value), PLAIN) for value in (VALUE, VALUE + 1))
    sigma = sigmas(6)
    torch.testing.assert_close(first["timestep"], 1000 * sigma)
    difference = (second["noisy"] - first["noisy"])[:, :, 1:]
    torch.testing.assert_close(difference, (1 - sigma).view(6, 1, 1, 1, 1).expand_as(difference))
    assert (first["noisy"][:, :, 0] == 1000).all()
    many = shown(make_sample(200, 3, value=torch.zeros(4)), PLAIN)
    noise = many["noisy"][:, :, 1:] / (many["timestep"] / 1000).view(-1, 1, 1, 1, 1)
    assert noise.mean().item() == pytest.approx(0, abs=0.02) and noise.std().item() == pytest.approx(1, abs=0.02)


def test_sigma_mean_moves_the_noise():
    means = [shown(make_sample(200, 3), replace(PLAIN, sigma_mean=mean))["timestep"].median() for mean in (-2, 0, 2)]
    assert torch.tensor(means).tolist() == pytest.approx([119, 500, 881], abs=40)  # 1000 sigmoid(mean)


def test_a_dropped_context_is_noise_at_timestep_1000():
    sample = make_sample()
    call = shown(sample, replace(PLAIN, drop_context=1.0))
    assert call["context_timestep"].tolist() == [1000, 1000]
    assert (call["context_latents"] - sample.context_latents).abs().max() > 0.1


def test_a_kept_context_is_clean():
    sample = make_sample()
    call = shown(sample, PLAIN)
    assert call["context_timestep"].tolist() == [0, 0]
    assert call["camera_mask"].tolist() == [True] * 6
    assert torch.equal(call["context_latents"], sample.context_latents)


def test_a_dropped_instruction_leaves_the_context():
    call = shown(make_sample(), replace(PLAIN, drop_instruction=1.0))
    assert call["context_timestep"].tolist() == [0, 0]
    assert call["camera_mask"].tolist() == [False] * 6


def test_contexts_and_paths_are_dropped_at_their_rates():
    """500 contexts with two targets each; five standard deviations."""
    call = shown(make_sample(500, 2), LossConfig(drop_context=0.3, drop_instruction=0.2))
    dropped = call["context_timestep"] == 1000
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.11)
    masked = ~call["camera_mask"].unflatten(0, (500, 2))
    assert masked[dropped].float().mean().item() == pytest.approx(0.6, abs=0.14)  # by the context or by itself
    assert masked[~dropped].float().mean().item() == pytest.approx(0.2, abs=0.08)


def test_another_rooms_context_comes_whole_and_says_nothing_of_the_start():
    """All contexts move on by one; the start frame stands nowhere in them, so the head is judged by the scan alone."""
    sample = make_sample(3, 2)
    elsewhere = replace(PLAIN, other_context=1.0)
    call = shown(sample, elsewhere)
    assert torch.equal(call["context_latents"], sample.context_latents[[1, 2, 0]])
    assert flow_matching_loss(constant_head(0.5), sample, elsewhere, generator()).item() == pytest.approx(0.25)
    offset = torch.tensor([0, 100, 500])
    timed = replace(
        sample,
        context_time_index=sample.context_time_index + offset[:, None] + torch.tensor([0, 1, 2])[:, None],
        target_time_index=sample.target_time_index + offset.repeat_interleave(2)[:, None],
    )
    clock = shown(timed, elsewhere)["context_time_index"][:, -1] - timed.target_time_index[::2, 0]
    assert clock.tolist() == [-4, -3, -5]  # from -5, -4, -3: the gap goes along, the offset does not
    moved = shown(make_sample(500, 2), LossConfig(other_context=0.3, drop_context=0.0))["context_latents"]
    share = (moved != make_sample(500, 2).context_latents).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.11)


def test_without_context_the_model_is_shown_none():
    call = shown(make_sample(), replace(PLAIN, use_context=False))
    assert not [name for name in call if "context" in name]


def test_words_and_paths_are_dropped_together():
    call = shown(
        make_sample(500, 2), LossConfig(drop_context=0.3, drop_instruction=0.2), text_dim=4, vocabulary=["a", "b"]
    )
    silent = (call["words"] == PADDING).all(dim=1)
    assert torch.equal(silent, ~call["camera_mask"]) and 0.1 < silent.float().mean() < 0.5
    assert call["words"][~silent].tolist() == [[1, 2, 0]] * int((~silent).sum())


def test_a_target_without_a_path_is_shown_none_and_keeps_its_words():
    sample = replace(make_sample(), has_path=torch.tensor([True, False] * 3))
    call = shown(sample, PLAIN, text_dim=4, vocabulary=["a", "b"])
    assert call["camera_mask"].tolist() == [True, False] * 3
    assert torch.equal(call["words"], sample.words)
    assert shown(sample, PLAIN)["words"] is None  # a model that does not read


def constant_head(error: float) -> ContextVideoTransformer:
    """A model that says that every frame stands at the identity, but for ``error`` in each of nine numbers."""
    model = make_model(localize_after=1, pose_encoding="ray_map")
    head = model.localizer.pose
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(pose_numbers(torch.eye(4)).flatten().repeat(4) + error)
    return model


def test_a_planned_path_is_taught_and_a_given_one_is_not():
    """0.25 each for the scan's poses, the start's, and the moving latents' of two targets in three."""
    model, sample = constant_head(0.5), make_sample()
    sample.has_path = torch.tensor([True, False, False] * 2)
    loss = flow_matching_loss(model, sample, PLAIN, generator())
    assert loss.item() == pytest.approx(0.25 + 0.25 + 0.25 * 2 / 3, rel=1e-5)


def test_without_a_context_the_start_frame_is_the_origin():
    """Wherever the start frame stands in a scan that the model is not shown, there is nothing to learn of it."""
    model, sample = constant_head(0.0), make_sample()
    sample.start_pose = sample.start_pose.clone()
    sample.start_pose[:, 0, 3] = 2.0
    for change in ({"drop_context": 1.0}, {"use_context": False}):
        assert flow_matching_loss(model, sample, replace(PLAIN, **change), generator()).item() == pytest.approx(0)
    assert flow_matching_loss(model, sample, PLAIN, generator()).item() == pytest.approx(4 / 9, rel=1e-5)


def test_a_localizer_is_taught_where_there_is_something_to_find():
    """It predicts the identity plus 0.5 in each of nine numbers: 0.25 for the scan's poses and 0.25 for the start's."""
    model = constant_head(0.5)
    loss = flow_matching_loss(model, make_sample(), PLAIN, generator())
    assert loss.item() == pytest.approx(0.5, rel=1e-5)
    for change, expected in (({"localization": 0.2}, 0.1), ({"use_context": False}, 0.25)):
        loss = flow_matching_loss(model, make_sample(), replace(PLAIN, **change), generator())
        assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_true_poses_reach_the_later_blocks_and_the_localizer_is_judged_by_its_own(share):
    """The rays that the later blocks are given turn with the truth; the localizer's loss does not change."""
    model, sample = make_model(localize_after=1, pose_encoding="ray_map", horizontal_fov=90.0), make_sample()
    sample.context_poses = sample.context_poses.clone()
    sample.context_poses[..., :3, 3] = 0.5
    rays, predicted = [], []
    model.localizer.adapter[0].register_forward_pre_hook(lambda _, args: rays.append(args[0]))
    model.localizer.pose.register_forward_hook(lambda _, args, output: predicted.append(output))
    loss = flow_matching_loss(model, sample, PLAIN, generator(), true_poses=share)
    origin = rays[0].unflatten(-1, (4, -1))[..., 3:6]  # of each frame's ray
    told = torch.tensor(0.5).expand_as(origin)
    assert torch.allclose(origin, told) == (share == 1)
    context, target = (output.float().unflatten(-1, (4, 3, 3)) for output in predicted)
    expected = (context - pose_numbers(sample.context_poses)).square().mean()
    expected += (target[:, 0] - pose_numbers(sample.start_pose)[:, None]).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.localizer.told == Told()


def test_the_same_generator_gives_the_same_loss():
    model, sample, config = make_model(torch.zeros(4)), make_sample(), LossConfig()
    state = torch.get_rng_state()
    first, again = (flow_matching_loss(model, sample, config, generator()) for _ in range(2))
    other = flow_matching_loss(model, sample, config, torch.Generator().manual_seed(4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_a_path_is_planned_from_noise_alone():
    sample = replace(make_sample(), has_path=torch.tensor([True, False, False] * 2))
    plans = {"localize_after": 1, "pose_encoding": "ray_map"}
    call = shown(sample, PLAIN, **plans)
    assert (call["timestep"] == 1000).tolist() == [False, True, True] * 2
    first, second = (
        shown(replace(sample, target_latents=latents), PLAIN, **plans)["noisy"]
        for latents in (sample.target_latents, sample.target_latents + 1)
    )
    assert torch.equal(first[[1, 2, 4, 5], :, 1:], second[[1, 2, 4, 5], :, 1:])  # nothing of the clip shows
    dropped = shown(sample, replace(PLAIN, drop_instruction=1.0), **plans)["timestep"]
    assert (dropped < 1000).all()  # guidance's free branch is asked at every level
    assert (shown(sample, PLAIN)["timestep"] < 1000).all()  # a model that plans no path is asked at every level, too


def test_a_planned_path_is_drawn_along_the_true_one():
    """Later blocks are given start times path in place of what the head plans; the head is judged by its own plan."""
    sample = replace(make_sample(), has_path=torch.tensor([True, False, False] * 2))
    sample.camera_path = sample.camera_path.clone()
    sample.camera_path[:, 1:, :, 2, 3] = 0.7  # every moving frame stands 0.7 m ahead
    model, told = constant_head(0.0), []
    model.pose_adapter[1].register_forward_pre_hook(lambda _, args: told.append(args[0]))
    loss = flow_matching_loss(model, sample, PLAIN, generator())
    ahead = told[0].unflatten(1, (3, -1)).unflatten(-1, (4, -1))[..., 5]  # z of the rays' origins
    torch.testing.assert_close(ahead[:, 1:], torch.full_like(ahead[:, 1:], 0.7))
    assert loss.item() == pytest.approx(0.7**2 / 9 * 2 / 3, rel=1e-5)


def test_a_model_with_sight_is_told_the_way_to_what_words_name():
    """In sampling it is told it, too: by a plan. So at every level of noise, unless its instruction is dropped."""
    torch.manual_seed(0)
    model, calls = ContextVideoTransformer(**SMOKE.model), []
    model.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args[1], kwargs)), with_kwargs=True)
    sample = RoomStream(SMOKE, 0, "cpu").sample(SMOKE.steps)
    sample = replace(sample, has_path=torch.zeros_like(sample.has_path))
    for drop in (0.0, 1.0):
        flow_matching_loss(model, sample, replace(PLAIN, drop_instruction=drop), generator())
    assert all((timestep < 1000).all() for timestep, _ in calls)
    assert calls[0][1]["camera_mask"].all() and not calls[1][1]["camera_mask"].any()
