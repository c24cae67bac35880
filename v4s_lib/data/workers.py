"""A few processes that share out one job; the first that fails ends the others, with its sentence."""

import os
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

Work = Callable[[Any, list[str], int], None]


def run_workers(work: Work, job: Any, shares: list[list[str]]) -> None:
    """Call ``work(job, share, number)`` for every share: in this process for one share, else each in its own.

    The processes come of one that is started afresh (a fork cannot use a GPU that its parent has touched) and, where
    the system can, imports what they need once for all. They share this process's threads, and end with it, even when
    it is killed.

    Raises:
        ValueError, OSError: as the first ``work`` that failed, or when a process was ended from outside.
    """
    if len(shares) == 1:
        work(job, shares[0], 0)
        return
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([work.__module__])
    failures, threads = context.SimpleQueue(), max(1, torch.get_num_threads() // len(shares))
    arguments = [(work, job, share, number, threads, failures) for number, share in enumerate(shares)]
    processes = [context.Process(target=_run, args=given) for given in arguments]
    try:
        for process in processes:
            process.start()
        at_work = list(processes)
        while at_work:
            ready = connection.wait([process.sentinel for process in at_work])
            for process in [process for process in at_work if process.sentinel in ready]:
                process.join()  # an exit code is there only a moment after its sentinel
                if process.exitcode:
                    raise failures.get() if not failures.empty() else _ended(process.exitcode)
                at_work.remove(process)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _run(work: Work, job: Any, share: list[str], number: int, threads: int, failures: SimpleQueue) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        work(job, share, number)
    except (ValueError, OSError) as error:
        failures.put(type(error)(str(error)))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _ended(code: int) -> OSError:
    return OSError(
        f"expected every worker to finish, got one that ended with code {code}: look for a lack of memory, then run "
        "the same command again with fewer workers"
    )
