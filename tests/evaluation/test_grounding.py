"""The grounding experiment end to end at `smoke`: every row, the best of k, and a report that agrees with itself."""

import json

import pytest
import torch

from v4s_lib.data.grounding import grounding_episode, is_distracted
from v4s_lib.evaluation import reproduce, results
from v4s_lib.evaluation.calibrate import calibrate, frames_to_tell
from v4s_lib.evaluation.calibrate import main as calibrate_main
from v4s_lib.evaluation.grounding import best_of_measures, by_novelty, chance, sample_grounding, shown_best
from v4s_lib.evaluation.judges import load_limits
from v4s_lib.evaluation.reader import load_reader
from v4s_lib.model.box_drawer import BoxDrawer
from v4s_lib.training.presets import get_preset
from v4s_lib.worlds.scenes import SceneObject

SMOKE = get_preset("smoke")
METHODS = {
    "ours",
    "ours_drawn",
    "no_context",
    "other_context",
    "shuffled_instruction",
    "retrieve",
    "retrieve_faded",
    "start_frame",
    "ground_truth",
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return results.run_experiment("grounding", "smoke", episodes=2, store=store)


def test_every_method_is_judged_by_every_judge(scored):
    rows = {(row["method"], row["metric"]) for row in scored["rows"]}
    assert {method for method, _ in rows} == METHODS | {"random_object"}
    assert all((method, metric) in rows for method in METHODS for metric in results.GROUNDING)
    assert [(row["method"], row["metric"]) for row in scored["rows"] if "best_of" in row["metric"]] == [
        (method, f"if_sd02_best_of_{k}") for method in ("ours", "ours_drawn") for k in range(1, 6)
    ]
    assert scored["per_episode_ours"]["sd"] == scored["per_episode"]["ours"]
    assert scored["ratio"] == {}  # no claim is about smoke
    assert all(0 <= share <= 1 for share in scored["per_episode_ours"]["if_sd02"])
    found = {row["method"]: row["mean"] for row in scored["rows"] if row["metric"] == "sd"}
    assert found["ground_truth"] < min(found[name] for name in ("ours", "no_context"))


def test_chance_is_one_of_the_rooms_objects():
    for index in range(2):
        episode = grounding_episode("test", index, SMOKE.task)
        assert chance(episode)["if_sd02"] * len({item.instance for item in episode.scenes.objects[0]}) == 1


def test_the_best_of_one_is_the_mean_and_of_all_is_whether_any_passed():
    found = [best_of_measures(passed, 4) for passed in (0, 1, 4)]
    means = [sum(each) / 3 for each in zip(*(measures.values() for measures in found), strict=True)]
    assert means == pytest.approx([5 / 12, 1.5 / 3, 1.75 / 3, 2 / 3])


def test_report_is_written_and_figures_that_differ_are_refused(scored, scored_once, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    results.save_results(scored, tmp_path / "results" / "grounding_smoke.json")
    reproduce.reproduce(SMOKE, live=1, everything=False, out=tmp_path / "report")
    html = (tmp_path / "report" / "index.html").read_text()
    assert "<h1>Experiment: long_scan</h1><table>" in html and "<code>python -m v4s_lib.evaluation.trained" in html
    differences = reproduce.other_gains(reproduce.other_experiments())
    assert "shuffled_instruction" in html and html.count("<img") == 5 + len(differences)
    changed = json.loads(json.dumps(scored))
    changed["per_episode"]["ours"][0] += 1
    with pytest.raises(ValueError, match="^expected sd .* of ours in episode 0, got .*: the stored results"):
        reproduce.compare(changed, results.load_models(SMOKE), SMOKE, live=1)


def test_the_best_episode_is_the_one_nearest_to_its_room():
    shown = {"task": "grounding", "per_episode": {"ours": [0.5, 0.1, 0.9, 0.3]}}
    assert reproduce.choose_episodes(shown)["best"] == 1
    shown = {"task": "navigation", "per_episode": {"ours": [20.0, float("nan"), 22.0, None, 21.0]}}
    assert reproduce.choose_episodes(shown) == {"best": 2, "median": 4, "worst_decile": 0}


def test_samples_start_alike_and_differ_from_each_other():
    models = results.load_models(SMOKE)
    episode, other = (grounding_episode("test", index, SMOKE.task) for index in (0, 1))
    clips, frames = sample_grounding(models, episode, other, SMOKE, seed=0)
    assert len(frames) >= 4 * SMOKE.task.context_latents - 3 and frames.max() < len(episode.scan.rgb)
    assert clips["ours"].shape[:2] == (5, len(episode.target_frames))
    torch.testing.assert_close(clips["ours"][:, 0], episode.target_frames[:1].expand(5, -1, -1, -1), atol=1e-5, rtol=0)
    assert (clips["ours"][0] - clips["ours"][1]).abs().max() > 1e-3
    assert clips["ours_drawn"].shape == clips["ours"].shape


def test_retrieval_finds_the_frame_that_shows_the_object():
    episode = grounding_episode("test", 0, SMOKE.task)
    counts = (episode.scan.instance == episode.item.instance).sum(dim=(1, 2))
    every = torch.arange(len(counts))
    assert counts[shown_best(episode, every)] > 0.3 * counts.max() > 0
    some = every[counts < counts.max() / 4]  # it looks at the frames that the model was given, and at no others
    assert shown_best(episode, some) in some.tolist()


def test_in_even_rooms_the_object_has_both_distractors():
    task = get_preset("small").task
    assert all(grounding_episode("validation", index, task).distracted for index in (0, 2, 4))

    def thing(kind: str, color: str) -> SceneObject:
        return SceneObject(kind, color, 20, (0, 0, 0), (1, 1, 1))

    red_ball = thing("ball", "red")
    assert is_distracted(red_ball, [red_ball, thing("cone", "red"), thing("ball", "blue")])
    assert not is_distracted(red_ball, [red_ball, thing("cone", "red"), thing("cone", "blue")])


def test_one_room_cannot_be_split_into_one_to_choose_on_and_one_to_check(tmp_path, capsys):
    assert calibrate_main(["--rooms", "1", "--out", str(tmp_path / "limits.json")]) == 2
    assert capsys.readouterr().err == "expected rooms of 2 or more, got 1: ask for more\n"
    assert not list(tmp_path.iterdir())


def test_the_calibration_measures_what_its_limits_were_set_to():
    limits, gates = calibrate(get_preset("small"), load_reader(), rooms=6, progress=False)
    assert gates["if"]["ground truth"] >= 1 / 3 and all(len(scores) == 3 for scores in gates["scores"].values())
    assert set(gates["sd"]) == set(gates["distances"])
    assert limits.other_room == pytest.approx(load_limits().other_room, rel=0.6)
    episode, other = (grounding_episode("validation", index, get_preset("small").task) for index in (0, 1))
    frames = frames_to_tell(episode, other, get_preset("small"))
    assert (frames["ground truth"] - episode.target.rgb[-1]).abs().mean() < 0.02  # the file changes little


def test_results_are_bound_to_what_draws_the_box_too(scored):
    models = results.load_models(SMOKE)
    reproduce.check_weights(scored, models)
    models.ours.box_drawer = BoxDrawer((4, 4, 4))
    with pytest.raises(ValueError, match="^expected results for weights .*, got some for None: run python -m"):
        reproduce.check_weights(scored, models)
    digests = results.task_digests(models, "grounding")
    reproduce.check_weights(scored | digests, models)
    assert results.task_digests(models, "navigation") == {"weights_sha256": digests["weights_sha256"]}


@pytest.mark.parametrize(("label", "new"), [("red ball", True), ("green ball", False)])
def test_what_is_asked_for_is_new_or_known(label, new):
    found = by_novelty(label, 0.4)
    there, missing = ("if_sd02_new", "if_sd02_known") if new else ("if_sd02_known", "if_sd02_new")
    assert found[there] == 0.4 and found[missing] != found[missing]
