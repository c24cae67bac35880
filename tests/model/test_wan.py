"""Full scale in small: stock Wan parts, saved by diffusers and transformers alone, sample in our pipeline."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.hooks import CpuOffload
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel

from tests.model.test_pipeline import Uncached, predictions, rand, seeded
from tests.model.tiny_wan import save_pipeline, tiny_wan
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.encoding import decode_latents, encode_frames, encode_video
from v4s_lib.model.pipeline import Video4SpatialPipeline
from v4s_lib.model.stock import load_stock
from v4s_lib.model.wan import wan_pipeline

CLOSE = {"atol": 1e-5, "rtol": 0}
SAID = "the camera moves smoothly in a room"
WAYS = pytest.mark.parametrize("way", ["two_way", "one_way"])


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("wan"))


def build(stock: Path, way: str = "two_way", pose: str | None = "c2w_12") -> Video4SpatialPipeline:
    transformer = load_stock(stock / "transformer", way, pose)
    with torch.no_grad():
        torch.manual_seed(1)
        for name, parameter in transformer.named_parameters():
            if name.startswith("pose_adapter"):  # stock Wan has no ear for a path
                parameter.normal_(std=0.2)
    pipeline = wan_pipeline(stock, transformer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def make(stock) -> Callable[..., Video4SpatialPipeline]:
    """Pipelines with one context attention or the other, each loaded once."""
    built = {way: build(stock, way) for way in ("two_way", "one_way")}
    return lambda way="two_way": built[way]


@pytest.fixture
def inputs(make_path) -> dict:
    return {
        "context_video": rand(17, 32, 48, 3, seed=1),
        "start_frame": rand(2, 32, 48, 3, seed=2),
        "camera_path": make_path(2, 9),
        "instruction": SAID,
        "num_context_latents": 3,
        "num_inference_steps": 2,
    }


@WAYS
def test_a_seed_gives_one_video_and_the_start_frame_is_as_it_decodes(make, inputs, way):
    pipeline = make(way)
    assert pipeline.scheduler.config.shift == 5 and pipeline.transformer.config.prediction_type == "velocity"
    first, again, other = (pipeline(**inputs, generator=seeded(seed)).frames for seed in (5, 5, 6))
    assert first.shape == (2, 9, 32, 48, 3) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and (first - other).abs().max() > 1e-2
    with torch.no_grad():
        start = encode_frames(pipeline.codec, inputs["start_frame"][:, None], "cpu")
        torch.testing.assert_close(first[:, :1], decode_latents(pipeline.codec, start), **CLOSE)


@WAYS
def test_guidance_1_runs_one_branch_and_others_two(make, inputs, way):
    assert len(predictions(make(way), **inputs)) == 2
    assert len(predictions(make(way), **inputs, guidance_scale=5.0)) == 4


@WAYS
def test_joint_guidance_walks_from_the_free_to_the_told_velocity_and_beyond(make, inputs, way):
    """Both steps by hand: with the shift of 5 the noise levels are 1, 5/6 and 0."""
    pipeline, noise = make(way), seeded()
    torch.randn((1, 3, 3, 4, 6), generator=noise)  # the context's
    latents = torch.randn((2, 3, 3, 4, 6), generator=noise)
    calls = predictions(pipeline, **inputs, guidance_scale=5.0)
    for (told, free), step in zip((calls[:2], calls[2:]), (1 / 6, 5 / 6), strict=True):
        assert (told - free).abs().max() > 1e-2
        latents = latents - step * (free + 5.0 * (told - free))
    with torch.no_grad():
        latents[:, :, :1] = encode_frames(pipeline.codec, inputs["start_frame"][:, None], "cpu")
        expected = decode_latents(pipeline.codec, latents)
    torch.testing.assert_close(pipeline(**inputs, guidance_scale=5.0).frames, expected, **CLOSE)


def test_a_context_encoded_once_gives_the_video_of_one_encoded_at_every_step(make, inputs):
    pipeline = make("one_way")
    uncached = Uncached(**pipeline.components, gap=pipeline.config.gap)
    uncached.set_progress_bar_config(disable=True)
    videos = [each(**inputs, guidance_scale=5.0).frames for each in (pipeline, uncached)]
    torch.testing.assert_close(*videos, **CLOSE)


@WAYS
def test_context_path_and_words_change_the_video(make, inputs, make_path, way):
    pipeline = make(way)
    video = pipeline(**inputs).frames
    changes = {
        "context_video": rand(17, 32, 48, 3, seed=7),
        "camera_path": make_path(2, 9, seed=7),
        "instruction": "a room",
    }
    for name, value in changes.items():
        assert (pipeline(**inputs | {name: value}).frames - video)[:, 1:].abs().max() > 1e-4, name


def test_words_alone_are_followed_without_a_path(make, inputs):
    """No localizer plans one: the paper's way."""
    seen = []
    hook = make().transformer.register_forward_pre_hook(lambda *call: seen.append(call[2]), with_kwargs=True)
    inputs |= {"camera_path": None, "num_frames": 13}
    assert make()(**inputs).frames.shape == (2, 13, 32, 48, 3)
    hook.remove()
    assert len(seen) == 2 and all(given["camera_path"] is None for given in seen)


