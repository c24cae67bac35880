"""Arms of an experiment: scored once, resumed, compared room by room."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from v4s_lib.data.navigation import navigation_episode
from v4s_lib.data.worlds import WORLDS, world_episode
from v4s_lib.evaluation import experiments, judges, results
from v4s_lib.evaluation.arms import EXPERIMENTS, RETAINED, Arm
from v4s_lib.evaluation.experiments import compare_arms, file_name, run_arms, score_arm
from v4s_lib.evaluation.results import folder_of, nearest
from v4s_lib.training.presets import SMALL, SMOKE
from v4s_lib.training.weights import load_pipeline


def stored(name: str, values: list[float]) -> dict:
    row = {"metric": "psnr_recall", "mean": float(np.mean(values)), "low": min(values), "high": max(values), "n": 4}
    return {"arm": {"name": name}, "rows": [row], "per_episode": {"psnr_recall": values}}


def test_arms_are_compared_room_by_room():
    """Rooms differ by 10 dB, arms by exactly 1: the difference knows no interval."""
    rooms = [10.0, 20.0, 15.0, 12.0]
    lines = compare_arms([stored("first", rooms), stored("second", [value + 1 for value in rooms])]).splitlines()
    assert lines[2].endswith("| – | 4 |") and "| +1.00 [+1.00, +1.00] | 4 |" in lines[3]


def test_a_run_that_stopped_goes_on(tmp_path):
    arm = Arm("none")
    (first,) = run_arms("guidance", [arm], SMOKE, "validation", 1, store=tmp_path)
    (file,) = tmp_path.iterdir()
    line = json.loads(file.read_text())
    line["methods"]["none"]["psnr"] = 5.0
    file.write_text(json.dumps(line) + "\n")
    (both,) = run_arms("guidance", [arm], SMOKE, "validation", 2, store=tmp_path)
    assert both["per_episode"]["psnr"][0] == 5.0 and len(both["per_episode"]["psnr"]) == 2
    assert first["weights_sha256"] == both["weights_sha256"] and first["arm"]["guidance_scale"] == 1


def test_two_processes_score_what_one_does(tmp_path):
    arms = [Arm("short", context_latents=2, scan_latents=6), Arm("long", context_latents=5, scan_latents=6)]
    asked = ("context", arms, SMOKE, "validation", 3)
    shared = run_arms(*asked, store=tmp_path / "two", workers=2)
    assert len(list((tmp_path / "two").glob("*-part*of2.jsonl"))) == 2
    alone = run_arms(*asked, store=tmp_path / "one")
    for one, two in zip(alone, shared, strict=True):
        assert one["arm"] == two["arm"] and np.allclose(
            one["per_episode"]["psnr"], two["per_episode"]["psnr"], atol=1e-3
        )
    assert alone[0]["per_episode"]["psnr"] != alone[1]["per_episode"]["psnr"]


def test_an_arm_is_what_it_says():
    """The context is as long as asked for, guidance as strong."""
    pipeline = load_pipeline(SMOKE)
    calls = []
    pipeline.transformer.register_forward_hook(lambda _, args, kwargs, out: calls.append(kwargs), with_kwargs=True)
    arm = Arm("long", guidance_scale=2.0, guide_context=False, context_latents=9, scan_latents=12)
    score_arm(pipeline, SMOKE, arm, "validation", 0, 0)
    assert len(calls) == 2 * SMOKE.inference_steps
    assert calls[0]["context_cache"] is calls[1]["context_cache"]
    assert calls[0]["context_cache"].frames.c2w.shape[1] == 9
    assert len(navigation_episode("validation", 0, SMOKE.task, 12).scan.rgb) == 45


def test_lengths_are_compared_with_contexts_that_are_used_whatever_they_show():
    """The rule for another room's context would put a short one aside; in arms of ``context`` it does not."""
    strict = replace(SMOKE, least_shared=2.0)  # no context shows so much
    arm = replace(EXPERIMENTS["context"][0], context_latents=3, scan_latents=None, followed=False)
    used, aside, plain = (
        score_arm(load_pipeline(preset), preset, one, "validation", 0, 0)["psnr"]
        for one, preset in ((arm, strict), (replace(arm, least_shared=None), strict), (arm, SMOKE))
    )
    assert used == plain != aside
    lengths = [*EXPERIMENTS["context"], *EXPERIMENTS["long_scan"][1:]]
    assert {one.least_shared for one in lengths} == {0.0}
    assert {one.scan_latents for one in EXPERIMENTS["context"]} == {SMALL.task.scan_latents[1]}


