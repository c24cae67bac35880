"""Sentences to embeddings at small scale: one learnt vector a word of a closed vocabulary, and one a place.

Without places "a red ball left of the blue lamp" would equal "a blue ball left of the red lamp". At full scale UMT5
takes this part's seat. Source: our choice (the paper's text encoder is the base model's).
"""

import re

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from v4s_lib.data.instructions import GROUNDING, NAVIGATION, RELATIONS
from v4s_lib.worlds.objects import COLORS, KINDS

PADDING = 0  # the index of what stands after the last word; the null text is padding alone


def words(sentence: str) -> list[str]:
    """The words of a sentence, lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+", sentence.lower())


def vocabulary() -> list[str]:
    """Every word of the templates, the colours, the kinds and the relations, in a fixed order."""
    sentences = [NAVIGATION, GROUNDING.format(name="a an the"), *COLORS, *KINDS, *RELATIONS]
    return sorted({word for sentence in sentences for word in words(sentence)})


class WordEmbedding(ModelMixin, ConfigMixin):
    """Instructions (strings) to embeddings (B, max_words, dim).

    Args:
        dim: width of an embedding.
        vocabulary: the words it knows, saved with it.
        max_words: length that every instruction is padded to.
    """

    @register_to_config
    def __init__(self, dim: int, vocabulary: list[str], max_words: int = 32) -> None:
        super().__init__()
        self.word = nn.Embedding(1 + len(vocabulary), dim)
        self.place = nn.Parameter(torch.randn(max_words, dim) / dim**0.5)
        nn.init.normal_(self.word.weight, std=dim**-0.5)

    def tokenize(self, sentences: list[str]) -> Tensor:
        """Indices (B, max_words); "" is the null text.

        Raises ``ValueError`` for a word that is not in the vocabulary, and for too many words.
        """
        known = {word: index for index, word in enumerate(self.config.vocabulary, start=1)}
        tokens = torch.full((len(sentences), self.config.max_words), PADDING)
        for row, sentence in enumerate(sentences):
            split = words(sentence)
            unknown = [word for word in split if word not in known]
            if unknown:
                raise ValueError(
                    f"expected words out of {', '.join(known)}; got {unknown[0]!r}: say it with these words"
                )
            if len(split) > self.config.max_words:
                raise ValueError(f"expected at most {self.config.max_words} words, got {len(split)}: say less")
            tokens[row, : len(split)] = torch.tensor([known[word] for word in split], dtype=torch.long)
        return tokens

    def forward(self, sentences: list[str]) -> Tensor:
        """Embeddings (B, max_words, dim)."""
        tokens = self.tokenize(sentences).to(self.place.device)
        return self.word(tokens) + self.place
