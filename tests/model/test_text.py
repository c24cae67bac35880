"""Words and places: what is said is told apart, and what cannot be understood is refused."""

import pytest
import torch

from v4s_lib.data.instructions import grounding_instruction, object_name
from v4s_lib.model.text import WordEmbedding, vocabulary
from v4s_lib.worlds.objects import COLORS, KINDS


@pytest.fixture(scope="module")
def text() -> WordEmbedding:
    torch.manual_seed(0)
    return WordEmbedding(16, vocabulary())


def test_every_object_can_be_named_in_every_relation(text):
    names = [object_name(f"{color} {kind}") for color in COLORS for kind in KINDS]
    names += [object_name(f"{color} ball", "left of", "blue lamp") for color in COLORS]
    tokens = text.tokenize([grounding_instruction(name) for name in names])
    assert len({tuple(row) for row in tokens.tolist()}) == len(names) == 8 * 10 + 8


def test_order_matters_and_padding_is_the_null_text(text):
    first, second, empty = text(
        [
            grounding_instruction(object_name("red ball", "left of", "blue lamp")),
            grounding_instruction(object_name("blue ball", "left of", "red lamp")),
            "",
        ]
    )
    torch.testing.assert_close(first.sum(dim=0), second.sum(dim=0), atol=1e-5, rtol=0)  # the same words
    assert (first - second).abs().max() > 0.01  # in other places
    torch.testing.assert_close(empty - text.place, text.word.weight[0].expand(32, -1))


def test_case_and_punctuation_do_not_matter(text):
    assert torch.equal(text.tokenize(["A RED ball."]), text.tokenize(["a red, ball"]))


def test_names_are_grammatical():
    assert object_name("orange ball") == "an orange ball"
    assert object_name("red kettle", "right of", "orange chair") == "a red kettle right of the orange chair"


def test_what_is_not_in_the_vocabulary_is_refused_with_what_is(text):
    with pytest.raises(ValueError, match="expected words out of .*kettle.*got 'elephant': say it with these words"):
        text(["a red elephant"])
    with pytest.raises(
        ValueError, match=r"expected an object named by a colour \(red, .*\) and a kind \(ball, .*\), got 'pink ball'"
    ):
        object_name("pink ball")
    with pytest.raises(ValueError, match="expected a relation out of left of, right of, got 'under'"):
        object_name("red ball", "under", "blue lamp")
    with pytest.raises(ValueError, match="expected at most 32 words, got 40"):
        text(["ball " * 40])


def test_saved_and_loaded_with_its_vocabulary(text, tmp_path):
    text.save_pretrained(tmp_path)
    again = WordEmbedding.from_pretrained(tmp_path)
    assert torch.equal(again(["a red ball"]), text(["a red ball"]))
