"""Sentences to embeddings at full scale: UMT5, from the folder of a saved Wan pipeline.

At small scale the words are learnt with the transformer (see text.py), and nothing of this is needed.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel

from v4s_lib.data.files import sha256
from v4s_lib.model.weights import check_keys

PARTS = ("text_encoder", "tokenizer")


def load_text_encoder(
    folder: str | Path, dtype: torch.dtype | None = None
) -> tuple[UMT5EncoderModel, PreTrainedTokenizerBase]:
    """Encoder and tokenizer from ``text_encoder`` and ``tokenizer``, as a Wan pipeline is saved; strict.

    ``dtype`` None is the type of the stored weights. Raises ``FileNotFoundError`` for a part that is not there, and
    ``ValueError`` for weights that do not fit their config.
    """
    folder = _check_folder(folder)
    loading = {"output_loading_info": True, "use_safetensors": True, "local_files_only": True}
    model, info = UMT5EncoderModel.from_pretrained(folder / "text_encoder", **loading, dtype=dtype or "auto")
    check_keys(folder / "text_encoder", info["missing_keys"], info["unexpected_keys"])
    return model.eval(), AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)


def encode_sentences(
    folder: str | Path, sentences: Sequence[str], limit: int, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """Embeddings (L, dim) of each sentence, L its own number of tokens; "" is the null text.

    Wan's pipelines put zeros behind them, up to their 512 tokens: ``pad_text`` does.

    Args:
        folder: with ``text_encoder`` and ``tokenizer``, as a Wan pipeline is saved.
        sentences: any, each without line breaks.
        limit: of L. A longer sentence is refused, where Wan's pipelines would cut its end off.
        device: to encode on; in the type of the stored weights.
    """
    model, tokenizer = load_text_encoder(folder)
    model = model.to(device)
    return {sentence: embed(model, tokenizer, sentence, limit, device).cpu() for sentence in sentences}


def token_ids(tokenizer: PreTrainedTokenizerBase, sentence: str, limit: int) -> Tensor:
    """Indices (1, L) of a sentence's tokens, its end included; ``ValueError`` for more than ``limit``."""
    tokens = tokenizer([sentence], return_tensors="pt").input_ids
    if tokens.shape[1] > limit:
        raise ValueError(f"expected at most {limit} tokens, got {tokens.shape[1]} of {sentence!r}: say less")
    return tokens


@torch.no_grad()
def embed(
    model: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
    limit: int,
    device: str | torch.device,
) -> Tensor:
    """Embeddings (L, dim) of one sentence, on ``device``, where the encoder computes."""
    tokens = token_ids(tokenizer, sentence, limit).to(device)
    return model(tokens, torch.ones_like(tokens)).last_hidden_state[0]


def pad_text(embeddings: Tensor, tokens: int) -> Tensor:
    """Embeddings (L, dim) to (tokens, dim), with zeros behind, as Wan's pipelines pad them."""
    return torch.cat([embeddings, embeddings.new_zeros(tokens - len(embeddings), embeddings.shape[1])])


def text_digest(folder: str | Path) -> str:
    """sha256 of names and contents of all files of encoder and tokenizer."""
    folder = _check_folder(folder)
    files = sorted(path for part in PARTS for path in (folder / part).rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {sha256(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_folder(folder: str | Path) -> Path:
    absent = [part for part in PARTS if not (Path(folder) / part).is_dir()]
    if absent:
        raise FileNotFoundError(
            f"expected text_encoder and tokenizer in {folder}, got no {absent[0]}: give the folder of a Wan pipeline"
        )
    return Path(folder)
