"""Folders of scans: which there are, their videos, the files they are made of, and how many latents they give."""

from pathlib import Path

from v4s_lib.data.depth import DEPTH_NAME
from v4s_lib.data.episodes import TRANSFORMS_NAME, VIDEO_NAME, VIDEO_SUFFIXES, only_video
from v4s_lib.data.files import sha256
from v4s_lib.worlds.paths import FRAMES_PER_LATENT


def find_episodes(folder: Path) -> dict[str, Path]:
    """The episode that a folder is, or those that it holds, by the names of their folders."""
    if not folder.is_dir():
        raise FileNotFoundError(f"expected a folder of episodes at {folder}, got nothing there: check the path")
    inside = sorted(folder.iterdir())
    if any(path.suffix.lower() in VIDEO_SUFFIXES for path in inside):
        return {folder.resolve().name: folder}
    found = {path.name: path for path in inside if path.is_dir() and not path.name.startswith(".")}
    if not found:
        raise FileNotFoundError(f"expected episodes in {folder}, got none: write some there, or give another folder")
    return found


def episode_video(episode: Path) -> Path:
    """The video of an episode, with or without cameras."""
    return episode / VIDEO_NAME if (episode / TRANSFORMS_NAME).exists() else only_video(episode)


def source_hashes(episode: Path) -> dict[str, str]:
    """sha256 of the files that an episode is made of."""
    files = (episode_video(episode), episode / TRANSFORMS_NAME, episode / DEPTH_NAME)
    return {path.name: sha256(path) for path in files if path.exists()}


def whole_latents(frames: int, stride: int) -> int:
    """Latents of every ``stride``-th of so many frames; those after the last 4k+1 are left out."""
    return (-(-frames // stride) - 1) // FRAMES_PER_LATENT + 1
