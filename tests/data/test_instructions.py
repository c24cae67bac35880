"""What a model is told: the paper's sentences, in a place that is named."""

import json

from v4s_lib.data.instructions import NAVIGATION, grounding_instruction, navigation_instruction
from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.model.text import vocabulary


def test_a_room_is_what_the_shipped_model_was_told():
    assert navigation_instruction() == navigation_instruction("room") == NAVIGATION
    assert NAVIGATION == "The camera moves smoothly in a room."
    assert grounding_instruction("a red kettle") == (
        "The camera moves smoothly through a room. Finally, it focuses on a red kettle in the center of the frame."
    )
    config = json.loads((MANIFESTS / "weights/small/ours/config.json").read_text())
    assert vocabulary() == config["vocabulary"]


def test_another_place_has_its_article():
    assert navigation_instruction("place") == "The camera moves smoothly in a place."
    assert navigation_instruction("attic") == "The camera moves smoothly in an attic."
    assert grounding_instruction("a bicycle in a room", "park") == (
        "The camera moves smoothly through a park. Finally, it focuses on a bicycle in a room in the center of the "
        "frame."
    )