@pytest.mark.parametrize("name", ["guidance", "context", "long_scan", "handheld", "worlds"])
def test_claims_of_paths_have_arms_that_are_followed(name):
    assert all(arm.followed for arm in EXPERIMENTS[name])


def test_arms_have_names_of_their_own():
    for name, arms in EXPERIMENTS.items():
        files = [file_name(name, arm) for arm in arms]
        assert len(set(files)) == len(files) > 1
    assert file_name("guidance", Arm("joint 1.5")) == "guidance_joint_1p5"


def test_arms_out_of_domain_come_in_pairs_after_one_in_it():
    for name in RETAINED:
        arms = EXPERIMENTS[name]
        assert arms[0].world == "rooms" and not arms[0].handheld
        for shown, hidden in zip(arms[::2], arms[1::2], strict=True):
            assert shown.with_context and not hidden.with_context
            assert (shown.world, shown.handheld) == (hidden.world, hidden.handheld)
    assert [arm.world for arm in EXPERIMENTS["worlds"][::2]] == ["rooms", "park", "rooms_unseen"]
    assert {arm.world for arm in EXPERIMENTS["worlds"]} == set(WORLDS)


@pytest.mark.parametrize("world", ["rooms", "park"])
def test_a_followed_arm_is_asked_where_its_camera_went(world):
    """The truth follows its own path; a clip that stands still does not."""
    episode = world_episode(world, "validation", 0, SMALL.task, 2)
    clips = episode.target.rgb, episode.target.rgb[:1].expand_as(episode.target.rgb)
    truth, still = (experiments.follow(clip, episode, SMALL, "validation", 0) for clip in clips)
    assert truth["navigation_accuracy"] == 1 and truth["rotation_error"] < 1 and truth["sd"] < 0.1
    assert still["navigation_accuracy"] == 0 and still["rotation_error"] > 30


def test_an_arm_that_seeks_finds_by_its_context(monkeypatch):
    """With a context the shipped model ends on what is named, without it does not; scans are as long as asked for."""
    arm, scans = Arm("12 latents", context_latents=12, scan_latents=26, least_shared=0.0, seeks=True), []
    sample = experiments.sample_words

    def watched(pipeline, scan, *rest, **more):
        scans.append((None if scan is None else len(scan), pipeline.config.least_shared))
        return sample(pipeline, scan, *rest, **more)

    monkeypatch.setattr(experiments, "sample_words", watched)
    pipeline, arms = load_pipeline(SMALL), (arm, replace(arm, with_context=False))
    found, lost = (score_arm(pipeline, SMALL, one, "validation", 0, 0) for one in arms)
    assert scans == [(101, 0.0), (None, 0.0)]
    assert (found["if_sd02"], found["aimed"]) == (1, 1)
    assert (lost["if_sd02"], lost["aimed"]) == (0, 0)


