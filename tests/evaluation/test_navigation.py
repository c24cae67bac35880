"""The navigation experiment end to end at `smoke`: resumable, tied to its weights, checked live."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from v4s_lib.evaluation import navigation, reproduce, results, settings
from v4s_lib.evaluation.__main__ import main
from v4s_lib.training.presets import get_preset


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Results of two smoke episodes, and the folder of the scored episodes."""
    store = tmp_path_factory.mktemp("store")
    return results.run_experiment("navigation", "smoke", episodes=2, store=store), store


def test_every_method_has_every_measure(scored):
    rows = {(row["method"], row["metric"]) for row in scored[0]["rows"]}
    methods = {"ours", "ours_mean", "no_context", "other_context", "repeat", "context_mean", "nearest_true_pose"}
    assert {method for method, _ in rows} >= methods
    assert all((method, metric) in rows for method in methods for metric in ("psnr_recall", "psnr", "ssim"))
    assert scored[0]["pixels"] == [16, 24] and scored[0]["lpips"].startswith("AlexNet")
    followed = {"ours", "no_context", "other_context", "posed", "splat_sight", "ground_truth"}
    if find_spec("pycolmap"):
        followed.add("sfm_splat")
        assert ("sfm_splat", "failure") in rows and ("ours", "failure") not in rows
    assert {method for method, metric in rows if metric == "sd"} == followed
    by_poses = {"shuffled", "turn_only"}
    assert {method for method, metric in rows if metric == "navigation_accuracy"} == followed | by_poses


def test_one_sample_an_episode_is_the_first_of_several(scored, tmp_path):
    """As for another training seed: no rows of means, and the single samples' rows are those of the whole table."""
    single = results.run_experiment("navigation", "smoke", episodes=2, store=tmp_path, samples=1)
    assert single["samples"] == 1 and scored[0]["samples"] == navigation.MEAN_OF
    whole, alone = (
        {(row["method"], row["metric"]): row["mean"] for row in each["rows"]} for each in (scored[0], single)
    )
    assert {method for method, _ in whole.keys() - alone.keys()} == {"ours_mean", "no_context_mean"}
    assert all(
        alone[name, "psnr_recall"] == pytest.approx(whole[name, "psnr_recall"], abs=0.01)
        for name, metric in alone
        if metric == "psnr_recall"
    )


def test_interrupted_scoring_goes_on_and_never_scores_twice(tmp_path):
    asked = []

    def score(index):
        asked.append(index)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {"ours": {"psnr": float(index)}}

    with pytest.raises(KeyboardInterrupt):
        navigation.score_all(score, 4, tmp_path / "episodes.jsonl", progress=False)
    lines = navigation.score_all(score, 4, tmp_path / "episodes.jsonl", progress=False)
    assert asked == [0, 1, 2, 2, 3]
    assert [line["methods"]["ours"]["psnr"] for line in lines] == [0, 1, 2, 3]


def test_a_line_that_a_kill_has_torn_is_scored_again(tmp_path):
    store = tmp_path / "episodes.jsonl"
    navigation.score_all(lambda index: {"ours": {"psnr": float(index)}}, 3, store, progress=False)
    store.write_text(store.read_text()[:-20])
    lines = navigation.score_all(lambda index: {"ours": {"psnr": 10.0 + index}}, 3, store, progress=False)
    assert [line["methods"]["ours"]["psnr"] for line in lines] == [0, 1, 12]
    assert [json.loads(line)["episode"] for line in store.read_text().splitlines()] == [0, 1, 2]


def test_parts_are_scored_apart_and_read_together(tmp_path):
    asked = []

    def score(index):
        asked.append(index)
        return {"ours": {"psnr": float(index)}}

    store = tmp_path / "episodes.jsonl"
    assert [line["episode"] for line in navigation.score_all(score, 5, store, False, (1, 2))] == [1, 3]
    assert [line["episode"] for line in navigation.score_all(score, 5, store, False, (0, 2))] == [0, 2, 4]
    assert [line["episode"] for line in navigation.score_all(score, 6, store, False)] == [0, 1, 2, 3, 4, 5]
    assert asked == [1, 3, 0, 2, 4, 5]
    navigation.score_all(score, 1, tmp_path / "episodes-2.jsonl", False)
    navigation.score_all(score, 1, tmp_path / "episode.jsonl", False)  # a store whose name others begin with
    assert asked == [1, 3, 0, 2, 4, 5, 0, 0]


