"""Ablation arms: what each changes, and what it is compared with. ``python -m v4s_lib.training --arm NAME`` trains one.

An arm takes sight, finder and words from trained weights (``--init``, or those that ship) and is taught to draw from
nothing; what it takes was trained as the reference is, which makes differences smaller. One without these
parts starts from scratch, and has a reference of its own, in the paper's plain form. All arms see as many targets.
``python -m v4s_lib.evaluation.trained`` compares them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from v4s_lib.data.manifests import MANIFESTS, shipped_folder
from v4s_lib.training.presets import Preset

STEPS = 200  # of an arm, that teach to draw: 3,200 targets of preset small
UNPAINTED_STEPS = 400  # of one without the painter, of half the contexts: as many targets, in as long
RUNS = Path("runs/arms")
# The paper's form: no localizer and what builds on it, no learned places in the frame or in time.
PLAIN = {
    "localize_after": None,
    "ray_rotary": False,
    "see_places": None,
    "find_words": None,
    "paint": False,
    "relative_time": False,
    "position_size": None,
}


@dataclass(frozen=True)
class Arm:
    """One training that differs from its reference in one thing."""

    changes: str  # in words
    change: Callable[[Preset], Preset]
    reference: str = "reference"  # the arm it is compared with; a reference names itself
    scratch: bool = False  # starts from random weights
    steps: int = STEPS  # that teach to draw, as many as its reference's


def _task(changes: dict[str, Any]) -> Callable[[Preset], Preset]:
    return lambda preset: replace(preset, task=replace(preset.task, **changes))


def _loss(changes: dict[str, Any]) -> Callable[[Preset], Preset]:
    return lambda preset: replace(preset, loss=replace(preset.loss, **changes))


def _model(changes: dict[str, Any]) -> Callable[[Preset], Preset]:
    return lambda preset: replace(preset, model=preset.model | changes)


def _plain(changes: str, model: dict[str, Any]) -> Arm:
    """An arm of the plain form, from scratch."""
    return Arm(changes, _model(PLAIN | model), "plain_one_way", scratch=True)


def _own_rooms(changes: str, change: Callable[[Preset], Preset] = lambda preset: preset) -> Arm:
    """An arm that never meets another room's context in training.

    A painter that learns to distrust such contexts comes to trust the right ones less, by luck of the seed: trainings
    of the reference end up to 0.7 dB apart. In sampling such contexts are put aside before anything is painted.
    """
    return Arm(changes, lambda preset: _loss({"other_context": 0.0})(change(preset)), "own_rooms")


def batch(preset: Preset, factor: float) -> Preset:
    """``factor`` times the contexts a step; a room serves as many steps as before, or as many as there are contexts."""
    contexts = max(1, round(preset.contexts * factor))
    return replace(preset, contexts=contexts, reuse=min(preset.reuse, contexts))


def without_painter(preset: Preset) -> Preset:
    """What the context shows comes by attention alone, as in the paper."""
    return _model({"paint": False})(preset)


def _unpainted(changes: str, model: Callable[[Preset], Preset] = lambda preset: preset) -> Arm:
    """An arm without the painter; half the batch and the plain error of clean latents let the context come in sooner.

    See the README, "Equal minutes of training".
    """

    def change(preset: Preset) -> Preset:
        return batch(_loss({"min_sigma": 1.0})(without_painter(model(preset))), 0.5)

    return Arm(changes, change, "unpainted", steps=UNPAINTED_STEPS)


def _hierarchical(preset: Preset) -> Preset:
    """Of the blocks that draw, the path, which lays pictures out, in the first half, the context in the second."""
    after, blocks = preset.model["localize_after"], list(range(preset.model["num_layers"]))
    half = (after + len(blocks)) // 2
    return _model({"pose_blocks": blocks[:half], "context_blocks": blocks[:after] + blocks[half:]})(preset)


def _no_keys(preset: Preset) -> Preset:
    """The context is seen where it is located and, in what draws, by the painter alone."""
    return _model({"context_blocks": list(range(preset.model["localize_after"]))})(preset)


VIEWPOINT, OCCLUSION, LIGHTING = {"tilt": 10.0, "lift": 0.3}, {"hidden": 0.3}, {"lighting": 0.3}

ARMS = {
    "reference": Arm("nothing: the preset as it is", lambda preset: preset),
    "first_frame_only": Arm("no context tokens at all", _loss({"use_context": False})),
    "no_box": Arm("clips end without the box tail", _task({"tail_latents": 0})),
    "contiguous": Arm("time index = rank in the sample", _task({"contiguous": True})),
    "gap_0": Arm("the start frame follows the scan at once", _task({"gap": 0})),
    "gap_16": Arm("16 latents between scan and start frame", _task({"gap": 16})),
    "c2w_12": Arm("12 numbers a pose in place of a map of rays", _model({"pose_encoding": "c2w_12"})),
    "own_rooms": _own_rooms("nothing: no context of another room in training, so that seeds differ less"),
    "navigation_alone": _own_rooms("no target seeks an object", _task({"grounding": 0.0})),
    "grounding_alone": _own_rooms("every target seeks an object", _task({"grounding": 1.0})),
    "adapters": _own_rooms("adapters of rank 16 for each task", _model({"task_adapters": 16})),
    "consistency": _own_rooms("geometric-consistency loss of weight 3", _loss({"consistency": 3.0})),
    "viewpoint": _own_rooms("scans tilted by up to 10 degrees, raised by up to 0.3 m", _task(VIEWPOINT)),
    "occlusion": _own_rooms("something close before the lens in 30% of a scan's latents", _task(OCCLUSION)),
    "lighting": _own_rooms("exposure and white balance of each of a scan's latents", _task(LIGHTING)),
    "augmented": _own_rooms("viewpoint, occlusion and lighting together", _task(VIEWPOINT | OCCLUSION | LIGHTING)),
    "mixed": _own_rooms("half of the scenes are parks, in which nothing is sought", _task({"parks": 0.5})),
    "unpainted": _unpainted("nothing: no painter, half the batch, twice the steps, the plain error of clean latents"),
    "unpainted_no_keys": _unpainted("targets see no keys of the context in the blocks that draw", _no_keys),
    "unpainted_compressed_4": _unpainted(
        "targets see 2 latents by 2 rows of context as one", _model({"context_compression": (2, 2, 1)})
    ),
    "unpainted_spatial_only": _unpainted(
        "every context latent attends to itself alone", _model({"spatial_only_context": True})
    ),
    "unpainted_two_way": _unpainted(
        "context and target attend to each other in the blocks that draw", _model({"context_attention": "two_way"})
    ),
    "unpainted_hierarchical": _unpainted("of the blocks that draw, path in early, context in late ones", _hierarchical),
    "plain_one_way": _plain("nothing: the plain form with one-way attention", {}),
    "plain_two_way": _plain("context and target attend to each other", {"context_attention": "two_way"}),
}


def get_arm(name: str) -> Arm:
    """The arm of that name."""
    if name not in ARMS:
        raise ValueError(f"expected an arm out of {', '.join(ARMS)}, got {name!r}: choose one of them")
    return ARMS[name]


def arm_folder(name: str, seed: int, runs: Path = RUNS) -> Path:
    """The folder of an arm's training."""
    return runs / f"{name}-seed{seed}"


