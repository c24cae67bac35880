"""What a model is told in words: the paper's two sentences, and how an object is named (PAPER.md §1)."""

from v4s_lib.worlds.objects import COLORS, KINDS

PLACE = "room"  # the paper's {scene}: what generated scenes are, and those of the sets that the paper thanks
NAVIGATION = "The camera moves smoothly in a room."
GROUNDING = "The camera moves smoothly through a room. Finally, it focuses on {name} in the center of the frame."
RELATIONS = ("left of", "right of")


def object_name(label: str, relation: str | None = None, other: str | None = None) -> str:
    """ "red kettle" to "a red kettle"; with a relation "a red kettle left of the blue lamp"."""
    color, _, kind = label.partition(" ")
    if color not in COLORS or kind not in KINDS:
        raise ValueError(
            f"expected an object named by a colour ({', '.join(COLORS)}) and a kind ({', '.join(KINDS)}), "
            f"got {label!r}: name one of them"
        )
    name = with_article(label)
    if relation is None:
        return name
    if relation not in RELATIONS:
        raise ValueError(f"expected a relation out of {', '.join(RELATIONS)}, got {relation!r}: choose one of them")
    return f"{name} {relation} the {object_name(other or '').split(' ', 1)[1]}"


def with_article(label: str) -> str:
    """ "orange ball" to "an orange ball"."""
    return f"{'an' if label[0].lower() in 'aeiou' else 'a'} {label}"


def navigation_instruction(place: str = PLACE) -> str:
    """The instruction to move about in a ``place``, such as "room"."""
    return _placed(NAVIGATION, place)


def grounding_instruction(name: str, place: str = PLACE) -> str:
    """The instruction to move through a ``place`` and to end with ``name`` in the centre of the frame."""
    return _placed(GROUNDING, place).format(name=name)


def _placed(sentence: str, place: str) -> str:
    return sentence.replace(with_article(PLACE), with_article(place))
