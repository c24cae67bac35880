"""Episodes that the tests of a file score live."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from v4s_lib.evaluation.results import EXPERIMENTS, models_digest


@pytest.fixture(scope="module")
def met() -> dict[str, dict]:
    """Scores of the episodes that ``scored_once`` has met."""
    return {}


@pytest.fixture
def scored_once(met, monkeypatch):
    """An episode that a test with this fixture has scored is not scored again in the same file.

    Its scores are kept by everything that they hang on: task, weights, preset, split, episode, seed and samples.
    """

    def remembered(task: str, score: Callable[..., dict]) -> Callable[..., dict]:
        def remember(models, *asked):
            key = repr((task, models_digest(models), *asked))
            if key not in met:
                met[key] = score(models, *asked)
            return met[key]

        return remember

    for task, experiment in list(EXPERIMENTS.items()):
        monkeypatch.setitem(EXPERIMENTS, task, replace(experiment, score=remembered(task, experiment.score)))
