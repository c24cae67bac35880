"""The reader that ships: it reads what is rendered, and says nothing of what is not there."""

import pytest
import torch

from v4s_lib.data.manifests import MANIFESTS
from v4s_lib.evaluation import reader as reading
from v4s_lib.evaluation.reader import NOTHING, ObjectReader, cell_classes, label_class, load_reader, look_around
from v4s_lib.worlds.objects import COLORS, KINDS
from v4s_lib.worlds.scenes import make_scenes, scene_seed

LABELS = [f"{color} {kind}" for color in COLORS for kind in KINDS]


@pytest.fixture(scope="module")
def looks() -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of validation rooms, and the classes of what is in their middle."""
    generator = torch.Generator().manual_seed(0)
    rooms = [look_around(make_scenes([scene_seed("validation", i)]), generator, 8) for i in range(60, 84)]
    return tuple(torch.cat(part) for part in zip(*rooms, strict=True))


def test_every_label_has_a_class_of_its_own():
    assert sorted(label_class(label) for label in LABELS) == list(range(NOTHING))


def test_it_reads_rooms_it_has_never_seen(looks):
    frames, classes = looks
    found = load_reader()(frames).argmax(dim=1)
    shown = classes != NOTHING
    assert (found[shown] == classes[shown]).float().mean() > 0.4  # chance is 1 in 81
    assert (found[~shown] == NOTHING).float().mean() > 0.9


def test_a_score_is_the_probability_of_the_label_in_the_middle(looks):
    frames = looks[0][:4]
    reader = load_reader()
    probable = (reader(frames).softmax(dim=1) + reader(frames.flip(2)).softmax(dim=1).flip(3)) / 2
    for label in LABELS[::9]:
        expected = probable[:, label_class(label), 3:5, 4:8].amax(dim=(1, 2))  # of 8 rows and 12 columns of cells
        torch.testing.assert_close(reader.score(frames, [label] * 4), expected)
    larger = frames.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    torch.testing.assert_close(reader.score(larger, LABELS[:4]), reader.score(frames, LABELS[:4]))


def test_grey_frames_show_nothing():
    scores = load_reader().score(torch.full((len(LABELS), 32, 48, 3), 0.5), LABELS)
    assert scores.max() < 0.05


def test_a_cell_is_of_the_object_that_covers_most_of_it():
    scenes = make_scenes([3])
    first, second = scenes.objects[0][:2]
    instance = torch.zeros((1, 8, 12), dtype=torch.long)
    instance[0, :4, :3] = first.instance
    instance[0, :4, 3] = second.instance  # a quarter of the first cell
    instance[0, 4:, 4:6] = second.instance
    classes = cell_classes(instance, scenes)[0]
    assert classes[0].tolist() == [label_class(first.label), NOTHING, NOTHING]
    assert classes[1].tolist() == [NOTHING, label_class(second.label), NOTHING]


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"^expected frames \(N, H, W, 3\) of 32 to 48 in height and width, got shape"):
        ObjectReader().score(torch.zeros(1, 32, 32, 3), ["red ball"])


def test_training_is_a_function_of_its_arguments_and_lowers_the_loss(tmp_path):
    first, again = (reading.train_reader(rooms=2, epochs=4, progress=False) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert reading.main(["--rooms", "2", "--epochs", "1", "--out", str(tmp_path)]) == 0
    assert load_reader(tmp_path).score(torch.zeros(1, 32, 48, 3), ["red ball"]).shape == (1,)
    assert (MANIFESTS / "weights_reader.yaml").is_file()
