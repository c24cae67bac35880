"""Why did a clip fail? The first cause that the room's truth shows, in words, for the galleries of failures."""

from torch import Tensor

from v4s_lib.data.boxes import is_centred, is_shown
from v4s_lib.data.grounding import GroundingEpisode
from v4s_lib.data.navigation import NavigationEpisode
from v4s_lib.data.rooms import RoomTask, render_one
from v4s_lib.data.targets import middle
from v4s_lib.evaluation.diagnose import degrees_off
from v4s_lib.evaluation.following import MAX_ROTATION, MAX_TRANSLATION
from v4s_lib.worlds.cameras import rotation_angle, translation_distance

MISPLACED = 0.1  # of the context's frames; our choice
AIMED_AT = 10.0  # degrees between the viewing direction and an object's middle; our choice


def navigation_cause(found: dict[str, Tensor], episode: NavigationEpisode) -> str:
    """What went wrong in a clip along a path, by the poses behind it.

    Args:
        found: what ``diagnose.predict`` returns of a model with sight.
        episode: the room's truth.
    """
    context = found["to_axes"] @ episode.scan_c2w[found["frames"]].flatten(0, 1)
    start = (found["to_axes"] @ episode.target_c2w[0])[None]
    turned, away = rotation_angle(found["target"][:1, -1], start), translation_distance(found["target"][:1, -1], start)
    frames = found["context"].flatten(0, 1)
    lost = (rotation_angle(frames, context) > MAX_ROTATION) | (translation_distance(frames, context) > MAX_TRANSLATION)
    share = lost.float().mean().item()
    facts = f"start frame {turned.item():.1f}° and {away.item():.2f} m off, {share:.0%} of the context's frames astray"
    if turned > MAX_ROTATION or away > MAX_TRANSLATION:
        return f"the start frame is misplaced ({facts})"
    if share > MISPLACED:
        return f"context frames are misplaced ({facts})"
    return f"places are right: depths or drawing are not ({facts})"


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