def test_arms_that_seek_are_guided_as_they_say():
    """One call of the model a step without guidance, two with it; both see the context, or one does."""
    pipeline, calls = load_pipeline(SMOKE), []
    pipeline.transformer.register_forward_hook(lambda _, args, kwargs, out: calls.append(kwargs), with_kwargs=True)
    arms = {arm.name: arm for arm in EXPERIMENTS["grounding_guidance"]}
    assert arms.keys() == {arm.name for arm in EXPERIMENTS["guidance"]}
    for name, times, kept in (("none", 1, True), ("joint 1.5", 2, False), ("instruction 1.5", 2, True)):
        calls.clear()
        score_arm(pipeline, SMOKE, arms[name], "validation", 0, 0)
        drawing = [call for call in calls if "only_findings" not in call]  # the first call finds what is named
        assert len(drawing) == times * SMOKE.inference_steps
        assert (drawing[0]["context_cache"] is drawing[times - 1]["context_cache"]) is kept


def test_results_of_another_preset_do_not_lie_over_those_of_small(tmp_path, monkeypatch):
    limits = judges.LIMITS.read_text()
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(judges, "LIMITS", tmp_path / "judges.json")
    arms = [Arm(f"{count} latents", context_latents=count, scan_latents=6) for count in (2, 1)]
    monkeypatch.setitem(EXPERIMENTS, "context", arms)
    monkeypatch.setattr(experiments, "get_preset", lambda name: replace(SMOKE, name=name))
    monkeypatch.setattr(experiments, "load_models", lambda preset: results.load_models(SMOKE))
    asked = ["context", "--preset", "base", "--episodes", "2", "--store", str(tmp_path / "store")]
    assert experiments.main(asked) == 2 and not list(tmp_path.iterdir())  # nobody has calibrated its judges
    (tmp_path / "judges_base.json").write_text(limits)
    assert experiments.main(asked) == 0
    assert (tmp_path / "experiments_base" / "context.json").is_file()
    assert nearest("experiments/context", "base") == "experiments_base/context"
    assert nearest("experiments/guidance", "base") == "experiments/guidance"
    assert nearest("experiments", "base") == "experiments_base" and nearest("arms", "base") == "arms"
    assert folder_of("arms", "small") == tmp_path / "arms" and folder_of("arms", "smoke").parts[0] == "runs"


def test_arms_that_seek_are_compared_by_what_they_find(tmp_path):
    assert all(arm.seeks and arm.least_shared == 0 for arm in EXPERIMENTS["grounding_context"])
    assert {arm.scan_latents for arm in EXPERIMENTS["grounding_context"]} == {100}
    arms = [Arm(f"{count} latents", context_latents=count, scan_latents=6, seeks=True) for count in (6, 1)]
    found = run_arms("grounding_context", arms, SMOKE, "validation", 2, store=tmp_path)
    assert [row["metric"] for row in found[0]["rows"]] == ["sd", "if_sd02", "aimed"]
    assert set(experiments.summarise(found, "if_sd02")["gain"]) == {"1 latents - 6 latents"}
    assert "| arm | if_sd02 (1) |" in compare_arms(found, "if_sd02")
    assert found[0]["inference_steps"] == SMOKE.inference_steps
    with pytest.raises(ValueError, match="^expected an arm that seeks in rooms, got "):
        Arm("park", world="park", seeks=True)


def test_an_arm_in_a_park_is_scored_in_the_park(tmp_path):
    arm = Arm("park", world="park", context_latents=2, scan_latents=2, followed=True)
    elsewhere = replace(arm, name="rooms", world="rooms", followed=False)
    results, other = run_arms("worlds", [arm, elsewhere], SMOKE, "validation", 2, store=tmp_path)
    rows = {row["metric"]: row for row in results["rows"]}
    assert {row["method"] for row in results["rows"]} == {"park"} and rows["psnr"]["n"] == 2
    assert rows["navigation_accuracy"]["failed"] <= 6 and len(results["per_episode"]["navigation_accuracy"]) == 2
    assert len(results["per_episode"]["sd"]) == 2
    assert other["per_episode"]["psnr"] != results["per_episode"]["psnr"]


