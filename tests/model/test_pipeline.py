"""Known answers of the sampler, and every sentence with which it refuses an input."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from v4s_lib.data.episodes import load_episode, write_episode
from v4s_lib.data.files import sha256, verify
from v4s_lib.model import localizer, way
from v4s_lib.model.box_drawer import BoxDrawer
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.localizer import pose_numbers, smooth
from v4s_lib.model.pipeline import MIN_SIGMA, Video4SpatialOutput, Video4SpatialPipeline, to_velocity
from v4s_lib.model.sight import Sight
from v4s_lib.training.presets import get_preset
from v4s_lib.training.weights import load_pipeline
from v4s_lib.worlds.cameras import Camera, rotation_angle

CLOSE = {"atol": 1e-5, "rtol": 0}
STEPS = 3


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class Uncached(Video4SpatialPipeline):
    """Hands the context's latents to the transformer, which encodes them again at every step."""

    def _branch(self, context: Tensor, index: Tensor, is_noise: bool) -> dict:
        timestep = torch.full((1,), 1000.0 if is_noise else 0.0)
        return {"context_latents": context, "context_time_index": index, "context_timestep": timestep}


@pytest.fixture
def make(make_transformer) -> Callable[..., Video4SpatialPipeline]:
    def build(kind: type = Video4SpatialPipeline, gap: int = 4, **changes: object) -> Video4SpatialPipeline:
        least = changes.pop("least_shared", 0.0)
        pipeline = kind(make_transformer(**changes), PatchCodec(4), FlowMatchEulerDiscreteScheduler(), gap, least)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return build


@pytest.fixture
def inputs(make_path) -> dict:
    return {
        "context_video": rand(25, 8, 12, 3, seed=1),
        "start_frame": rand(2, 8, 12, 3, seed=2),
        "camera_path": make_path(2, 9),
        "num_context_latents": 4,
        "num_inference_steps": STEPS,
    }


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictions(pipeline: Video4SpatialPipeline, **inputs: object) -> list[Tensor]:
    """What the transformer predicts, call by call, while the pipeline runs."""
    outputs = []
    hook = pipeline.transformer.register_forward_hook(lambda _, __, output: outputs.append(output))
    pipeline(**inputs)
    hook.remove()
    return outputs


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("changes", [{}, {"context_attention": "two_way", "localize_after": 0}])
def test_a_context_encoded_once_gives_the_video_of_one_encoded_at_every_step(make, inputs, guidance_scale, changes):
    """A two-way model's is encoded up to its localizer, if it has one."""
    cached = make(**changes)(**inputs, guidance_scale=guidance_scale).frames
    uncached = make(Uncached, **changes)(**inputs, guidance_scale=guidance_scale).frames
    torch.testing.assert_close(cached, uncached, **CLOSE)


@pytest.mark.parametrize("context_attention", ["one_way", "two_way"])
def test_guidance_1_runs_one_branch_and_others_two(make, inputs, context_attention):
    pipeline = make(context_attention=context_attention)
    assert len(predictions(pipeline, **inputs)) == STEPS
    assert len(predictions(pipeline, **inputs, guidance_scale=3.0)) == 2 * STEPS


def test_a_call_that_does_not_say_takes_the_pipeline_s_steps(make, inputs, tmp_path):
    pipeline = make()
    del inputs["num_inference_steps"]
    pipeline.register_to_config(inference_steps=3)
    assert len(predictions(pipeline, **inputs)) == 3
    pipeline.save_pretrained(tmp_path)
    assert Video4SpatialPipeline.from_pretrained(tmp_path).config.inference_steps == 3
    small = get_preset("small")
    assert load_pipeline(small).config.inference_steps == small.inference_steps


def test_guidance_moves_from_the_unconditional_to_the_conditional_prediction(make, inputs):
    """The first clean prediction is linear in the scale: at 0 it is that of noise as context without a path."""
    pipeline, steps = make(), []
    conditional, free = predictions(pipeline, **inputs, guidance_scale=3.0)[:2]
    assert (conditional - free).abs().max() > 1e-2
    torch.testing.assert_close(predictions(pipeline, **inputs)[0], conditional)
    for scale in (0.0, 1.0, 3.0):
        pipeline(**inputs, guidance_scale=scale, callback=lambda step, frames: steps.append(frames))
        expected = pipeline.codec.decode(free + scale * (conditional - free))
        torch.testing.assert_close(steps[-STEPS][:, 1:], expected[:, 1:], **CLOSE)


