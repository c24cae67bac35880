"""The project files agree with each other, and the repository stays small and portable."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
# An absolute path into a working or home folder. A path component before it ("notes/work/") makes it a relative path.
MACHINE_PATH = re.compile(rb"(?<![\w.~-])/(?:work|root|home|Users)/\w")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))["project"]


def direct_requirements() -> list[str]:
    """The ranges of pyproject.toml, those of the `test` extra included."""
    return project()["dependencies"] + project()["optional-dependencies"]["test"]


def pins() -> dict[str, str]:
    """Name → exact version, from constraints.txt."""
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): version for name, version in pairs}


def committed_files() -> list[Path]:
    """Files that git tracks and that are on disk; skips the test outside a git checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = [ROOT / name for name in listing.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_conda_environment_repeats_the_ranges_of_pyproject():
    environment = yaml.safe_load(read("environment.yml"))
    pip_lists = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert environment["name"] == "v4s"
    assert "python" + project()["requires-python"] in environment["dependencies"]
    assert pip_lists == [direct_requirements() + ["-e ."]]


def test_every_direct_dependency_is_pinned_inside_its_range():
    ranges = {canonicalize_name(r.name): r.specifier for r in map(Requirement, direct_requirements())}
    assert sorted(ranges) == sorted(pins())
    outside = [name for name, version in pins().items() if not ranges[name].contains(version)]
    assert outside == []


@pytest.mark.parametrize("target", ["reproduce", "test", "lab", "notebooks", "benchmarks", "clean"])
def test_makefile_has_target(target):
    assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE)
    assert re.search(rf"^\.PHONY:.*\b{target}\b", read("Makefile"), re.MULTILINE)


def test_citation_names_the_kit_and_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    required = {"cff-version", "message", "title", "type", "version", "license", "authors", "references"}
    assert required <= citation.keys()
    assert citation["license"] == project()["license"] == "MIT"
    (paper,) = citation["references"]
    assert "2512.03040" in paper["url"]
    assert len(paper["authors"]) == 9


def test_version_is_the_same_everywhere():
    import v4s_lib

    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert project()["version"] == yaml.safe_load(read("CITATION.cff"))["version"] == releases[0] == v4s_lib.__version__


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("open('/" + "work/main/a.txt')", True),
        ("file:///" + "root/a.txt", True),
        ("saved to /" + "home/ada/scan", True),
        ("notes/work/plan", False),
        ("framework/root", False),
    ],
)
def test_machine_path_pattern(text, found):
    assert bool(MACHINE_PATH.search(text.encode())) is found


def test_no_committed_text_holds_a_path_of_one_machine():
    texts = {path: path.read_bytes() for path in committed_files()}
    holding = [path for path, text in texts.items() if b"\0" not in text and MACHINE_PATH.search(text)]
    assert [str(path.relative_to(ROOT)) for path in holding] == []


def test_committed_files_are_small():
    sizes = {path: path.stat().st_size for path in committed_files()}
    too_large = [str(path.relative_to(ROOT)) for path, size in sizes.items() if size > 16 * MIB]
    assert too_large == []
    assert sum(size for path, size in sizes.items() if path.suffix == ".safetensors") <= 40 * MIB


def test_the_readme_shows_the_stored_results():
    from v4s_lib.evaluation.readme import README, with_tables

    text = README.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run python -m v4s_lib.evaluation.readme"
