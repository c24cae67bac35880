"""The Makefile's install, run with a stand-in for Python that only notes what it is asked to do."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TORCH_PIN = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
PYTEST = "-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder"
STAND_IN = """#!/bin/sh
case "$*" in
  "-c import sys"*) exit "$VERSION_CHECK" ;;
  "--version") echo "Python 3.9.0"; exit 0 ;;
esac
echo "$*" >> log
case "$*" in
  "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"-e .[test]"*) exit "$INSTALL" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the Makefile, what it depends on, and the stand-in."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    stand_in = tmp_path / "stand_in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str, version_check: int = 0, install: int = 0) -> subprocess.CompletedProcess:
    """Run make without the variables that an outer make hands down."""
    environment = {"PATH": "/usr/bin:/bin", "VERSION_CHECK": str(version_check), "INSTALL": str(install)}
    command = [shutil.which("make"), f"PYTHON={folder / 'stand_in'}", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def calls(folder: Path) -> list[str]:
    """What the stand-in was asked to do, in order; empties the log."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_torch_is_installed_first_alone_and_exactly(folder):
    assert make(folder, "test", "ARGS=-k pose").returncode == 0
    assert calls(folder) == [
        "-m venv .venv",
        f"-m pip install {TORCH_PIN}",
        "-m pip install -c constraints.txt -e .[test]",
        f"{PYTEST} -k pose",
    ]


def test_torch_index_is_used_for_torch_only(folder):
    make(folder, ".venv/.installed", "TORCH_INDEX=some-index")
    installs = [call for call in calls(folder) if "pip" in call]
    assert installs[0] == f"-m pip install --index-url some-index {TORCH_PIN}"
    assert "some-index" not in installs[1]


def test_a_second_run_installs_nothing(folder):
    make(folder, "test")
    calls(folder)
    make(folder, "test")
    assert calls(folder) == [PYTEST]


def test_an_interrupted_install_starts_afresh(folder):
    assert make(folder, "test", install=1).returncode != 0
    assert not (folder / ".venv/.installed").exists()
    assert PYTEST not in calls(folder)
    assert make(folder, "test").returncode == 0
    assert calls(folder)[0] == "-m venv --clear .venv"
    assert (folder / ".venv/.installed").exists()


def test_an_old_python_is_refused_in_one_sentence(folder):
    result = make(folder, "test", version_check=1)
    assert result.returncode != 0
    assert "expected Python 3.11 or newer" in result.stderr
    assert "Python 3.9.0" in result.stderr
    assert calls(folder) == []


def test_clean_keeps_what_was_trained_and_downloaded(folder):
    for name in ("report", "runs", "data", ".venv/x/__pycache__", "v4s_lib/data/__pycache__"):
        (folder / name).mkdir(parents=True)
    assert make(folder, "clean").returncode == 0
    kept = [name for name in ("runs", "data", ".venv/x/__pycache__", "v4s_lib/data") if (folder / name).is_dir()]
    assert len(kept) == 4
    assert not (folder / "report").exists()
    assert not (folder / "v4s_lib/data/__pycache__").exists()