def test_the_transformer_gets_latents_and_text_as_they_are_trained_on(make, inputs):
    """The context as ``encode_video`` caches it, the words and the null text padded to 512, the free context noise."""
    pipeline, seen = make(), []
    hook = pipeline.transformer.register_forward_pre_hook(lambda *call: seen.append(call[2]), with_kwargs=True)
    frames = (255 * inputs["context_video"]).round().byte()
    index = pipeline(**inputs | {"context_video": frames / 255}, guidance_scale=5.0).context_index
    hook.remove()
    said, free = seen[:2]
    expected = encode_video(pipeline.codec, frames)[:, index]
    torch.testing.assert_close(said["context_latents"][0], expected, **CLOSE)
    assert said["context_timestep"].tolist() == [0.0] and free["context_timestep"].tolist() == [1000.0]
    assert (free["context_latents"] - said["context_latents"]).abs().max() > 1
    assert free.get("camera_path") is None
    texts = said["encoder_hidden_states"], free["encoder_hidden_states"]
    assert [tuple(text.shape) for text in texts] == [(2, 512, 8)] * 2
    assert [int((text[0] != 0).any(dim=1).sum()) for text in texts] == [8, 1]  # its tokens; the end mark alone


def test_one_step_without_context_is_that_of_diffusers_wan_pipeline(stock, inputs):
    """Image, text, guidance, codec and decoding together; later steps differ, as their noise levels do."""
    tokenizer = AutoTokenizer.from_pretrained(stock / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(stock / "text_encoder").eval()
    parts = {
        "vae": AutoencoderKLWan.from_pretrained(stock / "vae"),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
        "transformer": WanTransformer3DModel.from_pretrained(stock / "transformer"),
        "tokenizer": tokenizer,
        "text_encoder": encoder,
    }
    theirs, ours = WanImageToVideoPipeline(**parts, expand_timesteps=True), build(stock, pose=None)
    with torch.no_grad():
        said, unsaid = WanPipeline(tokenizer, encoder, None, None).encode_prompt(SAID, "", max_sequence_length=512)
    for pipeline in (ours, theirs):
        pipeline.set_progress_bar_config(disable=True)
    expected = theirs(
        image=inputs["start_frame"][:1].permute(0, 3, 1, 2),
        prompt_embeds=said,
        negative_prompt_embeds=unsaid,
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=1,
        guidance_scale=5.0,
        latents=torch.randn((1, 3, 3, 4, 6), generator=seeded()),
        output_type="pt",
    ).frames
    changes = {"start_frame": inputs["start_frame"][:1], "camera_path": None, "num_frames": 9}
    changes |= {"context_video": None, "num_context_latents": 0, "num_inference_steps": 1}
    video = ours(**inputs | changes, guidance_scale=5.0, generator=seeded()).frames
    torch.testing.assert_close(video, expected.permute(0, 1, 3, 4, 2), atol=1e-4, rtol=0)


def test_tiles_and_slices_are_diffusers_own(stock, inputs):
    pipeline = build(stock)
    whole = pipeline(**inputs).frames
    pipeline.codec.enable_slicing()
    pipeline.codec.enable_tiling()  # of 256 pixels, more than there are
    torch.testing.assert_close(pipeline(**inputs).frames, whole, **CLOSE)
    pipeline.codec.enable_tiling(32, 32, 16, 16)
    tiled = pipeline(**inputs).frames
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)


@pytest.fixture
def saved(make, tmp_path) -> Path:
    make("one_way").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_saved_and_loaded_as_safetensors_alone(make, inputs, saved):
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    pipeline = Video4SpatialPipeline.from_pretrained(saved)
    pipeline.set_progress_bar_config(disable=True)
    assert (pipeline.config.gap, pipeline.scheduler.config.shift) == (50, 5.0)
    assert torch.equal(pipeline(**inputs).frames, make("one_way")(**inputs).frames)


def test_bf16_stays_bf16_but_for_the_codec(make, inputs, saved):
    pipeline = Video4SpatialPipeline.from_pretrained(saved, torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(**inputs, guidance_scale=2.0).frames
    for model, dtype in (("transformer", torch.bfloat16), ("text_encoder", torch.bfloat16), ("codec", torch.float32)):
        assert {value.dtype for value in getattr(pipeline, model).parameters()} == {dtype}
    assert pipeline.transformer.rope.freqs_cos.dtype == torch.float32  # bf16 would blur where and when a token is
    assert video.dtype == torch.float32 and video.isfinite().all()
    assert (video - make("one_way")(**inputs, guidance_scale=2.0).frames).abs().mean() < 0.02


@pytest.mark.parametrize("part", ["transformer", "codec", "text_encoder"])
def test_weights_with_a_key_too_few_are_refused(saved, part):
    (file,) = (saved / part).glob("*.safetensors")
    weights = load_file(file)
    name = sorted(weights)[0]
    del weights[name]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"got missing \['{name}'\] and unexpected \[\]"):
        Video4SpatialPipeline.from_pretrained(saved)


