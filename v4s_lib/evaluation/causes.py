"""Why did a clip fail? The first cause that the room's truth shows, in words, for the galleries of failures."""

from torch import Tensor

from v4s_lib.data.boxes import is_centred, is_shown
from v4s_lib.data.grounding import GroundingEpisode
from v4s_lib.data.navigation import NavigationEpisode
from v4s_lib.data.rooms import RoomTask, render_one
from v4s_lib.data.targets import middle
from v4s_lib.evaluation.following import MAX_ROTATION, MAX_TRANSLATION
from v4s_lib.worlds.cameras import degrees_off, inverse, rotation_angle, translation_distance

MISPLACED = 0.1  # of the context's frames; our choice
TOLD = 3.0  # dB that a clip gains if it is told the true poses, for its places to be to blame; our choice
AIMED_AT = 10.0  # degrees between the viewing direction and an object's middle; our choice


def navigation_cause(found: dict[str, Tensor], episode: NavigationEpisode, told: float) -> str:
    """What went wrong in a clip along a path, by the poses behind it.

    Args:
        found: what ``diagnose.predict`` returns of a model with sight.
        episode: the room's truth.
        told: decibels that the same weights gain in this room if they are told the true poses.
    """
    frames, context = found["context"].flatten(0, 1), episode.scan_c2w[found["frames"].flatten()]
    astray = _astray(inverse(frames)[:, None] @ frames, inverse(context)[:, None] @ context)
    anchor, astray = _majority(astray)
    start, truth = inverse(frames[anchor]) @ found["target"][0, -1], inverse(context[anchor]) @ episode.target_c2w[0]
    turned, away = rotation_angle(start, truth).item(), translation_distance(start, truth).item()
    facts = f"start frame {turned:.1f}° and {away:.2f} m off, {astray:.0%} of the context's frames astray"
    if astray > MISPLACED:
        return f"context frames are misplaced ({facts})"
    if turned > MAX_ROTATION or away > MAX_TRANSLATION:
        return f"the start frame is misplaced ({facts})"
    kind = "small errors of places, for" if told > TOLD else "errors of depths or drawing, for"
    return f"{kind} it gains {told:.1f} dB if it is told the true poses ({facts})"


def _astray(poses: Tensor, truth: Tensor) -> Tensor:
    """Which poses (..., 4, 4) are farther off than a path that is followed may be."""
    return (rotation_angle(poses, truth) > MAX_ROTATION) | (translation_distance(poses, truth) > MAX_TRANSLATION)


def _majority(astray: Tensor) -> tuple[int, float]:
    """The frame from which the fewest of (N, N) are astray, and their share: one bad frame accuses no other."""
    shares = astray.float().mean(dim=1)
    return int(shares.argmin()), shares.min().item()


def grounding_cause(end: Tensor, frames: Tensor, episode: GroundingEpisode, task: RoomTask) -> str:
    """What went wrong in a clip that looks for something, by where its plan ends.

    Args:
        end: (4, 4) c2w in the room, of the plan's last frame.
        frames: numbers (N,) of the scan's frames that the model was given.
        episode: the room's truth.
        task: of the episode.
    """
    named = episode.item
    if not is_shown(episode.scan.instance[frames] == named.instance):
        return f"no frame of the context shows the {named.label}"
    if is_centred(render_one(episode.scenes, end[None, None], task).instance[0] == named.instance):
        return f"the plan ends with the {named.label} in its middle: what is drawn there is not taken for it"
    off = {item.label: degrees_off(end, middle(item)) for item in episode.scenes.objects[0]}
    aimed = min(off, key=off.__getitem__)
    if off[named.label] <= AIMED_AT:
        return f"the plan ends on the {named.label}, which is small there, or hidden"
    if off[aimed] <= AIMED_AT:
        return f"the plan ends on the {aimed}, not on the {named.label}"
    return f"the plan ends {off[named.label]:.0f}° off the {named.label}"
