"""Run the notebooks and store their outputs: ``python -m v4s_lib.viewing.notebooks --help``.

A notebook's file changes only when all of its cells ran: then it holds the new outputs, the measured time and memory
in its table, and hashes of what the outputs came from. With a preset other than the notebook's own it is run as a check
and nothing is stored.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from v4s_lib.training.ship import SEED
from v4s_lib.viewing import ROOT

FOLDER = ROOT / "notebooks"
RUNS = FOLDER / "runs.json"  # what was measured, for the tables at the top of the notebooks
SIZE_LIMIT = 300_000  # bytes of a stored notebook
TABLE = "| goal | you need first | preset | hardware | minutes | peak memory |"
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users|tmp|private)/\w")
# Of the kernel alone, bytes. On Linux ru_maxrss begins with what the process that started it had used.
PEAK = """(
    next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    if __import__("sys").platform == "linux"
    else __import__("resource").getrusage(0).ru_maxrss
)"""


@dataclass(frozen=True)
class Measured:
    """One run of a notebook."""

    seconds: float
    peak_bytes: int  # resident memory of the kernel's process
    hardware: str


def read_notebook(path: Path) -> NotebookNode:
    """A notebook; ``ValueError`` when it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"expected a notebook in {path.name}, got a file that is none: restore it") from error


def default_preset(notebook: NotebookNode) -> str:
    """The preset that the notebook's own cell of parameters names."""
    for node in ast.parse(notebook.cells[_parameters(notebook)].source).body:
        if isinstance(node, ast.AnnAssign) and node.target.id == "preset":
            return ast.literal_eval(node.value)
    raise ValueError("expected `preset: str = ...` in the cell tagged `parameters`, got no such line: add it")


def _parameters(notebook: NotebookNode) -> int:
    """Place of the cell tagged ``parameters``."""
    for place, cell in enumerate(notebook.cells):
        if "parameters" in cell.metadata.get("tags", []):
            return place
    raise ValueError("expected a cell tagged `parameters`, got none: add it")


def code_hash(notebook: NotebookNode) -> str:
    """sha256 of what makes the outputs: the notebook's code cells and all of the library's source."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            digest.update(cell.source.encode() + b"\0")
    return _hash_files(sorted((ROOT / "v4s_lib").rglob("*.py")), digest)


def inputs_hash(preset: str) -> str:
    """sha256 of the shipped files that outputs depend on: a preset's weights with their log, and stored results.

    The weights of other seeds are not shipped: where they are at hand they do not count.
    """
    folders = (ROOT / "data_manifests" / "weights" / preset, ROOT / "data_manifests" / "results")
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [path for path in files if not (SEED.fullmatch(path.parent.name) and ".safetensors" in path.name)]
    return _hash_files(kept, hashlib.sha256())


def _hash_files(files: list[Path], digest) -> str:
    for path in files:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def execute(notebook: NotebookNode, name: str, timeout: int) -> Measured:
    """Run all cells in place, in a fresh kernel that starts in the root of the checkout.

    Raises:
        ValueError: one sentence that names the cell which failed, took too long or ended the kernel.
    """
    client = NotebookClient(
        notebook,
        timeout=timeout,
        startup_timeout=timeout,
        store_widget_state=False,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
    )
    client.reset_execution_trackers()
    begin, place = time.perf_counter(), 0
    try:
        with client.setup_kernel(cwd=str(ROOT)):
            for place, cell in enumerate(notebook.cells):
                client.execute_cell(cell, place)
            seconds = time.perf_counter() - begin
            reply = client.wait_for_reply(client.kc.execute("", silent=True, user_expressions={"peak": PEAK}))
    except CellExecutionError as error:
        what = f"{error.ename}: {error.evalue}"
    except CellTimeoutError:
        what = f"no end after {timeout} s"
    except DeadKernelError:
        what = "a kernel that died"
    else:
        peak = int(reply["content"]["user_expressions"]["peak"]["data"]["text/plain"])
        return Measured(seconds, peak, f"{os.cpu_count()} CPU cores")
    line = notebook.cells[place].source.partition("\n")[0]
    where = f"in cell {place} (`{line}`)"
    raise ValueError(f"expected {name} to run to its end, got {' '.join(what.split())} {where}: mend that cell")


def strip(notebook: NotebookNode) -> None:
    """Drop what is not to be stored: widgets, embedded video, and the language's patch version."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_live(output)]
            cell.metadata.pop("execution", None)


