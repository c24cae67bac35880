"""Encode scans once: ``python -m v4s_lib.training.latents EPISODES --out FOLDER --codec patch:8``.

A cache is a folder. ``plan.json`` says which scans belong to which shard; a shard is a folder that appears when it is
whole, with its own list of hashes; ``index.json`` is made of these lists when all shards are there. Run the same
command again after a kill, and it goes on after the last whole shard; run it with more scans, and it adds shards. A
scan that cannot be read or encoded stops no other: ``left_out`` of the index has its sentence, and the next run tries
it again.

A target may start at any latent, and its first latent holds its start frame alone, as no latent inside the scan does:
so the last frame of each latent is encoded alone as well, and a cache takes twice the room of its latents.

With ``--windows`` the sentences of curated windows are encoded, and of those that end on an object the whole target,
with its box tail (``targets.py``): a shard of scans gets a second one beside it with their targets.
"""

import argparse
import contextlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from tqdm import tqdm

from v4s_lib.command import command
from v4s_lib.data import disk
from v4s_lib.data.instructions import navigation_instruction
from v4s_lib.data.sources import find_episodes, source_hashes
from v4s_lib.data.workers import run_workers
from v4s_lib.model.encoding import load_codec
from v4s_lib.model.text_encoder import encode_sentences, text_digest
from v4s_lib.training.cached import DTYPES, INDEX, LATENTS, TEXT, Stamp, describe_file, make_stamp
from v4s_lib.training.full import FullScale
from v4s_lib.training.rows import encode_scan, latent_bytes, needed_bytes, read_instructions
from v4s_lib.training.shards import LIST, plan_shards, whole_list, write_file
from v4s_lib.training.targets import SCANS, TARGETS, Curated, check_curated, check_targets, encode_targets, read_curated

LEFT_OUT = ".left_out-{}.part"  # for this run: which scans of a shard were not encoded, and why
LOCK = ".latents.lock"


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    episodes: dict[str, Path]
    out: Path
    codec: str
    stamp: Stamp
    device: str
    shards: dict[str, list[str]]  # names of the scans in each
    curated: Curated


def encode_scans(
    episodes: Path,
    out: Path,
    codec: str,
    stamp: Stamp,
    instructions: dict[str, list[str]] | None = None,
    text_encoder: Path | None = None,
    scans_a_shard: int = 16,
    workers: int = 1,
    device: str = "cpu",
    curated: Curated | None = None,
) -> Path:
    """Encode what is missing of a cache at ``out``; returns its index. Interrupted, the same call goes on.

    Scans that cannot be read or encoded are left out, and are in the index with the reason.

    Args:
        episodes: an episode, or a folder of some.
        codec: see ``load_codec``; ``stamp`` is of it.
        instructions: sentences of each scan; one that is not named keeps what it had, or has the one for navigation.
        text_encoder: see ``encode_sentences``.
        scans_a_shard: what a kill costs at most, for each worker.
        workers: processes; with ``device`` "cuda" each takes the next GPU.
        curated: windows of these scans, see ``read_curated``; a cache that has targets needs theirs again.

    Raises:
        ValueError, OSError: one sentence, also where no scan can be encoded; shards that were whole before are still
            there, and nothing half-written is.
    """
    if min(scans_a_shard, workers) < 1:
        raise ValueError(f"expected scans a shard and workers from 1, got {scans_a_shard} and {workers}: choose others")
    found, instructions, curated = find_episodes(episodes), instructions or {}, curated or Curated()
    if unknown := sorted(set(instructions) - set(found)):
        raise ValueError(f"expected instructions for scans in {episodes}, got some for {unknown[0]}: correct the names")
    with lock_cache(out):
        try:
            shards = plan_shards(out, stamp, list(found), scans_a_shard)
            check_curated(out, curated, shards)
            job = Job(found, out, codec, stamp, device, shards | curated.shards(shards), curated)
            lists, left_out = encode_missing(job, workers)
            return write_index(job, lists, left_out, instructions, text_encoder)
        finally:  # what a worker that was ended left, or a kill before this run
            for part in out.glob("*.part"):
                part.unlink() if part.is_file() else shutil.rmtree(part)


def lock_cache(out: Path) -> AcquireReturnProxy:
    """Make the folder of a cache, and let no other run into it."""
    try:
        with disk.writing(out):
            out.mkdir(parents=True, exist_ok=True)
            return FileLock(out / LOCK).acquire(timeout=0)
    except Timeout:
        raise OSError(f"expected one run at a time in {out}, got another at work: wait for its end") from None


