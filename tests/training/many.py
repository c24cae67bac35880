"""Real processes that train together over gloo, forked from a server that has imported everything once."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}


def start(
    work: Callable, arguments: tuple, processes: int = 1, sharded: bool = False, errors: Path | None = None
) -> list[BaseProcess]:
    """Begin ``work(*arguments)`` in so many processes, with the environment that accelerate's launcher gives them.

    What they print as errors goes to the end of the file ``errors``.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["v4s_lib.training.full_loop", "torch.distributed.fsdp"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(processes):
        environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | (SHARDED if sharded else {})
        if processes > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            environment |= {key: str(value) for key, value in ranks.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(context.Process(target=_begin, args=(environment, errors, work, arguments), daemon=True))
        started[-1].start()
    return started


def finish(started: list[BaseProcess], patience: float = 120) -> list[int | None]:
    """Wait for the processes; returns their exit codes, ``None`` for one that had to be killed."""
    for process in started:
        process.join(patience)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
        process.join()
    return codes


def run(work: Callable, arguments: tuple, processes: int = 1, sharded: bool = False) -> None:
    """The same, from beginning to end; every process has to end well."""
    codes = finish(start(work, arguments, processes, sharded))
    assert codes == [0] * processes


def _begin(environment: dict[str, str], errors: Path | None, work: Callable, arguments: tuple) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if errors is not None:
        sys.stderr = errors.open("a", buffering=1)
    code = work(*arguments)
    sys.exit(code if isinstance(code, int) else 0)