@pytest.fixture
def one_thread():
    """As many as each of two workers has: with another number sums are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_two_workers_score_what_one_does(tmp_path, capsys, one_thread):
    asked = ["--preset", "smoke", "--episodes", "2", "--samples", "1", "--task", "grounding"]
    # Of three workers for one episode one is left; its store is gone on with.
    assert main([*asked, "--episodes", "1", "--store", str(tmp_path / "1"), "--workers", "3"]) == 0
    tables = []
    for workers in ("1", "2"):
        folder = ["--store", str(tmp_path / workers), "--json", str(tmp_path / f"{workers}.json")]
        assert main([*asked, *folder, "--workers", workers]) == 0
        tables.append(json.loads((tmp_path / f"{workers}.json").read_text()))
    assert tables[0] == tables[1]
    assert len(list((tmp_path / "2").glob("*part*.jsonl"))) == 2
    assert main([*asked, "--workers", "0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("expected 1 or more workers, got 0")


def test_episodes_of_one_scene_are_drawn_together_and_one_scene_has_no_interval():
    methods = [{"ours": {"psnr": value}, "no_context": {"psnr": 0.0}} for value in (1.0, 3.0, 8.0)]
    lines = [{"episode": i, "methods": scored, "scene": "aab"[i]} for i, scored in enumerate(methods)]
    row, gain = navigation.table(lines)[0], navigation.context_gain(lines, "psnr")
    assert (row["mean"], row["low"], row["high"]) == (4, 2, 8)  # scene a alone, scene b alone
    assert gain == {"ours - no_context": {"mean": 4, "low": 2, "high": 8, "n": 3}}
    gain = navigation.context_gain(lines[:2], "psnr")
    assert gain == {"ours - no_context": {"mean": 2, "low": None, "high": None, "n": 2}}
    assert results.gains({"task": "navigation", "gain": gain}) == {"ours - no_context": "+2.00 dB"}


def test_another_room_s_context_is_compared_with_none_put_aside_or_forced():
    psnr = {"ours": 5.0, "no_context": 1.0, "other_context": 0.75, "other_context_forced": 0.5}
    lines = [{"episode": i, "methods": {name: {"psnr": value} for name, value in psnr.items()}} for i in range(2)]
    gain = {pair: found["mean"] for pair, found in navigation.context_gain(lines, "psnr").items()}
    assert gain["other_context - no_context"] == -0.25 and gain["other_context_forced - no_context"] == -0.5
    assert {pair for pair in gain if pair.startswith("ours - ")} == {
        f"ours - {name}" for name in psnr if name != "ours"
    }


def test_other_settings_and_another_commit_have_a_store_of_their_own(monkeypatch):
    smoke = get_preset("smoke")
    keys = [navigation.store_key(preset, 0) for preset in (smoke, replace(smoke, inference_steps=9))]
    keys += [navigation.store_key(smoke, 1)]
    monkeypatch.setattr(navigation, "current_commit", lambda: "another")
    keys += [navigation.store_key(smoke, 0)]
    assert len(set(keys)) == 4


def test_rooms_draw_contexts_and_noise_of_their_own(scored):
    models = results.load_models(get_preset("smoke"))
    frames = [navigation.episode_clips(models, get_preset("smoke"), "test", i, 0, samples=1)[2] for i in range(4)]
    assert len({tuple(drawn.tolist()) for drawn in frames}) > 1


def test_a_perfect_method_and_one_that_is_off_by_a_tenth_score_as_known():
    episode = navigation.navigation_episode("test", 0, get_preset("smoke").task)
    frames = torch.arange(0, len(episode.scan_c2w))
    known = episode.known(frames, get_preset("smoke").task.camera)
    truth = episode.target.rgb
    shifted = torch.where(truth > 0.5, truth - 0.1, truth + 0.1)
    assert navigation.picture_measures(truth, truth, known)["psnr_recall"] == 100
    assert navigation.picture_measures(shifted, truth, known)["psnr_recall"] == pytest.approx(20, abs=1e-3)


def test_repeating_an_evaluation_gives_the_same_figures(scored, tmp_path, scored_once):
    again = results.run_experiment("navigation", "smoke", episodes=2, store=tmp_path)
    assert again["rows"] == scored[0]["rows"]


def test_reproduce_accepts_its_own_results_and_refuses_others(scored, scored_once):
    stored = json.loads(json.dumps(scored[0]))
    preset = get_preset("smoke")
    models = results.load_models(preset)
    reproduce.check_weights(stored, models)
    reproduce.compare(stored, models, preset, live=1)
    stored["per_episode"]["ours"][0] += 1.0
    with pytest.raises(ValueError, match="expected psnr_recall .* of ours in episode 0"):
        reproduce.compare(stored, models, preset, live=1)
    stored["per_episode"]["ours"][0] = None
    with pytest.raises(ValueError, match="expected psnr_recall nan of ours in episode 0, got [0-9.]+: the stored"):
        reproduce.compare(stored, models, preset, live=1)
    stored["weights_sha256"] = "0" * 64
    with pytest.raises(ValueError, match="expected results for weights"):
        reproduce.check_weights(stored, models)


def test_report_is_written_from_stored_results(scored, scored_once, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    results.save_results(scored[0], tmp_path / "results" / "navigation_smoke.json")
    reproduce.reproduce(get_preset("smoke"), live=1, everything=False, out=tmp_path / "report")
    html = (tmp_path / "report" / "index.html").read_text()
    assert "<h1>Experiment: long_scan</h1><table>" in html and "<code>python -m v4s_lib.evaluation.trained" in html
    differences = reproduce.other_gains(reproduce.other_experiments())
    assert "nearest_true_pose" in html and html.count("<img") == 5 + len(differences)
    assert len(list((tmp_path / "report").glob("*.png"))) == html.count("<img") > 8


@pytest.mark.parametrize(
    "arguments",
    [["--preset", "huge"], ["--preset", "smoke", "--weights", "/nowhere"], ["--episodes", "0"], ["--samples", "0"]],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, capsys, tmp_path):
    assert main([*arguments, "--store", str(tmp_path)]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("expected ") and len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_settings_are_compared_on_validation_rooms(capsys):
    assert settings.main("--preset smoke --guidance 1 2 --steps 2 --samples 2 --episodes 2".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1:4] for line in lines[2:]] == [[" euler ", " 1.0 ", " 2 "], [" euler ", " 2.0 ", " 2 "]]
    assert settings.main(["--preset", "huge"]) == 2
    assert settings.main(["--episodes", "0"]) == 2 and settings.main(["--samples", "0"]) == 2