def test_a_saved_pipeline_without_its_tokenizer_is_refused(saved):
    shutil.rmtree(saved / "tokenizer")
    with pytest.raises(FileNotFoundError, match="^expected text_encoder and tokenizer in .*, got no tokenizer: give"):
        Video4SpatialPipeline.from_pretrained(saved)


@WAYS
def test_of_offloaded_models_one_at_a_time_is_on_the_device(stock, inputs, way, monkeypatch):
    """Watched at accelerate's hooks. With the CPU as device there is nothing to move, but the order is a GPU's."""
    pipeline, there, seen = build(stock, way), set(), []
    expected = pipeline(**inputs, guidance_scale=5.0).frames
    names = {id(model): name for name, model in pipeline.components.items()}
    come, leave = CpuOffload.pre_forward, CpuOffload.init_hook

    def comes(hook: CpuOffload, module: nn.Module, *inputs: object, **named: object) -> tuple:
        result = come(hook, module, *inputs, **named)
        if hook.prev_module_hook is not None:  # what it takes off a GPU
            there.discard(names[id(hook.prev_module_hook.model)])
        there.add(names[id(module)])
        if seen[-1:] != [set(there)]:
            seen.append(set(there))
        return result

    def leaves(hook: CpuOffload, module: nn.Module) -> nn.Module:
        there.discard(names[id(module)])
        return leave(hook, module)

    monkeypatch.setattr(CpuOffload, "pre_forward", comes)
    monkeypatch.setattr(CpuOffload, "init_hook", leaves)
    pipeline.enable_model_cpu_offload(device="cpu")
    torch.testing.assert_close(pipeline(**inputs, guidance_scale=5.0).frames, expected, **CLOSE)
    assert seen == [{"codec"}, {"text_encoder"}, {"transformer"}, {"codec"}] and not there


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@WAYS
def test_offloading_on_a_gpu_gives_the_same_video_and_leaves_nothing_there(stock, inputs, way):
    pipeline = build(stock, way).to("cuda")
    expected = pipeline(**inputs, guidance_scale=5.0).frames
    pipeline.enable_model_cpu_offload()
    torch.testing.assert_close(pipeline(**inputs, guidance_scale=5.0).frames, expected, atol=1e-3, rtol=0)
    parts = (pipeline.codec, pipeline.text_encoder, pipeline.transformer)
    assert {value.device.type for part in parts for value in part.parameters()} == {"cpu"}


def wide(inputs: dict) -> dict:
    return {"start_frame": rand(2, 32, 40, 3), "context_video": rand(17, 32, 40, 3)}


def words(inputs: dict) -> dict:
    return {"instruction": " ".join(["room"] * 512)}


REFUSED: dict[str, tuple[dict, Callable | None, str]] = {
    "sizes": ({}, wide, r"expected start_frame in multiples of 16x16 pixels \(H x W\), got shape \(2, 32, 40, 3\): "),
    "too many words": ({}, words, "expected at most 512 tokens, got 513 of 'room room"),
    "no tokenizer": (
        {"tokenizer": None},
        None,
        "expected text_encoder and tokenizer for a model that reads sentences, got no tokenizer: load both",
    ),
    "no encoder": (
        {"text_encoder": None},
        None,
        "expected text_encoder and tokenizer for a model that reads sentences, got no text_encoder: load both",
    ),
    "another codec": (
        {"codec": PatchCodec(8)},
        None,
        "expected a codec with latents of 3 channels, got 768: use the one of the training",
    ),
    "two frames a latent": (
        {"codec": tiny_wan(temperal_downsample=[False, True])},
        None,
        "expected a codec with 4 frames a latent, got 2: choose another",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parts_and_inputs_that_do_not_fit_are_refused_before_anything_is_computed(make, inputs, name):
    parts, change, message = REFUSED[name]
    pipeline = Video4SpatialPipeline(**make().components | parts, gap=50)
    inputs |= change(inputs) if change else {}
    generator, calls = seeded(), []
    hook = pipeline.transformer.register_forward_hook(lambda *_: calls.append(1))
    before: Tensor = generator.get_state()
    with pytest.raises(ValueError, match=f"^{message}"):
        pipeline(**inputs, generator=generator)
    hook.remove()
    assert calls == [] and torch.equal(generator.get_state(), before)


def test_an_encoder_of_another_width_is_refused(make, inputs):
    encoder = UMT5EncoderModel(type(make().text_encoder.config)(vocab_size=9, d_model=4, d_kv=2, d_ff=4, num_layers=1))
    pipeline = Video4SpatialPipeline(**make().components | {"text_encoder": encoder})
    with pytest.raises(ValueError, match="^expected a text_encoder with embeddings of 8 values, got 4: use the one"):
        pipeline(**inputs)
