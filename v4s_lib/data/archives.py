"""Unpack a zip or tar file, all of it or nothing: ``python -m v4s_lib.data.archives FILE --out FOLDER``.

Nothing is written outside the folder that was named, whatever the archive says.
"""

import argparse
import os
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from posixpath import dirname, join, normpath
from typing import IO

from v4s_lib.command import command


@dataclass(frozen=True)
class _Member:
    """One entry: a folder when ``open`` and ``link`` are None; ``link`` is the member whose content it shares."""

    name: str
    size: int = 0
    open: Callable[[], IO[bytes]] | None = None
    link: str | None = None


def inside(folder: str | Path, name: str) -> Path:
    """The path ``folder/name``; ``ValueError`` when it would leave ``folder``, also through a link or on Windows."""
    pure = PurePosixPath(name)
    path = Path(folder) / pure
    plain = pure.parts and ".." not in pure.parts and not any(mark in name for mark in "\\\0")
    absolute = pure.is_absolute() or PureWindowsPath(name).drive
    if not plain or absolute or not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"expected a path that stays in {folder}, got {name!r}: use nothing from this source until it is corrected"
        )
    return path


def extract(archive: str | Path, folder: str | Path) -> list[Path]:
    """Unpack a zip or tar file (plain, gz, bz2, xz) into ``folder``; our choice: all of it or nothing.

    Links inside the archive become copies. Owners, permissions and times are not restored.

    Returns:
        The files, in the archive's order.

    Raises:
        FileNotFoundError: there is no such archive.
        FileExistsError: a file of that name is in ``folder`` already.
        ValueError: it is no archive, is damaged or encrypted, or a member or link leaves the folder.
        OSError: the disk is too small.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise FileNotFoundError(f"expected the archive {archive}, got nothing there: download it first")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"expected a folder at {folder}, got a file: choose another folder")
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                return _unpack(_tar_members(tar), archive, folder)
        with zipfile.ZipFile(archive) as file:
            return _unpack(_zip_members(file), archive, folder)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, NotImplementedError) as error:
        raise ValueError(f"expected a whole zip or tar file, got {archive} ({error}): download it again") from error
    except OSError as error:
        if str(error).startswith("expected "):
            raise
        if error.errno is None:  # gzip and bz2 report damaged data in this way
            raise ValueError(f"expected a whole archive, got {archive} ({error}): download it again") from error
        raise OSError(
            f"expected to unpack {archive} into {folder}, got {error.strerror}: make room or correct the permissions, "
            "then run again"
        ) from error


def _tar_members(tar: tarfile.TarFile) -> list[_Member]:
    members = []
    for info in tar.getmembers():
        if info.isdir():
            members.append(_Member(info.name))
        elif info.isfile():
            members.append(_Member(info.name, info.size, partial(tar.extractfile, info)))
        elif info.issym():
            members.append(_Member(info.name, link=join(dirname(info.name), info.linkname)))
        elif info.islnk():
            members.append(_Member(info.name, link=info.linkname))
        else:
            raise ValueError(f"expected files, folders and links, got the device {info.name!r}: do not use {tar.name}")
    return members


def _zip_members(file: zipfile.ZipFile) -> list[_Member]:
    members = []
    for info in file.infolist():
        name = info.orig_filename
        if info.flag_bits & 1:
            raise ValueError(f"expected an open zip file, got {name!r} under a password: unpack it by hand")
        if info.is_dir():
            members.append(_Member(name))
        elif stat.S_ISLNK(info.external_attr >> 16):
            members.append(_Member(name, link=join(dirname(name), _target(file, info))))
        else:
            members.append(_Member(name, info.file_size, partial(file.open, info)))
    return members


def _target(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    with file.open(info) as opened:
        return os.fsdecode(opened.read(4096))


def _unpack(members: Sequence[_Member], archive: Path, folder: Path) -> list[Path]:
    members = [member for member in members if member.open or member.link or normpath(member.name) != "."]
    _check(members, folder)
    base = folder if folder.exists() else folder.parent
    base.mkdir(parents=True, exist_ok=True)
    place = base / f".{archive.name}.extract"
    shutil.rmtree(place, ignore_errors=True)
    try:
        for member in members:
            _write(member, place)
        for member in members:
            if member.link is not None:
                shutil.copyfile(place / normpath(member.link), place / normpath(member.name))
        _move(members, place, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return [folder / normpath(member.name) for member in members if member.open or member.link]


def _check(members: Sequence[_Member], folder: Path) -> None:
    """Refuse, before anything is written, what leaves the folder, comes twice, is there already or does not fit."""
    files = [member for member in members if member.open or member.link]
    if not files:
        raise ValueError("expected an archive with files, got none in it: download it again")
    paths = [inside(folder, member.name) for member in members]
    contents = {normpath(member.name): member.size for member in members if member.open}
    names = Counter(normpath(member.name).casefold() for member in files)
    for member, path in zip(members, paths, strict=True):
        name = PurePosixPath(normpath(member.name).casefold())
        is_file = bool(member.open or member.link)
        if any(str(parent) in names for parent in name.parents) or names[str(name)] > is_file:
            raise ValueError(f"expected every name once, got {member.name!r} twice: unpack the archive by hand")
        if os.path.lexists(path) and (is_file or not path.is_dir()):
            raise FileExistsError(f"expected no {path} yet, got one: move it away, or choose another folder")
        if member.link is not None:
            inside(folder, normpath(member.link))
            if normpath(member.link) not in contents:
                got = f"{member.name!r} to {member.link!r}"
                raise ValueError(f"expected links to files of the archive, got {got}: unpack it by hand")
    needed = sum(contents.get(normpath(member.link or member.name), 0) for member in files)
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if free < needed:
        raise OSError(f"expected {needed:,} bytes free for {folder}, got {free:,}: make room or choose another disk")


def _write(member: _Member, place: Path) -> None:
    path = place / normpath(member.name)
    if member.open is None:
        (path.parent if member.link else path).mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, path.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    if path.stat().st_size != member.size:
        raise EOFError(f"{member.name!r} is cut off")


def _move(members: Sequence[_Member], place: Path, folder: Path) -> None:
    """Move what was unpacked into its folder: in one step when that is new, else file by file, undone on failure."""
    if not folder.exists():
        os.replace(place, folder)
        return
    moved = []
    try:
        for member in members:
            source, path = place / normpath(member.name), folder / normpath(member.name)
            (path if source.is_dir() else path.parent).mkdir(parents=True, exist_ok=True)
            if not source.is_dir():
                os.replace(source, path)
                moved.append(path)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise


@command("nothing was unpacked; run the same command again")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.data.archives", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="the zip or tar file (plain, gz, bz2, xz)")
    parser.add_argument("--out", type=Path, required=True, help="folder for its files; none of them may be there yet")
    options = parser.parse_args(arguments)
    paths = extract(options.file, options.out)
    print(f"{options.out}: {len(paths)} files unpacked")


if __name__ == "__main__":
    sys.exit(main())