def test_the_command_writes_one_file_an_arm(tmp_path, capsys, monkeypatch):
    arms = [Arm("one", context_latents=2), Arm("two", context_latents=4)]
    monkeypatch.setitem(experiments.EXPERIMENTS, "context", arms)
    asked = ["context", "--preset", "smoke", "--episodes", "2", "--split", "validation"]
    assert experiments.main([*asked, "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]) == 0
    names = sorted(path.stem for path in (tmp_path / "out").iterdir())
    assert names == ["context", "context_one", "context_two"]
    assert "| two |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        experiments.main(["speed"])
    assert experiments.main(["context", "--preset", "smoke", "--episodes", "1"]) == 2
    assert "expected 2 episodes or more" in capsys.readouterr().err
    rows = json.loads((tmp_path / "out" / "context_one.json").read_text())["rows"]
    assert all(np.isfinite(row["mean"]) for row in rows)


def test_arms_with_and_without_context_are_scored_over_the_same_pixels(monkeypatch):
    pipeline, masks = load_pipeline(SMOKE), []
    measure = experiments.picture_measures

    def watched(video, truth, known):
        masks.append((known.recalled, video))
        return measure(video, truth, known)

    monkeypatch.setattr(experiments, "picture_measures", watched)
    for arm in EXPERIMENTS["handheld"]:
        assert np.isfinite(score_arm(pipeline, SMOKE, arm, "validation", 0, 0)["psnr"])
    (first, *others) = masks
    assert all(torch.equal(mask, first[0]) and not torch.equal(video, first[1]) for mask, video in others)


def test_arms_are_summarised_for_the_ledger():
    """Gains of 4 dB and of 3 dB in every room: three quarters are kept, and no interval; of accuracy a half."""
    rooms, shared = np.array([20.0, 18.0, 22.0]), {"split": "test", "weights_sha256": "", "commit": "", "seed": 0}
    shared |= {"experiment": "handheld", "preset": "small", "episodes": 3, "inference_steps": 3}
    values = (rooms, rooms - 4, rooms - 2, rooms - 5)
    results = [{**stored(name, list(value)), **shared} for name, value in zip("abcd", values, strict=True)]
    for result, accuracy in zip(results, (1.0, 0.2, 0.5, 0.1), strict=True):
        result["per_episode"]["navigation_accuracy"] = [accuracy] * 3
    found = experiments.summarise(results)
    assert found["gain"]["b - a"]["mean"] == pytest.approx(-4) and found["gain"]["d - c"]["high"] == pytest.approx(-3)
    assert len(found["gain"]) == 6 and len(found["rows"]) == 6
    for row, metric, share in zip(found["rows"][-2:], ("retention", "accuracy_retention"), (0.75, 0.5), strict=True):
        assert (row["method"], row["metric"], row["n"]) == ("c", metric, 3)
        assert row["mean"] == row["low"] == row["high"] == pytest.approx(share)
    again = [{**result, "arm": {"name": f"{result['arm']['name']}2"}} for result in results]
    both = experiments.summarise([{**result, "experiment": "worlds"} for result in results + again])
    kept = {row["method"]: row["mean"] for row in both["rows"] if row.get("metric") == "retention"}
    assert kept == pytest.approx({"c": 0.75, "a2": 1.0, "c2": 0.75})
    asked = "navigation_accuracy of 25 latents / 3 latents"  # by claim C8
    shares = {"25 latents": [1.0, 0.5, 1.0], "3 latents": [0.5, 0.25, 0.5]}
    lengths = [{**stored(name, list(rooms)), **shared, "experiment": "context"} for name in shares]
    for result, each in zip(lengths, shares.values(), strict=True):
        result["per_episode"]["navigation_accuracy"] = each
    assert experiments.summarise(lengths)["ratio"][asked]["mean"] == pytest.approx(2)
    plain = experiments.summarise([{**result, "experiment": "guidance"} for result in results[:2]])
    assert len(plain["rows"]) == 2 and list(plain["gain"]) == ["b - a"]