def test_guidance_can_leave_the_context_where_it_is(make, inputs):
    """Then the free branch knows the context still: it is the same noise away from it, with and without a path."""
    pipeline = make()
    conditional, free = predictions(pipeline, **inputs, guidance_scale=3.0, guide_context=False)[:2]
    joint = predictions(pipeline, **inputs, guidance_scale=3.0)
    torch.testing.assert_close(joint[0], conditional, **CLOSE)
    assert (joint[1] - free).abs().max() > 1e-3
    kept = {"context_video": inputs["context_video"].flip(0)}
    assert (
        predictions(pipeline, **{**inputs, **kept}, guidance_scale=3.0, guide_context=False)[1] - free
    ).abs().max() > 1e-3
    torch.testing.assert_close(predictions(pipeline, **{**inputs, **kept}, guidance_scale=3.0)[1], joint[1], **CLOSE)


SIGHTED = {"localize_after": 1, "see_places": 4, "position_size": (2, 3), "paint": True}
FINDING = SIGHTED | {"text_dim": 6, "vocabulary": ["ball", "red", "the"], "find_words": 4}
SOUGHT = {"camera_path": None, "instruction": "the red ball"}


@pytest.mark.parametrize("guide_context", [True, False])
def test_start_frames_are_placed_and_views_made_once_a_branch(make, inputs, monkeypatch, guide_context):
    counts = {"place_start": 0, "view": 0}

    def counted(name: str) -> Callable:
        own = getattr(way, name)

        def count(*arguments: object, **options: object) -> object:
            counts[name] += 1
            return own(*arguments, **options)

        return count

    for name in counts:
        monkeypatch.setattr(way, name, counted(name))
    pipeline = make(**SIGHTED)
    alone = pipeline(**inputs).frames
    assert counts == {"place_start": 1, "view": 1}
    guided = pipeline(**inputs, guidance_scale=2.0, guide_context=guide_context).frames
    assert counts == {"place_start": 1 + 2, "view": 1 + 2}
    assert (guided - alone).abs().max() > 1e-3
    assert torch.equal(pipeline(**inputs).frames, alone)


def test_a_start_frame_is_placed_once_for_its_plan_and_its_clip(make, inputs, monkeypatch):
    starts, own = [], way.place_start
    monkeypatch.setattr(way, "place_start", lambda *given, **more: starts.append(own(*given, **more)) or starts[-1])
    make(**FINDING)(**inputs | SOUGHT | {"num_frames": 9})
    assert len(starts) == 1


def test_samples_that_begin_with_one_frame_have_it_placed_once(make, inputs, monkeypatch):
    asked, own = [], way.place_start

    def counted(sight: Sight, latents: Tensor, *given: object, **more: object) -> tuple[Tensor, Tensor]:
        asked.append(len(latents))
        return own(sight, latents, *given, **more)

    monkeypatch.setattr(way, "place_start", counted)
    pipeline, one = make(**SIGHTED), inputs["start_frame"][:1]
    alike = pipeline(**inputs | {"start_frame": one.expand(2, -1, -1, -1)}, generator=seeded()).frames
    nearly = pipeline(**inputs | {"start_frame": torch.cat([one, one * (1 - 1e-6)])}, generator=seeded()).frames
    pipeline(**inputs)
    assert asked == [1, 2, 2] and (alike[0] - alike[1]).abs().max() > 1e-3
    torch.testing.assert_close(alike, nearly, atol=1e-3, rtol=0)