def encode_missing(job: Job, workers: int) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Encode the shards that are not whole yet; returns the lists of all, and why scans were left out."""
    lists = {shard: shard_list(job, shard) for shard in job.shards}
    missing, left_out = [shard for shard, facts in lists.items() if facts is None], {}
    for shard in missing:
        if absent := sorted(set(job.shards[shard]) - set(job.episodes)):
            todo = "put it back" + (f", or delete {job.out / shard} to lose it" if shard.startswith(SCANS) else "")
            raise FileNotFoundError(f"expected the encoded scan {absent[0]} among the episodes, got none: {todo}")
    if missing:
        disk.require_space(job.out, missing_bytes(job, missing))
    for kind in (SCANS, TARGETS):  # a scan that is left out has no targets
        shards = {shard: [name for name in names if name not in left_out] for shard, names in job.shards.items()}
        todo = [shard for shard in missing if shard.startswith(kind) and shards[shard]]
        if todo:
            shares = [todo[worker::workers] for worker in range(min(workers, len(todo)))]
            run_workers(encode_shards, replace(job, shards=shards), shares)
        for shard in todo:
            failed = disk.read_json(job.out / LEFT_OUT.format(shard))
            left_out |= failed
            lists[shard] = disk.read_json(job.out / shard / LIST) if len(failed) < len(shards[shard]) else None
    return {shard: facts for shard, facts in lists.items() if facts is not None}, left_out


def missing_bytes(job: Job, missing: list[str]) -> int:
    """Bytes that these shards will take."""
    codec, total = load_codec(job.codec), 0
    for shard in missing:
        for name in job.shards[shard]:
            if shard.startswith(TARGETS):
                total += job.curated.latents(name) * latent_bytes(codec, job.stamp)
            else:
                with contextlib.suppress(ValueError, OSError):  # it cannot be read, which is said at the end
                    total += needed_bytes([job.episodes[name]], codec, job.stamp)
    return total


def shard_list(job: Job, shard: str) -> dict[str, Any] | None:
    """The list of a shard that is whole, ``None`` for another.

    Raises ``ValueError`` when its scans were changed since, or its targets are of other windows.
    """
    facts = whole_list(job.out / shard / LATENTS, stamp=asdict(job.stamp))
    if facts is not None and shard.startswith(TARGETS):
        check_targets(job.out / shard, job.curated, job.shards[shard], facts["scans"])
    if facts is None or sorted(facts["scans"]) != job.shards[shard]:
        return None
    for name in set(facts["scans"]) & set(job.episodes):
        if facts["scans"][name]["source"] != source_hashes(job.episodes[name]):
            raise ValueError(
                f"expected {job.episodes[name]} as it was when it was encoded, got other files: "
                f"delete {job.out / shard}, or choose another --out"
            )
    return facts


def encode_shards(job: Job, names: list[str], worker: int) -> None:
    """Encode shards one after the other; each appears in the cache when it is whole, without the scans that fail."""
    if job.device == "cuda":  # one GPU a worker
        torch.cuda.set_device(worker % torch.cuda.device_count())
    codec = load_codec(job.codec).to(job.device)
    bar = {"position": worker, "desc": f"worker {worker}", "unit": "shard", "disable": None}
    for shard in tqdm(names, **bar):
        tensors, scans, left_out = {}, {}, {}
        for name in job.shards[shard]:
            asked = (name, job.episodes[name], codec, job.stamp)
            if shard.startswith(TARGETS):
                encoded, scans[name] = encode_targets(*asked, job.curated)
                tensors |= encoded
                continue
            try:
                encoded, scans[name] = encode_scan(*asked)
                tensors |= encoded
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                left_out[name] = "expected a scan that fits the GPU's memory, got a longer one: split it"
            except (ValueError, OSError) as error:
                left_out[name] = " ".join(str(error).split())
        with disk.writing(job.out):
            disk.write_json(job.out / LEFT_OUT.format(shard), left_out)
        if scans:
            write_file(job.out / shard / LATENTS, tensors, {"stamp": asdict(job.stamp), "scans": scans})


def write_index(
    job: Job,
    lists: dict[str, dict[str, Any]],
    left_out: dict[str, str],
    instructions: dict[str, list[str]],
    text_encoder: Path | None,
) -> Path:
    """Encode the text, and make the index out of the shards' lists; refused without any.

    What curated windows say is of them, not of their scans: a target that is drawn anywhere in a scan ends on nothing.
    """
    if not lists:
        name, reason = next(iter(left_out.items()))
        got = f"none of {len(left_out)}, {name} because of this ({reason})"
        raise ValueError(f"expected a scan that can be encoded, got {got}: correct the scans, or take them away")
    before = disk.read_json(job.out / INDEX).get("scans", {})
    instructions = {name: facts["instructions"] for name, facts in before.items()} | instructions
    scans, targets = {}, {}
    for shard, content in lists.items():
        for name, facts in content["scans"].items():
            if shard.startswith(TARGETS):
                targets |= {key: target | {"shard": shard} for key, target in facts["targets"].items()}
            else:
                said = instructions.get(name, [navigation_instruction(facts["place"])])
                scans[name] = facts | {"shard": shard, "instructions": said}
    sentences = job.curated.sentences.union([""], *(facts["instructions"] for facts in scans.values()))
    text = encode_text(job, text_encoder, sorted(sentences))
    shards = {shard: {key: content[key] for key in ("size", "sha256")} for shard, content in lists.items()}
    with disk.writing(job.out / INDEX):
        index = {"stamp": asdict(job.stamp), "shards": shards, "scans": scans, "targets": targets, "text": text}
        disk.write_json(job.out / INDEX, index | {"left_out": left_out})
    return job.out / INDEX


def encode_text(job: Job, folder: Path | None, sentences: list[str]) -> dict[str, Any] | None:
    """Size and sha256 of the file with the embeddings of ``sentences``, which is written unless it is there."""
    if folder is None:
        return None
    file, expected = job.out / TEXT, {"stamp": asdict(job.stamp), "sentences": sentences}
    if whole_list(file, **expected) is None:
        embeddings = encode_sentences(folder, sentences, job.stamp.text_tokens, job.device)
        tensors = {sentence: value.to(DTYPES[job.stamp.dtype]) for sentence, value in embeddings.items()}
        write_file(file, tensors, expected)
    return describe_file(file)


@command("run the same command to go on after the last whole shard")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.training.latents", description=__doc__.splitlines()[0])
    parser.add_argument("episodes", type=Path, help="an episode, or a folder of episodes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--codec", required=True, help="patch:SIDE, or a saved codec's folder (a Wan pipeline's vae)")
    parser.add_argument("--height", type=int, default=256, help="of the frames, pixels (default: 256, the paper's)")
    parser.add_argument("--width", type=int, default=416, help="of the frames, pixels (default: 416, the paper's)")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th frame (default: 1)")
    parser.add_argument("--dtype", default="bfloat16", help=f"to store: {', '.join(DTYPES)} (default: bfloat16)")
    parser.add_argument("--text-encoder", type=Path, help="folder with text_encoder and tokenizer (default: no text)")
    parser.add_argument("--text-tokens", type=int, default=512, help="to which text is padded (default: 512, Wan's)")
    parser.add_argument("--instructions", type=Path, help='JSON file {"scan": ["sentence", ...]} (default: navigation)')
    parser.add_argument("--windows", type=Path, help="curated ones: encode what they say, and targets with a box")
    tail = FullScale.tail_latents
    parser.add_argument("--tail", type=int, default=tail, help=f"latents of the box in those (default: {tail})")
    parser.add_argument("--scans-a-shard", type=int, default=16, help="what a kill costs at most (default: 16)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where each worker takes the next GPU")
    args = parser.parse_args(arguments)
    if args.device not in ("cpu", "cuda") or (args.device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"expected a device that this machine has, got {args.device}: choose cpu")
    text = (None, None) if args.text_encoder is None else (text_digest(args.text_encoder), args.text_tokens)
    stamp = make_stamp(load_codec(args.codec), args.dtype, args.height, args.width, args.stride, *text)
    said, curated = read_instructions(args.instructions), read_curated(args.windows, stamp, args.tail)
    asked = (args.episodes, args.out, args.codec, stamp, said, args.text_encoder)
    index = encode_scans(*asked, args.scans_a_shard, args.workers, args.device, curated)
    print(index)
    for name, reason in disk.read_json(index)["left_out"].items():
        windows = ", and training refuses its windows until then" if name in curated.scans else ""
        print(f"{name} is left out, the next run tries it again{windows}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
