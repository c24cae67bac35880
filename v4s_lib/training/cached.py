"""Reading a latent cache: ``CachedLatents`` gives latents of a scan by name and index, or refuses in one sentence.

``latents.py`` writes it. A cache is a folder with ``index.json`` and a folder for every shard; the index says how the
latents were made (``Stamp``), what is in which shard, and the sha256 of each (TRAPS: a flipped byte in a safetensors
file loads silently).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from v4s_lib.data.disk import read_json
from v4s_lib.data.files import sha256
from v4s_lib.model.encoding import Codec, config_digest, latent_shape
from v4s_lib.model.text_encoder import pad_text
from v4s_lib.model.weights import weights_digest
from v4s_lib.worlds.cameras import Camera

INDEX = "index.json"
LATENTS = "latents.safetensors"  # in the folder of a shard
TEXT = "text/embeddings.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Changes with what latents.py does between a video and its latents, or the whole targets of its windows.
PREPROCESSING = (
    "4: starts; middle cut out, antialiased bilinear, 8 bits; none after the last 4k+1; float32 codec; nominal metres "
    "where the unit is unknown; lines of boxes 1/85 of the height"
)


@dataclass(frozen=True)
class Stamp:
    """All that decides the latents of a scan, beside its video. Two caches with one stamp can be mixed."""

    codec: str  # class
    codec_config: str  # sha256
    codec_weights: str  # sha256
    dtype: str  # in which latents and text are stored
    height: int  # of the frames, pixels
    width: int
    stride: int = 1  # every n-th frame of the video
    preprocessing: str = PREPROCESSING
    text_encoder: str | None = None  # sha256; None: no text, and for a reader: any
    text_tokens: int | None = None  # to which the text is padded


def make_stamp(
    codec: Codec,
    dtype: str,
    height: int,
    width: int,
    stride: int = 1,
    text_encoder: str | None = None,
    text_tokens: int | None = None,
) -> Stamp:
    """The stamp of latents of that codec; ``text_encoder`` is its ``text_digest``. Checks everything at the door."""
    if dtype not in DTYPES:
        raise ValueError(f"expected a dtype out of {', '.join(DTYPES)}, got {dtype}: choose one of them")
    if stride < 1 or (text_tokens is not None and text_tokens < 1):
        raise ValueError(f"expected stride and text tokens from 1, got {stride} and {text_tokens}: choose others")
    latent_shape(codec, height, width)
    digests = (type(codec).__name__, config_digest(codec), weights_digest(codec))
    return Stamp(*digests, dtype, height, width, stride, PREPROCESSING, text_encoder, text_tokens)


def check_stamp(folder: Path, expected: Stamp, found: Stamp, any_text: bool = False) -> None:
    """Refuse a cache that was not made as expected; the sentence names all that differs."""
    pairs = {name: (value, getattr(found, name)) for name, value in asdict(expected).items()}
    if any_text and expected.text_encoder is None:
        pairs = {name: pair for name, pair in pairs.items() if not name.startswith("text_")}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if differing:
        wanted, got = (", ".join(f"{name} {str(pair[i])[:16]}" for name, pair in differing.items()) for i in (0, 1))
        raise ValueError(
            f"expected latents with {wanted} in {folder}, got {got}: encode the scans into another folder, "
            "or ask for the latents as they are"
        )


class CachedLatents:
    """The latents of many scans, read from the disk as they are asked for.

    Args:
        folder: a latent cache.
        stamp: how the latents must have been made; ``None`` takes all that this version makes. Text that the stamp does
            not name may be there.

    A shard is checked against its sha256 when it is first touched. A copy that goes to another process opens its own
    files.
    """

    def __init__(self, folder: str | Path, stamp: Stamp | None = None) -> None:
        self.folder = Path(folder)
        index = read_json(self.folder / INDEX)
        if not {"stamp", "shards", "scans", "text"} <= index.keys():
            raise FileNotFoundError(
                f"expected a latent cache with a whole {INDEX} in {folder}, got none: "
                "run python -m v4s_lib.training.latents to its end"
            )
        self.stamp = Stamp(**index["stamp"])
        wanted = replace(self.stamp, preprocessing=PREPROCESSING) if stamp is None else stamp
        check_stamp(self.folder, wanted, self.stamp, any_text=True)
        self.files: dict[str, dict[str, Any]] = {f"{name}/{LATENTS}": facts for name, facts in index["shards"].items()}
        if index["text"] is not None:
            self.files[TEXT] = index["text"]
        self.scans: dict[str, dict[str, Any]] = index["scans"]
        self.targets: dict[str, dict[str, Any]] = index.get("targets", {})
        self._open: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    @property
    def names(self) -> list[str]:
        """The scans, sorted."""
        return sorted(self.scans)

    def length(self, name: str) -> int:
        """Latents of a scan; their time indices are 0 up to there."""
        return self._scan(name)["latents"]

    def instructions(self, name: str) -> list[str]:
        """What was said of a scan."""
        return self._scan(name)["instructions"]

    def camera(self, name: str) -> Camera | None:
        """The camera of the frames as they were encoded, where it is known."""
        fov = self._scan(name)["horizontal_fov"]
        return None if fov is None else Camera(self.stamp.height, self.stamp.width, fov)

    def latents(self, name: str, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Latents (C, N, h, w) of a scan, in the stamp's dtype; all of them when ``indices`` (N,) is ``None``."""
        return self._rows(name, "latents", indices).transpose(0, 1)

    def start_latents(self, name: str, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """The last frame of each latent as a target's start frame is encoded, alone: (C, N, h, w), as ``latents``."""
        return self._rows(name, "starts", indices).transpose(0, 1)

    def target_facts(self, name: str, first: int) -> dict[str, Any] | None:
        """Length, tail and box of the whole target that was encoded from a latent of a scan on, if one was."""
        facts = self.targets.get(target_key(name, first))
        return None if facts is None else {key: facts[key] for key in ("length", "tail", "box")}

    def target_latents(self, name: str, first: int) -> Tensor:
        """A target that was encoded whole, with its box tail: (C, T, h, w), the start frame's first; as ``latents``."""
        key = target_key(name, first)
        if key not in self.targets:
            raise ValueError(f"expected a whole target {key} in {self.folder}, got none: encode it with --windows")
        return self._file(f"{self.targets[key]['shard']}/{LATENTS}").get_tensor(key)

    def times(self, name: str, indices: Sequence[int] | Tensor | None = None) -> Tensor:
        """Seconds (N,), float64, from the video's first frame to the last one of each latent."""
        return self._rows(name, "times", indices)

    def c2w(self, name: str, indices: Sequence[int] | Tensor | None = None) -> Tensor | None:
        """Poses (N, 4, 4, 4) of each latent's four frames, OpenCV axes, metres; for training targets and measures."""
        if self._scan(name)["horizontal_fov"] is None:
            return None
        return self._rows(name, "c2w", indices)

    def text(self, sentence: str) -> Tensor:
        """Embeddings (text_tokens, dim) of an instruction of the cache, or of "", the null text; zeros behind."""
        if TEXT not in self.files:
            raise ValueError(f"expected text in {self.folder}, got none: encode the scans with --text-encoder")
        file = self._file(TEXT)
        if sentence not in file.keys():  # noqa: SIM118: it is no dictionary
            raise ValueError(f"expected a sentence of the cache {self.folder}, got {sentence!r}: encode it with it")
        return pad_text(file.get_tensor(sentence), self.stamp.text_tokens)

    def _scan(self, name: str) -> dict[str, Any]:
        if name not in self.scans:
            raise ValueError(f"expected a scan of the {len(self.scans)} in {self.folder}, got {name!r}: see names")
        return self.scans[name]

    def _rows(self, name: str, part: str, indices: Sequence[int] | Tensor | None) -> Tensor:
        count = self.length(name)
        indices = range(count) if indices is None else [int(index) for index in indices]
        outside = [index for index in indices if not 0 <= index < count]
        if outside or not indices:
            got = outside[0] if outside else "none"
            raise ValueError(f"expected latents from 0 to {count - 1} of {name}, got {got}: ask for some that it has")
        rows = self._file(f"{self.scans[name]['shard']}/{LATENTS}").get_slice(f"{name}/{part}")
        return torch.cat([rows[index : index + 1] for index in indices])

    def _file(self, name: str) -> Any:
        """The open file of that name, mapped into memory; it is checked when it is opened."""
        if name not in self._open:
            check_file(self.folder / name, self.files[name])
            self._open[name] = safe_open(self.folder / name, "pt")
        return self._open[name]


def target_key(name: str, first: int) -> str:
    """What a cache calls the whole target that starts at a latent of a scan."""
    return f"{name}/{first}"


def describe_file(path: Path) -> dict[str, Any]:
    """What ``check_file`` compares: size in bytes and sha256."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def check_file(path: Path, facts: dict[str, Any]) -> None:
    """Refuse a file of a cache that is missing or not as it was written, even by one bit."""
    got = "nothing there"
    if path.is_file():
        found = describe_file(path)
        if found == {"size": facts["size"], "sha256": facts["sha256"]}:
            return
        got = f"{found['size']} bytes with {found['sha256'][:16]}..."
    raise ValueError(
        f"expected {facts['size']} bytes with sha256 {facts['sha256'][:16]}... in {path}, got {got}: "
        "encode it again with python -m v4s_lib.training.latents, which keeps the others"
    )