@pytest.mark.parametrize("tail", [0, 1])
def test_a_model_with_sight_turns_and_goes_nearer_and_stands_still_in_the_tail(make, inputs, monkeypatch, tail):
    monkeypatch.setattr(localizer, "KEPT", 0.0)  # what untrained sight finds may be near
    pipeline = make(**FINDING)
    pipeline.register_to_config(tail_latents=tail)
    path = pipeline(**inputs | SOUGHT | {"num_frames": 13}).camera_path
    frames = path.flatten(1, 2)[:, 3:]
    gone = frames[..., :3, 3].norm(dim=-1)
    assert (gone.diff(dim=1)[:, : 11 - 4 * tail] > 0).all() and (gone <= way.APPROACH + 1e-5).all()
    torch.testing.assert_close(gone[:, 12 - 4 * tail :], gone[:, -1:].expand(-1, 1 + 4 * tail), **CLOSE)
    steps = rotation_angle(frames[:, 1:], frames[:, :-1])
    moving = 12 - 4 * tail
    assert steps.shape[1] == 12 and (steps[:, 1 : moving - 1] > 0.5).all() and (steps[:, moving:] < 0.1).all()


def test_a_clip_too_short_for_its_tail_moves_all_the_same(make, inputs):
    """No box is drawn, then: there is no still frame to draw it into."""
    pipeline = make(**FINDING)
    alone = pipeline(**inputs | SOUGHT | {"num_frames": 5})
    pipeline.register_to_config(tail_latents=1)
    pipeline.register_modules(box_drawer=BoxDrawer())
    output, longer = (pipeline(**inputs | SOUGHT | {"num_frames": count}) for count in (5, 9))
    path = output.camera_path
    assert torch.equal(output.frames, alone.frames) and torch.equal(path, alone.camera_path)
    torch.testing.assert_close(path[:, 1], longer.camera_path[:, 1], **CLOSE)
    assert (rotation_angle(path[:, 1, -1], path[:, 0, -1]) > 0.5).all()


def test_guidance_leaves_the_plan_as_it_is(make, inputs):
    pipeline = make(**FINDING)
    alone, guided = (pipeline(**inputs | SOUGHT, num_frames=9, guidance_scale=scale) for scale in (1.0, 2.0))
    assert torch.equal(alone.camera_path, guided.camera_path)
    assert (alone.frames - guided.frames).abs().max() > 1e-3


def test_another_sample_may_go_to_another_thing(make, inputs):
    """With a temperature what is found is drawn: the same seed goes the same way, another may not."""
    pipeline = make(**FINDING)
    asked = inputs | SOUGHT | {"num_frames": 9}

    def sample(seed: int, temperature: float) -> Video4SpatialOutput:
        return pipeline(**asked, find_temperature=temperature, generator=seeded(seed))

    likeliest, drawn = sample(0, 0.0), [sample(seed, 1.0) for seed in range(4)]
    assert torch.equal(sample(0, 1.0).frames, drawn[0].frames)
    assert len({output.camera_path[0, -1, -1].numpy().tobytes() for output in drawn}) > 1
    cold = sample(0, 1e-6)  # nothing but the likeliest is left
    torch.testing.assert_close(cold.camera_path[..., :3, 2], likeliest.camera_path[..., :3, 2], atol=0.05, rtol=0)
    with pytest.raises(ValueError, match=r"^expected a find_temperature of 0 or more, got -1\.0: 0 draws nothing"):
        sample(0, -1.0)


def test_with_nothing_to_look_it_up_in_the_camera_stays(make, inputs):
    output = make(**FINDING)(**inputs | SOUGHT | {"context_video": None, "num_frames": 9})
    torch.testing.assert_close(output.camera_path, torch.eye(4).expand(2, 3, 4, 4, 4), **CLOSE)
    assert output.boxes == [None, None]


