"""The commit that results name: of the library's code, and whether it was changed since."""

import subprocess

from v4s_lib.data import provenance


def test_a_commit_says_whether_the_library_was_changed_since(tmp_path, monkeypatch):
    def git(*command: str) -> str:
        run = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *command]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    library = tmp_path / "library"
    library.mkdir()
    monkeypatch.setattr(provenance, "LIBRARY", library)
    look = provenance.current_commit.__wrapped__  # which keeps nothing
    assert look() == "unknown"  # no checkout
    (library / "code.py").write_text("one = 1\n")
    (tmp_path / "results.json").write_text("{}\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "results.json").write_text("[]\n")  # what is measured is no code
    assert look() == commit
    (library / "code.py").write_text("one = 2\n")
    assert look() == commit + provenance.CHANGED
    git("commit", "--quiet", "-am", "second")
    (library / "more.py").write_text("two = 2\n")
    assert look() == git("rev-parse", "HEAD") + provenance.CHANGED
    monkeypatch.setenv("PATH", "")  # a machine without git
    assert look() == "unknown"
