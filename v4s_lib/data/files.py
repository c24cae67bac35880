"""Whole files: their hash, and refusing one that is not what its manifest says."""

import hashlib
from pathlib import Path


def sha256(path: str | Path) -> str:
    """Hash of a file's content, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: str | Path, size: int, digest: str) -> None:
    """Refuse a file that is missing or differs from its manifest in size (bytes) or sha256, even by one bit."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected the file {path}, got nothing there: download or write it first")
    if path.stat().st_size != size:
        raise ValueError(f"expected {size} bytes in {path}, got {path.stat().st_size}: delete it and download it again")
    found = sha256(path)
    if found != digest:
        raise ValueError(
            f"expected sha256 {digest[:16]}... of {path}, got {found[:16]}...: delete it and download it again"
        )
