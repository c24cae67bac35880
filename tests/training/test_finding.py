"""The steps that teach the finder alone: what they ask is there to be seen, and they change nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from v4s_lib.data.instructions import GROUNDING, object_name
from v4s_lib.model.transformer import ContextVideoTransformer
from v4s_lib.training.__main__ import main
from v4s_lib.training.data import LEAST_SHOWN, VOCABULARY, RoomStream, cell_share
from v4s_lib.training.loop import make_optimizer, train
from v4s_lib.training.loss import naming_loss
from v4s_lib.training.presets import SMOKE
from v4s_lib.training.weights import LOCATES
from v4s_lib.worlds.objects import NEW_LABELS

ROOMS = RoomStream.for_finding(SMOKE)


def labels(words: torch.Tensor) -> list[str]:
    """The colour and kind that each row of words names first."""
    before = len(GROUNDING.split("{name}")[0].replace(".", "").split()) + 1  # and the article
    return [" ".join(VOCABULARY[index - 1] for index in row[before : before + 2].tolist()) for row in words]


def test_things_are_named_that_the_context_shows_and_one_that_is_not_there():
    stream = RoomStream(ROOMS, 3, "cpu")
    things = stream.things(2)
    rooms = [(batch, room) for batch in stream.groups.values() for room in range(len(batch.scenes))]
    count = SMOKE.locate_targets
    assert len(things.words) == len(things.shown) == count * len(things.context_latents) == count * len(rooms)
    named = labels(things.words)
    for place, (batch, room) in enumerate(rooms):
        frames = stream.codec.decode_groups(things.context_latents[place : place + 1])[0, :, -1]
        apart = (batch.scan_frames[room, :, -1][:, None] - frames).flatten(2).abs().amax(dim=2)
        seen = batch.scan_instance[room, apart.argmin(dim=0)][None]  # of the scan's latents that were drawn
        held = {item.label: item.instance for item in batch.scenes.objects[room]}
        *shown, absent = range(count * place, count * (place + 1))
        assert named[absent] not in {*held, *NEW_LABELS} and not things.shown[absent].any()
        for row in shown:
            assert torch.equal(things.shown[row], cell_share(seen, torch.tensor([[held[named[row]]]]))[0])
        large = [label for label, instance in held.items() if (seen[..., -1, :, :] == instance).sum() >= LEAST_SHOWN]
        assert len({named[row] for row in shown}) == min(len(shown), len(large or held))
    assert things.shown.any(dim=1).float().mean() > 0.6


def test_a_finder_learns_from_the_names():
    torch.manual_seed(0)
    model = ContextVideoTransformer(**SMOKE.model)
    things, optimizer, values = RoomStream(ROOMS, 0, "cpu").things(0), make_optimizer(model, SMOKE), []
    for _ in range(200):
        loss = naming_loss(model, things)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] / 2
    with torch.no_grad():
        text = model.word_embedding(things.words)
        found = model(None, None, None, things.context_latents, encoder_hidden_states=text, only_seen=True).found
    nothing = found.argmax(dim=1) == 0
    assert torch.equal(nothing, ~things.shown.any(dim=1))


def test_the_command_teaches_the_finder_of_some_weights_and_changes_nothing_else(tmp_path, capsys):
    start = train(replace(SMOKE, validation_rooms=1), tmp_path / "start", progress=False)
    asked = ["--preset", "smoke", "--find", "--steps", "2", "--out", str(tmp_path / "out")]
    assert main([*asked, "--init", str(start)]) == 0
    place = Path(capsys.readouterr().out.strip())
    before, after = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (start, place))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name in before if name.startswith(LOCATES) and name.startswith("finder.")}
    assert main(asked) == 2
    assert capsys.readouterr().err.startswith("expected --init with --find, got none: name the weights whose finder")


def test_find_steps_need_a_finder(tmp_path):
    mute = replace(SMOKE, model=SMOKE.model | {"text_dim": None, "vocabulary": None, "find_words": None})
    with pytest.raises(ValueError, match="^expected find_steps=0 for a model without a finder, got 1: change it"):
        train(mute, tmp_path, progress=False)


def test_names_begin_where_the_labels_are_read():
    assert GROUNDING.format(name=object_name("red ball")).split("focuses on ")[1].startswith("a red ball")