def test_a_seed_gives_one_video(make, inputs):
    pipeline = make()
    state = torch.get_rng_state()
    first = pipeline(**inputs, generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    again, other = pipeline(**inputs, generator=seeded(5)), pipeline(**inputs, generator=seeded(6))
    assert torch.equal(first.frames, again.frames) and torch.equal(first.context_index, again.context_index)
    assert (first.frames - other.frames).abs().max() > 1e-2
    assert first.frames.shape == (2, 9, 8, 12, 3)
    assert (first.context_index.diff() > 0).all() and set(first.context_index.tolist()) <= set(range(7))


def test_the_start_frame_stays_bit_for_bit(make, inputs):
    """Through every step, guided or not; 8-bit frames come out as they went in."""
    pipeline = make()
    frame = (inputs["start_frame"] * 255).round()
    inputs["start_frame"] = frame / 255
    kept = pipeline.codec.decode(pipeline.codec.encode(inputs["start_frame"][:, None]))[:, 0]
    steps = []
    video = pipeline(**inputs, guidance_scale=5.0, callback=lambda step, frames: steps.append((step, frames))).frames
    assert torch.equal(video[:, 0], kept)
    assert [step for step, _ in steps] == list(range(STEPS))
    assert all(torch.equal(frames[:, 0], kept) for _, frames in steps)
    assert torch.equal((video[:, 0] * 255).round(), frame)
    torch.testing.assert_close(steps[-1][1], video, **CLOSE)  # the last step ends on its clean prediction


@pytest.mark.parametrize("context_attention", ["one_way", "two_way"])
def test_offloading_changes_nothing(make, inputs, context_attention):
    """Patches have no weights that a hook could look at."""
    pipeline = make(context_attention=context_attention)
    expected = pipeline(**inputs, guidance_scale=2.0).frames
    pipeline.enable_model_cpu_offload(device="cpu")
    assert torch.equal(pipeline(**inputs, guidance_scale=2.0).frames, expected)


def constant(pipeline: Video4SpatialPipeline) -> Tensor:
    """Make the transformer predict the same latent (192,) everywhere, whatever it is given."""
    value = torch.linspace(-0.9, 0.9, 192)
    with torch.no_grad():
        pipeline.transformer.proj_out.weight.zero_()
        pipeline.transformer.proj_out.bias.copy_(value)
    return value[None, :, None, None, None]


def noise_of(pipeline: Video4SpatialPipeline, inputs: dict) -> Tensor:
    """The noise that the pipeline draws, by drawing as it does: the context's first, whatever the targets."""
    generator = seeded()
    torch.randn((1, 192, inputs["num_context_latents"], 2, 3), generator=generator)
    return torch.randn((2, 192, 3, 2, 3), generator=generator)


def test_a_model_that_knows_the_answer_arrives_at_it(make, inputs):
    pipeline = make(prediction_type="sample")
    clean = constant(pipeline).expand(2, -1, 3, 2, 3)
    video = pipeline(**inputs, generator=seeded()).frames
    torch.testing.assert_close(video[:, 1:], pipeline.codec.decode(clean)[:, 1:], **CLOSE)


def test_a_constant_velocity_is_walked_from_sigma_1_to_0(make, inputs):
    pipeline = make(prediction_type="velocity")
    latents = noise_of(pipeline, inputs) - constant(pipeline)
    video = pipeline(**inputs, generator=seeded()).frames
    torch.testing.assert_close(video[:, 1:], pipeline.codec.decode(latents)[:, 1:], **CLOSE)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_both_prediction_types_make_the_same_euler_step(shift):
    noisy, clean = rand(1, 4, 2, 2, 2), rand(1, 4, 2, 2, 2, seed=1)
    schedulers = [FlowMatchEulerDiscreteScheduler(shift=shift) for _ in range(2)]
    for scheduler in schedulers:
        scheduler.set_timesteps(10)
    for step, timestep in enumerate(schedulers[0].timesteps):
        sigma, after = (schedulers[0].sigmas[step + i].item() for i in (0, 1))
        velocity = (noisy - clean) / sigma
        a, b = to_velocity(clean, noisy, sigma, "sample"), to_velocity(velocity, noisy, sigma, "velocity")
        stepped = [s.step(v, timestep, noisy).prev_sample for s, v in zip(schedulers, (a, b), strict=True)]
        expected = after / sigma * noisy + (1 - after / sigma) * clean
        torch.testing.assert_close(stepped[0], stepped[1], **CLOSE)
        torch.testing.assert_close(stepped[0], expected, **CLOSE)


def test_sigma_is_floored():
    noisy, clean = torch.ones(1), torch.zeros(1)
    assert to_velocity(clean, noisy, 0.0, "sample").item() == pytest.approx(1 / MIN_SIGMA)
    assert to_velocity(clean, noisy, MIN_SIGMA / 9, "sample").item() == pytest.approx(1 / MIN_SIGMA)
    assert to_velocity(clean, noisy, 0.5, "sample").item() == 2


def test_world_axes_of_the_path_change_nothing(make, inputs, make_path):
    pipeline = make()
    expected = pipeline(**inputs).frames
    world = make_path(1, 1, seed=3)[0, 0].double()
    world[:3, 3] = torch.tensor([300.0, -2000.0, 50.0])
    moved = pipeline(**{**inputs, "camera_path": world @ inputs["camera_path"].double()}).frames
    torch.testing.assert_close(moved, expected, **CLOSE)
    turned = pipeline(**{**inputs, "camera_path": inputs["camera_path"].flip(1)}).frames
    assert (turned - expected).abs().max() > 1e-3


def test_neither_signature_has_room_for_context_poses_or_depth():
    """Claim C13."""
    arguments = set(inspect.signature(Video4SpatialPipeline.__call__).parameters)
    assert {name for name in arguments if "context" in name} == {
        "context_video",
        "num_context_latents",
        "guide_context",
    }
    assert {name for name in arguments if "camera" in name} == {"camera_path"}
    assert not [name for name in arguments if re.search("pose|c2w|depth|point|intrinsic", name)]


def test_other_poses_in_an_episodes_file_change_no_bit(make, inputs, make_path, tmp_path):
    frames = (rand(25, 8, 12, 3, seed=1) * 255).to(torch.uint8)
    videos = []
    for seed in (0, 1):
        write_episode(tmp_path / str(seed), frames, make_path(1, 25, seed=seed)[0], Camera(8, 12))
        episode = load_episode(tmp_path / str(seed))
        videos.append(make()(**{**inputs, "context_video": episode.frames / 255}).frames)
    assert torch.equal(*videos)


def test_frames_past_4k_plus_1_are_left_out(make, inputs):
    pipeline = make()
    longer = torch.cat([inputs["context_video"], rand(3, 8, 12, 3, seed=9)])
    outputs = [pipeline(**{**inputs, "context_video": video}).frames for video in (inputs["context_video"], longer)]
    assert torch.equal(*outputs)


def test_targets_start_a_gap_after_the_scan(make, inputs):
    pipeline, seen = make(gap=6), []
    hook = pipeline.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    pipeline(**inputs)  # 25 frames are latents 0 to 6; six latents of gap
    pipeline(**{**inputs, "context_video": None})  # noise stands for latents 0 to 3
    hook.remove()
    assert seen[0].tolist() == [[13, 14, 15]] * 2
    assert seen[-1].tolist() == [[10, 11, 12]] * 2


def test_the_noise_is_the_same_with_a_context_and_without(make, inputs):
    """Otherwise a paired difference of the two would also be one of two draws."""
    pipeline, drawn = make(), []
    pipeline.transformer.register_forward_pre_hook(lambda _, arguments: drawn.append(arguments[0]))
    for context in (inputs.pop("context_video"), None):
        pipeline(context, **inputs, generator=seeded())
    torch.testing.assert_close(drawn[0], drawn[STEPS], rtol=0, atol=0)


def test_a_model_that_localizes_is_sampled_in_float32_alone(make, inputs):
    pipeline = make(localize_after=1, position_size=(2, 3))
    pipeline.transformer.to(torch.bfloat16)
    with pytest.raises(ValueError, match="^expected float32 for a model that localizes, got torch.bfloat16"):
        pipeline(**inputs)


def test_without_context(make, inputs):
    """No video: noise in its place, so that the room can not matter; no latents: no context at all."""
    pipeline = make()
    absent = pipeline(**{**inputs, "context_video": None})
    assert absent.context_index.tolist() == [0, 1, 2, 3]
    assert (absent.frames - pipeline(**inputs).frames).abs().max() > 1e-3
    none = [
        pipeline(**{**inputs, "context_video": video, "num_context_latents": 0}, guidance_scale=2.0)
        for video in (None, inputs["context_video"])
    ]
    assert torch.equal(none[0].frames, none[1].frames)
    assert len(none[0].context_index) == 0


@torch.no_grad()
def test_a_context_of_another_place_is_put_aside(make, inputs):
    """What shares nothing with the start frame changes no bit, whatever it shows; one that does is used."""
    sees = {"localize_after": 1, "position_size": (2, 3), "see_places": 4, "least_shared": 0.5}
    pipeline, videos = make(**sees), (inputs["context_video"], rand(25, 8, 12, 3, seed=8))
    for nothing, used in ((-1e3, True), (1e3, False)):  # the product of keys from which on two cells show one place
        pipeline.transformer.sight.nothing.fill_(nothing)
        first, second = (pipeline(**{**inputs, "context_video": v}, generator=seeded()) for v in videos)
        assert first.context_used is second.context_used is used
        assert torch.equal(first.frames, second.frames) != used
    assert make(least_shared=0.5)(**inputs).context_used  # a model without sight takes what it is given
    assert not make(**sees)(**{**inputs, "context_video": None}).context_used


@pytest.fixture
def saved(make, tmp_path) -> Path:
    make(gap=7).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_saved_and_loaded_as_safetensors_alone(make, inputs, saved):
    suffixes = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
    pipeline = Video4SpatialPipeline.from_pretrained(saved)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.config.gap == 7
    assert pipeline.to("cpu").device.type == "cpu"
    assert torch.equal(pipeline(**inputs).frames, make(gap=7)(**inputs).frames)


def test_pickles_are_not_read(saved):
    weights = saved / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(Video4SpatialPipeline.from_pretrained(saved).transformer.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    for options in ({}, {"use_safetensors": False}):
        with pytest.raises(OSError, match="no file named diffusion_pytorch_model.safetensors"):
            Video4SpatialPipeline.from_pretrained(saved, **options)


def test_damaged_weights_are_refused(saved):
    """A flipped byte by its hash (safetensors itself would load it), a torn file by the loader."""
    weights = saved / "transformer" / "diffusion_pytorch_model.safetensors"
    size, digest = weights.stat().st_size, sha256(weights)
    verify(weights, size, digest)
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="^expected sha256 .* of .*, got .*: delete it and download it again$"):
        verify(weights, size, digest)
    weights.write_bytes(content[: size // 2])
    with pytest.raises(OSError, match="Unable to load weights from checkpoint file"):
        Video4SpatialPipeline.from_pretrained(saved)


def with_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[7] = torch.nan
    return tensor


def scaled(path: Tensor) -> Tensor:
    return torch.cat([2 * path[..., :3, :], path[..., 3:, :]], dim=-2)


REFUSED = {
    "start frame without batch": (
        {"start_frame": rand(8, 12, 3)},
        r"expected start_frame of shape \(N, H, W, 3\), got \(8, 12, 3\): pass RGB frames",
    ),
    "no start frame": (
        {"start_frame": rand(0, 8, 12, 3)},
        r"expected start_frame of shape \(N, H, W, 3\), got \(0, 8, 12, 3\): pass RGB frames",
    ),
    "start frame of another size": (
        {"start_frame": rand(2, 8, 16, 3)},
        r"expected start_frame of 8x12 pixels \(H x W\), got shape \(2, 8, 16, 3\): resize it",
    ),
    "context of another size": (
        {"context_video": rand(25, 12, 8, 3)},
        r"expected context_video of 8x12 pixels \(H x W\), got shape \(25, 12, 8, 3\): resize it",
    ),
    "context with an alpha channel": (
        {"context_video": rand(25, 8, 12, 4)},
        r"expected context_video of shape \(N, H, W, 3\), got \(25, 8, 12, 4\): pass RGB frames",
    ),
    "8-bit context": (
        {"context_video": (rand(25, 8, 12, 3) * 255).to(torch.uint8)},
        r"expected context_video as floats in 0\.\.1, got torch.uint8 from 0 to 2..: divide 8-bit frames by 255",
    ),
    "8-bit values as floats": (
        {"start_frame": rand(2, 8, 12, 3) * 255},
        r"expected start_frame as floats in 0\.\.1, got torch.float32 from \S+ to 2\S+: divide 8-bit frames by 255",
    ),
    "NaN in the context": (
        {"context_video": with_nan(rand(25, 8, 12, 3))},
        r"expected context_video as floats in 0\.\.1, got torch.float32 from nan to nan: divide 8-bit frames by 255",
    ),
    "NaN in the path": (
        {"camera_path": with_nan},
        "expected finite numbers in camera_path, got NaN or infinity: check the file or path it came from",
    ),
    "scaled path": (
        {"camera_path": scaled},
        r"expected rigid c2w matrices in camera_path, got one that scales, shears or mirrors \(error .*\): check .*",
    ),
    "path of 8 poses": (
        {"camera_path": lambda path: path[:, :8]},
        r"expected camera_path of shape \(M, 4k\+1, 4, 4\), k > 0, got \(2, 8, 4, 4\): give that many poses",
    ),
    "path of one pose": (
        {"camera_path": lambda path: path[:, :1]},
        r"expected camera_path of shape \(M, 4k\+1, 4, 4\), k > 0, got \(2, 1, 4, 4\): give that many poses",
    ),
    "path without batch": (
        {"camera_path": lambda path: path[0]},
        r"expected camera_path of shape \(M, 4k\+1, 4, 4\), k > 0, got \(9, 4, 4\): give that many poses",
    ),
    "path of 3x4 matrices": (
        {"camera_path": lambda path: path[..., :3, :]},
        r"expected camera_path to end in shape \(4, 4\), got \(2, 9, 3, 4\): pass c2w matrices",
    ),
    "more paths than start frames": (
        {"start_frame": rand(1, 8, 12, 3)},
        "expected a start_frame for each camera_path, got 1 and 2: pass as many of both",
    ),
    "too short a context": (
        {"context_video": rand(12, 8, 12, 3)},
        r"expected 0 to 3 context latents \(context_video holds 3 of 4 frames each\), got 4: ask for fewer .*",
    ),
    "fewer than no context latents": (
        {"num_context_latents": -1},
        "expected 0 to .* context latents .*, got -1: ask for fewer or use a longer video",
    ),
    "no steps": (
        {"num_inference_steps": 0},
        "expected num_inference_steps of 1 or more, got 0: ask for some",
    ),
    "too long a path": (
        {"camera_path": lambda path: path[:, :1].expand(-1, 4 * 1013 + 1, -1, -1)},
        "expected time indices below 1024 for context video, gap and path, got up to 1024: shorten them",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_inputs_are_refused_before_anything_is_computed(make, inputs, name):
    changes, message = REFUSED[name]
    changes = {key: value(inputs[key]) if callable(value) else value for key, value in changes.items()}
    pipeline, generator, calls = make(), seeded(), []
    for block in pipeline.transformer.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    before, timesteps = generator.get_state(), pipeline.scheduler.timesteps
    with pytest.raises(ValueError, match=f"^{message}$"):
        pipeline(**inputs | changes, generator=generator)
    assert calls == []
    assert torch.equal(generator.get_state(), before)
    assert pipeline.scheduler.timesteps is timesteps


def test_the_longest_path_that_fits_is_taken(make, inputs):
    """25 frames of context, a gap of 4 and latents up to index 1023."""
    path = inputs["camera_path"][:, :1].expand(-1, 4 * 1012 + 1, -1, -1)
    make().check_inputs(inputs["context_video"], inputs["start_frame"], path, num_context_latents=4)


def test_a_model_without_a_fixed_size_takes_multiples_of_its_patches(make, inputs):
    pipeline = make(position_size=None, patch_size=(1, 2, 2))
    inputs |= {"context_video": rand(25, 16, 8, 3), "start_frame": rand(2, 16, 8, 3)}
    assert pipeline(**inputs).frames.shape == (2, 9, 16, 8, 3)
    inputs |= {"context_video": rand(25, 16, 12, 3), "start_frame": rand(2, 16, 12, 3)}
    with pytest.raises(ValueError, match=r"^expected start_frame in multiples of 8x8 pixels \(H x W\), got shape"):
        pipeline(**inputs)
    fixed = make(position_size=(2, 1), patch_size=(1, 2, 2))
    inputs |= {"context_video": rand(25, 16, 8, 3), "start_frame": rand(2, 16, 8, 3)}
    assert fixed(**inputs).frames.shape == (2, 9, 16, 8, 3)


READS = {"text_dim": 6, "vocabulary": ["ball", "camera", "in", "moves", "red", "room", "smoothly", "the", "a"]}


def test_an_instruction_changes_the_video_and_a_path_need_not_be_given(make, inputs):
    pipeline = make(**READS, localize_after=1)
    both = pipeline(**inputs, instruction="a red ball").frames
    assert both.shape == pipeline(**inputs).frames.shape == (2, 9, 8, 12, 3)
    assert (both - pipeline(**inputs).frames).abs().max() > 1e-3
    del inputs["camera_path"]
    planned = pipeline(**inputs, instruction="a red ball", num_frames=13).frames
    assert planned.shape == (2, 13, 8, 12, 3) and pipeline(**inputs, instruction="a red ball").frames.shape[1] == 33
    each = pipeline(**inputs, instruction=["a red ball", "the room"], num_frames=13).frames
    torch.testing.assert_close(each[0], planned[0], **CLOSE)
    assert (each[1] - planned[1]).abs().max() > 1e-3


def test_without_an_instruction_a_path_is_followed_in_the_navigation_sentence(make, inputs):
    pipeline = make(**READS)
    expected = pipeline(**inputs, instruction="The camera moves smoothly in a room.").frames
    torch.testing.assert_close(pipeline(**inputs).frames, expected, **CLOSE)


def test_guidance_drops_words_too(make, inputs):
    """The free branch is the same whatever was said; its outputs are every second."""
    pipeline = make(**READS)
    first, second = (
        predictions(pipeline, **inputs, instruction=words, guidance_scale=2.0)[:2]
        for words in ("a red ball", "the room")
    )
    assert (first[0] - second[0]).abs().max() > 1e-3
    torch.testing.assert_close(first[1], second[1], **CLOSE)


SAID = {
    "neither words nor path": ({"camera_path": None}, "expected an instruction, a camera_path or both, got neither"),
    "an empty instruction": (
        {"instruction": " "},
        "expected an instruction in words, got an empty one: say what to do",
    ),
    "an unknown word": ({"instruction": "a red elephant"}, "expected words out of ball, .*; got 'elephant'"),
    "too few instructions": (
        {"instruction": ["a red ball"]},
        "expected an instruction for each start_frame and camera_path, got 1 and 2: pass as many of all, or one",
    ),
    "frames and path that differ": (
        {"instruction": "a red ball", "num_frames": 13},
        "expected a camera_path of num_frames poses, got 9 and 13: leave num_frames out",
    ),
    "a number of frames that no latents hold": (
        {"instruction": "a red ball", "num_frames": 12, "camera_path": None},
        r"expected num_frames of 4k\+1, k > 0, got 12",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_words_that_cannot_be_followed_are_refused(make, inputs, name):
    changes, message = SAID[name]
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**READS)(**inputs | changes)


def test_a_model_without_a_vocabulary_takes_no_instruction(make, inputs):
    with pytest.raises(ValueError, match="^expected no instruction for a model without a vocabulary, got one"):
        make()(**inputs, instruction="a red ball")


def test_a_planned_path_is_followed_as_if_it_had_been_given(make, inputs, make_path):
    """A head that says the same of every latent, whatever it sees: the plan goes there from the start, smoothed."""
    pipeline, c2w = make(**READS, localize_after=1), make_path(1, 4, seed=5)[0]
    head = pipeline.transformer.localizer.pose
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(pose_numbers(c2w).flatten())
    way = smooth(torch.stack([c2w, c2w[-1] @ c2w, c2w[-1] @ c2w])[None])[0].flatten(0, 1)
    path = way[3:].expand(2, -1, -1, -1)  # the start frame is its latent's last
    output = pipeline(**inputs | {"camera_path": None}, instruction="a red ball", num_frames=9)
    planned = output.frames
    assert output.camera_path.shape == (2, 3, 4, 4, 4) and output.boxes == [None, None]  # it has no finder
    output = pipeline(**inputs | {"camera_path": path}, instruction="a red ball")
    given = output.frames
    assert output.boxes is None
    torch.testing.assert_close(planned, given, atol=1e-4, rtol=0)
