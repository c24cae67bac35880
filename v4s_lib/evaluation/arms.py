"""The arms of every experiment: ways to sample the shipped weights, and what they are shown."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Arm:
    """One way to sample; the first arm of an experiment is what the others are compared with."""

    name: str
    guidance_scale: float = 1.0
    guide_context: bool = True  # whether the branch that guidance leads away from has lost the context, too
    context_latents: int | None = None  # of the scan that are used; None is the preset's
    scan_latents: int | None = None  # of the scan; None is the preset's
    world: str = "rooms"  # out of v4s_lib.data.worlds.WORLDS
    handheld: bool = False  # whether context and start frame come from a phone's video, so to say
    with_context: bool = True
    followed: bool = False  # whether the camera finder looks at the clip, too; it takes longer than sampling
    least_shared: float | None = None  # of the start frame, for a context to be used; None is the preset's
    seeks: bool = False  # whether words name an object to end on, in place of a path

    def __post_init__(self) -> None:
        if self.seeks and (self.world != "rooms" or self.handheld or self.followed):
            raise ValueError(f"expected an arm that seeks in rooms, got {self}: there is no other")


def _followed(arms: list[Arm]) -> list[Arm]:
    """The arms, each asked where its camera went."""
    return [replace(arm, followed=True) for arm in arms]


def _pair(arm: Arm) -> list[Arm]:
    """An arm, and the same without its context; both are followed."""
    return _followed([arm, replace(arm, name=f"{arm.name} without context", with_context=False)])


def _guided() -> list[Arm]:
    """No guidance, guidance away from a branch without context and instruction, and from one without instruction."""
    scales = (1.5, 2.0, 3.0)
    joint = [Arm(f"joint {scale:g}", guidance_scale=scale) for scale in scales]
    instruction = [Arm(f"instruction {scale:g}", guidance_scale=scale, guide_context=False) for scale in scales]
    return [Arm("none"), *joint, *instruction]


def _of_scan(length: int, count: int) -> Arm:
    """A context of ``count`` latents out of a scan with ``length``, used whatever it shows."""
    return Arm(f"{count} latents", context_latents=count, scan_latents=length, least_shared=0.0)


EXPERIMENTS = {
    "guidance": _followed(_guided()),
    "grounding_guidance": [replace(arm, seeks=True) for arm in _guided()],
    # Scans of 26 latents are the longest met in training. A short context may not show the start frame; it is used all
    # the same, or the rule that puts another room's aside would decide the comparison. So in long scans.
    "context": _followed([_of_scan(26, count) for count in (16, 1, 3, 6, 12, 25)]),
    "long_scan": _followed(
        [
            Arm("without context", scan_latents=100, with_context=False),
            *(_of_scan(100, count) for count in (3, 12, 16, 25, 84, 100)),
        ]
    ),
    "grounding_context": [replace(_of_scan(100, count), seeks=True) for count in (16, 3, 12, 25, 84)],
    "handheld": [*_pair(Arm("rendered")), *_pair(Arm("handheld", handheld=True))],
    "worlds": [
        *_pair(Arm("rooms")),
        *_pair(Arm("park", world="park")),
        *_pair(Arm("rooms_unseen", world="rooms_unseen")),
    ],
}
RETAINED = ("handheld", "worlds")  # arms in pairs, with and without context; the first pair is in the training domain
