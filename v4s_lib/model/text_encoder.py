"""Sentences to embeddings at full scale: UMT5, from the folder of a saved Wan pipeline.

At small scale the words are learnt with the transformer (see text.py), and nothing of this is needed.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from v4s_lib.data.files import sha256
from v4s_lib.model.weights import check_keys

PARTS = ("text_encoder", "tokenizer")


@torch.no_grad()
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
    folder = _check_folder(folder)
    loading = {"output_loading_info": True, "use_safetensors": True, "dtype": "auto", "local_files_only": True}
    model, info = UMT5EncoderModel.from_pretrained(folder / "text_encoder", **loading)
    check_keys(folder / "text_encoder", info["missing_keys"], info["unexpected_keys"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    model = model.eval().to(device)
    embeddings = {}
    for sentence in sentences:
        tokens = tokenizer([sentence], return_tensors="pt").input_ids.to(device)
        if tokens.shape[1] > limit:
            raise ValueError(f"expected at most {limit} tokens, got {tokens.shape[1]} of {sentence!r}: say less")
        embeddings[sentence] = model(tokens, torch.ones_like(tokens)).last_hidden_state[0].cpu()
    return embeddings


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
