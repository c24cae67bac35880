"""Every arm differs from its reference in what it says, builds, and trains from the weights that it should."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.__main__ import asked, main, parse
from v4s_lib.training.arms import ARMS, STEPS, arm_preset, arm_start, get_arm
from v4s_lib.training.data import RoomStream
from v4s_lib.training.loss import flow_matching_loss, locating_loss
from v4s_lib.training.presets import SMALL, SMOKE
from v4s_lib.training.weights import initial_model, initial_weights, load_pipeline

EVERY = pytest.mark.parametrize("name", ARMS)
PARTS = ("task", "model", "loss")


def differing(name: str) -> set[str]:
    """The settings of ``small`` in which an arm differs from its reference."""
    arm, reference = (asdict(arm_preset(one, SMALL)) for one in (name, get_arm(name).reference))
    return {f"{part}.{key}" for part in PARTS for key in arm[part] if arm[part][key] != reference[part].get(key)}


@pytest.fixture(scope="module")
def init(tmp_path_factory) -> Path:
    """Random weights of ``smoke`` in which nothing is left at zero but the pose adapter."""
    torch.manual_seed(0)
    model = ContextVideoTransformer(**SMOKE.model)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.startswith("pose_adapter"):
                value.add_(0.1 * torch.randn_like(value))
    folder = tmp_path_factory.mktemp("init")
    model.save_pretrained(folder)
    return folder


@EVERY
def test_an_arm_differs_from_its_reference_and_sees_as_many_targets(name):
    arm = get_arm(name)
    assert bool(differing(name)) == (arm.reference != name)
    assert ARMS[arm.reference].reference == arm.reference and ARMS[arm.reference].scratch == arm.scratch
    preset, reference = arm_preset(name, SMALL, 500), arm_preset(arm.reference, SMALL, 500)
    assert preset.steps - preset.locate_steps == reference.steps - reference.locate_steps == 500
    assert (preset.contexts, preset.task.targets) == (reference.contexts, reference.task.targets)


def test_single_arms_change_one_thing():
    assert differing("no_box") == {"task.tail_latents"}
    assert differing("contiguous") == {"task.contiguous"}
    assert differing("consistency") == {"loss.consistency"}
    assert differing("mixed") == {"task.parks"}
    assert differing("adapters") == {"model.task_adapters"}
    assert differing("navigation_alone") == differing("grounding_alone") == {"task.grounding"}
    assert [arm_preset(f"{task}_alone", SMALL).task.grounding for task in ("navigation", "grounding")] == [0, 1]
    assert differing("plain_two_way") == differing("unpainted_two_way") == {"model.context_attention"}
    assert differing("unpainted_spatial_only") == {"model.spatial_only_context"}


def test_without_a_painter_the_context_comes_by_attention_alone():
    preset = arm_preset("unpainted", SMALL)
    assert not preset.model["paint"] and preset.steps == 2 * STEPS and preset.contexts == SMALL.contexts // 2
    later = arm_preset("unpainted_hierarchical", SMALL).model
    assert later["pose_blocks"] == [0, 1, 2, 3, 4, 5] and later["context_blocks"] == [0, 1, 2, 3, 6, 7]


@EVERY
def test_an_arm_takes_a_step(name, init):
    """From its start to a loss whose gradients are finite."""
    arm, preset = get_arm(name), arm_preset(name, SMOKE, 2)
    torch.manual_seed(0)
    model = (
        ContextVideoTransformer(**preset.model) if arm.scratch else initial_model(preset, initial_weights(preset, init))
    )
    sample = RoomStream(preset, 0, "cpu").sample(0)
    loss = flow_matching_loss(model, sample, preset.loss, torch.Generator().manual_seed(0), true_poses=0.5)
    loss.backward()
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert loss.isfinite() and gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_another_encoding_of_the_path_starts_anew_and_the_rest_is_the_donors(init):
    preset = replace(arm_preset("c2w_12", SMOKE), draw_anew=False)
    model, donor = initial_model(preset, initial_weights(preset, init)), ContextVideoTransformer.from_pretrained(init)
    assert all(not value.any() for value in model.pose_adapter.parameters())
    assert model.pose_adapter[0].in_features == 12
    own = model.state_dict()
    assert all(torch.equal(own[n], v) for n, v in donor.state_dict().items() if not n.startswith("pose_adapter"))


def test_an_arm_takes_what_locates_and_draws_anew(init):
    """All that a locate step gives gradients to is the donor's, and nothing else is."""
    preset = arm_preset("reference", SMOKE)
    own = initial_model(preset, initial_weights(preset, init)).state_dict()
    donor = ContextVideoTransformer.from_pretrained(init)
    stream = RoomStream(RoomStream.for_locating(SMOKE), 0, "cpu")
    locating_loss(donor, stream.sample(0), SMOKE.loss).backward()
    for name, value in donor.named_parameters():
        if value.any():  # the pose adapter alone is zero in both
            assert torch.equal(own[name], value) == (value.grad is not None), name


