"""Sentences to embeddings at small scale: one learnt vector a word of a closed vocabulary, and one a place.

Without places "a red ball left of the blue lamp" would equal "a blue ball left of the red lamp". At full scale UMT5
takes this part's seat. Source: our choice (the paper's text encoder is the base model's).
"""

import re

import torch
from torch import Tensor, nn

from v4s_lib.data.instructions import NAVIGATION, RELATIONS, grounding_instruction
from v4s_lib.worlds.objects import COLORS, KINDS

PADDING = 0  # the index of what stands after the last word; the null text is padding alone
MAX_WORDS = 28  # to which every instruction is padded; the longest of the templates has 25


def words(sentence: str) -> list[str]:
    """The words of a sentence, lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+", sentence.lower())


def vocabulary() -> list[str]:
    """Every word of the templates, the colours, the kinds and the relations, in a fixed order."""
    sentences = [NAVIGATION, grounding_instruction("a an the"), *COLORS, *KINDS, *RELATIONS]
    return sorted({word for sentence in sentences for word in words(sentence)})


def tokenize(sentences: list[str], vocabulary: list[str]) -> Tensor:
    """Indices (B, MAX_WORDS) into a vocabulary, counted from 1; "" is the null text.

    Raises ``ValueError`` for a word that is not in the vocabulary, and for too many words.
    """
    known = {word: index for index, word in enumerate(vocabulary, start=1)}
    tokens = torch.full((len(sentences), MAX_WORDS), PADDING)
    for row, sentence in enumerate(sentences):
        split = words(sentence)
        unknown = [word for word in split if word not in known]
        if unknown:
            raise ValueError(f"expected words out of {', '.join(known)}; got {unknown[0]!r}: say it with these words")
        if len(split) > MAX_WORDS:
            raise ValueError(f"expected at most {MAX_WORDS} words, got {len(split)}: say less")
        tokens[row, : len(split)] = torch.tensor([known[word] for word in split], dtype=torch.long)
    return tokens


class WordEmbedding(nn.Module):
    """Indices of words (B, L) to embeddings (B, L, dim); a part of the transformer, saved with it."""

    def __init__(self, dim: int, vocabulary: list[str]) -> None:
        super().__init__()
        self.word = nn.Embedding(1 + len(vocabulary), dim)
        self.place = nn.Parameter(torch.randn(MAX_WORDS, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.word(tokens) + self.place[: tokens.shape[1]]
