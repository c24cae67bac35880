"""Presets fit together: sizes of task, codec and model, and the limits of DESIGN."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from v4s_lib.data.rooms import make_rooms
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.data import RoomStream
from v4s_lib.training.presets import PRESETS, get_preset
from v4s_lib.worlds.cameras import Camera
from v4s_lib.worlds.objects import NEW_LABELS
from v4s_lib.worlds.paths import latent_frames

EVERY = pytest.mark.parametrize("name", PRESETS)
MIB = 2**20


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in ContextVideoTransformer(**get_preset(name).model).parameters())


@EVERY
def test_task_codec_and_model_fit(name):
    preset = get_preset(name)
    camera, task, model = preset.task.camera, preset.task, preset.model
    codec = PatchCodec(preset.patch_size)
    latents = codec.encode(torch.zeros(1, latent_frames(task.target_latents), camera.height, camera.width, 3))
    rows, columns = model["position_size"]
    assert latents.shape == (1, model["in_channels"], task.target_latents, rows, columns)
    assert model["horizontal_fov"] == camera.horizontal_fov
    assert model["patch_size"] == (1, 1, 1)
    assert preset.contexts % preset.reuse == 0
    assert task.context_latents <= task.pool_latents <= task.scan_latents[0] <= task.scan_latents[1]
    assert task.targets <= preset.pool_targets
    assert preset.first_reach <= task.reach and preset.first_spread <= task.spread
    assert 0 < preset.ramp_steps <= preset.steps and 0 < preset.cooldown < 1
    assert 0 < preset.locate_steps < preset.draws_from < preset.steps
    assert all(0 <= share <= 1 for share in preset.told_poses)


@EVERY
def test_training_rooms_hold_no_object_that_claim_d2_calls_new(name):
    preset = get_preset(name)
    for rooms in (preset, RoomStream.for_locating(preset)):
        task = replace(rooms.task, camera=Camera(4, 6), scan_latents=(8, 8), pool_latents=4)  # quick to render
        objects = make_rooms(list(range(12)), task, 1).scenes.objects
        labels = {item.label for room in objects for item in room}
        assert labels.isdisjoint(NEW_LABELS) and len(labels) > 20


def test_small_fits_two_files_and_smoke_is_tiny():
    assert 2 * parameters("small") <= 20 * MIB  # in half precision, in files of 15 MB at most
    assert parameters("smoke") < 2_000_000


def test_base_has_the_lengths_of_the_paper_and_the_size_of_the_design():
    base, camera = get_preset("base"), get_preset("base").task.camera
    assert (base.task.context_latents, base.task.target_latents, base.task.tail_latents) == (84, 1 + 40, 5)
    assert base.task.gap == 50
    assert (camera.height, camera.width) >= (64, 96)
    assert parameters("base") <= 16_000_000


def test_a_preset_is_changed_by_copy():
    changed = get_preset("smoke", steps=7)
    assert changed.steps == 7 and changed == replace(get_preset("smoke"), steps=7) != get_preset("smoke")
    with pytest.raises(FrozenInstanceError):
        changed.steps = 8


def test_the_full_scale_is_pointed_to_its_own_command():
    with pytest.raises(ValueError, match="got 'full': .* python -m v4s_lib.training.finetune --scale full$"):
        get_preset("full")


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="^expected a preset out of .*smoke.*, got 'huge': choose one of them$"):
        get_preset("huge")