def test_weights_to_start_from_are_kept_whole_without_draw_anew(init):
    model, donor = initial_model(SMOKE, initial_weights(SMOKE, init)), ContextVideoTransformer.from_pretrained(init)
    assert all(torch.equal(value, donor.state_dict()[name]) for name, value in model.state_dict().items())


def test_contiguous_indices_are_ranks_in_the_sample_and_the_target_follows():
    preset = arm_preset("contiguous", SMOKE)
    sample = RoomStream(preset, 0, "cpu").sample(0)
    assert (sample.context_time_index.diff(dim=1) == 1).all()
    starts = sample.target_time_index[:: preset.task.targets, 0]
    assert torch.equal(sample.context_time_index[:, -1] + 1, starts)
    other = RoomStream(arm_preset("reference", SMOKE), 0, "cpu").sample(0)
    assert torch.equal(sample.context_latents, other.context_latents)  # nothing else is changed


@pytest.mark.parametrize("contiguous", [False, True])
def test_contiguous_indices_reach_the_model_in_sampling(contiguous):
    preset = replace(SMOKE, task=replace(SMOKE.task, contiguous=contiguous))
    pipeline, calls = load_pipeline(preset), []
    pipeline.transformer.rope.register_forward_pre_hook(lambda _, args: calls.append(args[0]))
    scan = torch.rand(29, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    index = pipeline(scan, scan[:1], instruction="The camera moves smoothly in a room.", num_frames=5,
                     num_context_latents=4).context_index  # fmt: skip
    context, target = calls[0], calls[-1]
    assert torch.equal(context[0], torch.arange(4) if contiguous else index)
    assert target[0].tolist() == ([4, 5] if contiguous else [8 + preset.task.gap, 9 + preset.task.gap])


def test_the_command_trains_an_arm_from_the_right_start(tmp_path, init, capsys, seldom_validated):
    options = ["--preset", "smoke", "--steps", "1", "--out", str(tmp_path / "arm")]
    assert main([*options, "--arm", "no_box", "--init", str(init)]) == 0
    assert (tmp_path / "arm" / "weights" / "config.json").is_file()
    assert main([*options, "--arm", "no_box"]) == 2
    assert main([*options, "--arm", "plain_two_way", "--init", str(init)]) == 2
    assert main([*options, "--arm", "faster"]) == 2
    sentences = capsys.readouterr().err.splitlines()[-3:]
    assert [sentence.split(":")[0] for sentence in sentences[:2]] == [
        "expected --init for arm no_box, got none",
        f"expected no --init for arm plain_two_way, which starts from scratch, got {init}",
    ]
    assert sentences[2].startswith("expected an arm out of reference, ") and "'faster'" in sentences[2]


def test_options_reach_the_preset(init):
    preset = asked(parse(["--arm", "gap_16", "--init", str(init), "--no-compile"]))
    assert (preset.task.gap, preset.steps, preset.locate_steps, preset.compile) == (16, STEPS, 0, False)
    assert arm_start("gap_16", "small", init) == init
    assert arm_start("gap_16", "small", None) == MANIFESTS / "weights" / "small" / "ours"
