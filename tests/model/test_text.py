"""Words and places: what is said is told apart, and what cannot be understood is refused."""

import pytest
import torch

from v4s_lib.data.instructions import grounding_instruction, object_name
from v4s_lib.model.text import MAX_WORDS, WordEmbedding, tokenize, vocabulary, words
from v4s_lib.worlds.objects import COLORS, KINDS

KNOWN = vocabulary()


def test_every_object_can_be_named_in_every_relation():
    names = [object_name(f"{color} {kind}") for color in COLORS for kind in KINDS]
    names += [object_name(f"{color} ball", "left of", "blue lamp") for color in COLORS]
    tokens = tokenize([grounding_instruction(name) for name in names], KNOWN)
    assert tokens.shape == (len(names), MAX_WORDS)
    assert len({tuple(row) for row in tokens.tolist()}) == len(names) == 8 * 10 + 8


def test_the_longest_instruction_fits():
    longest = grounding_instruction(object_name("orange ball", "right of", "orange chair"))
    assert len(words(longest)) <= MAX_WORDS


def test_order_matters_and_padding_is_the_null_text():
    torch.manual_seed(0)
    embedding = WordEmbedding(16, KNOWN)
    sentences = [
        grounding_instruction(object_name("red ball", "left of", "blue lamp")),
        grounding_instruction(object_name("blue ball", "left of", "red lamp")),
        "",
    ]
    first, second, empty = embedding(tokenize(sentences, KNOWN))
    torch.testing.assert_close(first.sum(dim=0), second.sum(dim=0), atol=1e-5, rtol=0)  # the same words
    assert (first - second).abs().max() > 0.01  # in other places
    torch.testing.assert_close(empty - embedding.place, embedding.word.weight[0].expand(MAX_WORDS, -1))


def test_case_and_punctuation_do_not_matter():
    assert torch.equal(tokenize(["A RED ball."], KNOWN), tokenize(["a red, ball"], KNOWN))


def test_names_are_grammatical():
    assert object_name("orange ball") == "an orange ball"
    assert object_name("red kettle", "right of", "orange chair") == "a red kettle right of the orange chair"


def test_what_is_not_in_the_vocabulary_is_refused_with_what_is():
    with pytest.raises(ValueError, match="expected words out of .*kettle.*got 'elephant': say it with these words"):
        tokenize(["a red elephant"], KNOWN)
    with pytest.raises(
        ValueError, match=r"expected an object named by a colour \(red, .*\) and a kind \(ball, .*\), got 'pink ball'"
    ):
        object_name("pink ball")
    with pytest.raises(ValueError, match="expected a relation out of left of, right of, got 'under'"):
        object_name("red ball", "under", "blue lamp")
    with pytest.raises(ValueError, match="expected at most 28 words, got 40"):
        tokenize(["ball " * 40], KNOWN)