def arm_preset(name: str, preset: Preset, steps: int | None = None) -> Preset:
    """What an arm trains: the preset, changed, with ``steps`` that teach to draw (its own), and none to locate.

    With weights to start from it begins at the end of the curriculum; from scratch it walks through it, in half of
    the steps at most.
    """
    arm, task = get_arm(name), preset.task
    steps = arm.steps if steps is None else steps
    preset = replace(preset, steps=steps, locate_steps=0, find_steps=0)
    if arm.scratch:
        return arm.change(replace(preset, ramp_steps=min(preset.ramp_steps, max(1, steps // 2))))
    return arm.change(replace(preset, first_reach=task.reach, first_spread=task.spread, draw_anew=True))


def arm_start(name: str, preset: str, init: Path | None) -> Path | None:
    """The folder of weights that an arm starts from, those that ship without an ``init``; None is from scratch."""
    if get_arm(name).scratch:
        if init is not None:
            raise ValueError(f"expected no --init for arm {name}, which starts from scratch, got {init}: leave it out")
        return None
    if init is None and not (MANIFESTS / f"weights_{preset}.yaml").is_file():
        raise ValueError(f"expected --init for arm {name}, got none: {preset} ships no weights, name a folder of some")
    return init or shipped_folder(f"weights_{preset}", f"weights/{preset}/ours")