def _is_live(output: NotebookNode) -> bool:
    """Whether an output is a widget or a video, neither of which can be read on a page."""
    data = output.get("data", {})
    kinds = any(kind.startswith(("application/vnd.jupyter.widget", "video/")) for kind in data)
    return kinds or any("data:video/" in str(value) for value in data.values())


def check_stored(notebook: NotebookNode, name: str) -> str:
    """The text to store; ``ValueError`` when it is too large or names a folder of this machine."""
    for place, cell in enumerate(notebook.cells):
        texts = [text for output in cell.get("outputs", []) for kind, text in _texts(output) if "image/" not in kind]
        if any(map(MACHINE_PATH.search, texts)):
            raise ValueError(f"expected no path of this machine in {name}, got one in cell {place}: print no folder")
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > SIZE_LIMIT:
        raise ValueError(f"expected {name} under {SIZE_LIMIT} bytes, got {len(text.encode())}: show smaller pictures")
    return text


def _texts(output: NotebookNode) -> list[tuple[str, str]]:
    """Kind and text of everything an output holds."""
    found = [(kind, str(value)) for kind, value in output.get("data", {}).items()]
    return found + [("text", str(output.get("text", "")) + str(output.get("traceback", "")))]


def write_table(notebook: NotebookNode, preset: str, measured: Measured) -> None:
    """Put the measured columns into the table at the top; goal and needs stay as they are written."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith(TABLE):
            head, rule, row = cell.source.splitlines()
            goal, needs = row.split(" | ")[:2]
            memory = f"{measured.peak_bytes / 2**30:.1f} GiB"
            columns = (goal, needs, preset, measured.hardware, f"{measured.seconds / 60:.1f}", f"{memory} |")
            cell.source = "\n".join((head, rule, " | ".join(columns)))
            return
    raise ValueError(f"expected a cell that starts with the table `{TABLE}`, got none: add it")


def run(path: Path, preset: str | None = None, timeout: int = 900) -> Measured:
    """Run one notebook; with its own preset, store the outputs in its file.

    Raises:
        ValueError: it did not run to its end, or may not be stored; the file is as it was.
    """
    notebook = read_notebook(path)
    own = default_preset(notebook)
    if preset not in (None, own):
        notebook.cells.insert(_parameters(notebook) + 1, nbformat.v4.new_code_cell(f"preset = {preset!r}"))
        return execute(notebook, path.name, timeout)
    measured = execute(notebook, path.name, timeout)
    strip(notebook)
    write_table(notebook, own, measured)
    notebook.metadata["v4s"] = {"preset": own, "code_sha256": code_hash(notebook), "inputs_sha256": inputs_hash(own)}
    _replace(path, check_stored(notebook, path.name))
    return measured


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(beside, path)


def record(name: str, preset: str, measured: Measured, runs: Path = RUNS) -> None:
    """Add a run to the file of what was measured."""
    known = json.loads(runs.read_text(encoding="utf-8")) if runs.is_file() else {}
    entry = {"hardware": measured.hardware, "seconds": round(measured.seconds, 1), "peak_bytes": measured.peak_bytes}
    known.setdefault(name, {})[preset] = entry
    _replace(runs, json.dumps(known, indent=1, sort_keys=True) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m v4s_lib.viewing.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of file names, such as 00 (default: all notebooks)")
    parser.add_argument("--preset", help="run with this preset; outputs are stored only with the notebook's own")
    parser.add_argument("--timeout", type=int, default=900, help="seconds that one cell may take (default: 900)")
    options = parser.parse_args(arguments)
    names = options.names or [""]
    paths = sorted({path for name in names for path in FOLDER.glob(f"{name}*.ipynb")})
    if not paths:
        parser.error(f"expected names of notebooks in notebooks/, got {' '.join(names)}: choose others")
    failed = 0
    for path in paths:
        try:
            measured = run(path, options.preset, options.timeout)
        except ValueError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        except KeyboardInterrupt:
            print(f"interrupted: {path.name} is as it was; the notebooks before it are stored", file=sys.stderr)
            return 130
        record(path.stem, options.preset or default_preset(read_notebook(path)), measured)
        print(f"{path.name}: {measured.seconds:.0f} s, {measured.peak_bytes / 2**30:.2f} GiB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
