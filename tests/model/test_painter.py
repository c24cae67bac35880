"""The optional painter: it shows what is seen until it has learnt more, and paints what it is asked to alone."""

import pytest
import torch

from v4s_lib.model import way
from v4s_lib.model.cloud import COUNT, Cloud, view
from v4s_lib.model.codec import to_pixels
from v4s_lib.model.outputs import ContextCache, Findings
from v4s_lib.model.painter import Painter
from v4s_lib.model.way import named_box
from v4s_lib.worlds.cameras import Camera

CLOSE = {"atol": 1e-5, "rtol": 0}
SEES = {"localize_after": 1, "see_places": 4, "position_size": (4, 6), "prediction_type": "sample"}
FINDS = {"text_dim": 6, "vocabulary": ["ball", "red", "the"], "find_words": 4}


@pytest.fixture
def painting(make_transformer):
    """A model whose painter has something to say."""
    model = make_transformer(**SEES, **FINDS, paint=True)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.painter.change.weight, std=0.01)
    return model


@torch.no_grad()
def test_it_paints_the_frames_it_is_asked_to(painting, inputs):
    drafts = []
    painting.painter.register_forward_pre_hook(lambda _, arguments: drafts.append(arguments[0]))
    everything, some = painting(**inputs), painting(**inputs, paint_frames=[2, 5])
    change = to_pixels(some[:, :, 1:] - drafts[0], 4).flatten(1, 2).abs().amax(dim=(0, 2, 3, 4))
    assert (change > 1e-3).nonzero().flatten().tolist() == [2, 5]
    some, everything = (to_pixels(value[:, :, 1:], 4).flatten(1, 2)[:, [2, 5]] for value in (some, everything))
    torch.testing.assert_close(some, everything, atol=1e-2, rtol=1e-3)


@torch.no_grad()
def test_an_untaught_painter_shows_the_view_where_there_is_one(painting, inputs):
    """The view where points are, elsewhere the draft."""
    painting.painter.load_state_dict(Painter(24, 4).state_dict())
    called = []
    painting.painter.register_forward_hook(lambda _, arguments, output: called.append((*arguments, output)))
    painting(**inputs)
    draft, _, _, seen, _, _, painted = called[0]
    draft, painted = (to_pixels(value, 4).flatten(1, 2) for value in (draft, painted))
    there = seen[..., COUNT] > 0
    assert 0.1 < there.float().mean() < 0.99
    torch.testing.assert_close(painted[there], seen[..., :3][there], **CLOSE)
    torch.testing.assert_close(painted[~there], draft[~there], **CLOSE)


def test_a_box_goes_around_what_is_named_where_the_last_frame_looks(painting):
    """One context frame seen from where it was taken: the box is the cell that is named; none behind the camera."""
    camera = Camera(16, 24, 90.0)
    place = 2 * camera.rays().reshape(1, -1, 3)
    cache = ContextCache([], cloud=Cloud(place, torch.zeros(1, 384, 3), torch.ones(1, 384), torch.zeros(1, 384)))
    logits = torch.full((3, 25), -20.0)
    logits[0, 1 + 1] = logits[1, 1 + 1] = logits[2, 0] = 20.0  # the second of the upper row, and nothing
    poses = torch.eye(4).expand(3, 2, 4, 4, 4).clone()
    poses[1, -1, -1] = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    ends = poses[:, -1, -1]
    boxes = [named_box(seen) for seen in painting.named_view(Findings(found=logits), cache, ends)]
    assert boxes[0].tolist() == [0, 3, 4, 7] and boxes[1] is None and boxes[2] is None
    assert painting.named_view(Findings(), cache, ends) is None
    assert painting.named_view(Findings(found=logits), None, ends) is None


def test_a_few_frames_at_a_time_are_painted_as_all_together(painting, inputs):
    together = painting(**inputs)  # with gradients there is one batch
    with torch.no_grad():
        torch.testing.assert_close(painting(**inputs), together.detach(), atol=1e-2, rtol=1e-3)


@torch.no_grad()
def test_a_cached_context_paints_as_an_uncached_one(painting, inputs):
    inputs["words"] = torch.tensor([[2, 1, 0], [3, 1, 0]] * 2)
    expected = painting(**inputs)
    cache = painting.encode_context(inputs.pop("context_latents"), inputs.pop("context_time_index"))
    torch.testing.assert_close(painting(**inputs, context_cache=cache), expected, **CLOSE)


@torch.no_grad()
def test_what_is_known_of_start_frames_is_worked_out_once(painting, inputs, monkeypatch):
    """A later step, with other noise, comes out as without it, and from nothing but what the first one found."""
    inputs["words"] = torch.tensor([[2, 1, 0], [3, 1, 0]] * 2)
    known = Findings()
    torch.testing.assert_close(painting(**inputs, known=known), painting(**inputs), **CLOSE)
    start, views = known.start, known.views
    later = {"timestep": torch.full((4,), 500.0)}
    later["target_latents"] = inputs["target_latents"].clone()
    later["target_latents"][:, :, 1:] += 0.5
    expected = painting(**inputs | later)
    for worked_out in ("place_start", "view"):
        monkeypatch.delattr(way, worked_out)
    torch.testing.assert_close(painting(**inputs | later, known=known), expected, **CLOSE)
    assert known.start is start and known.views is views


@torch.no_grad()
def test_it_is_shown_all_frames_of_a_context_and_without_one_the_start_frame_alone(painting, inputs, monkeypatch):
    clouds, context = [], to_pixels(inputs["context_latents"], 4)
    monkeypatch.setattr(way, "view", lambda cloud, *cameras: clouds.append(cloud) or view(cloud, *cameras))
    painting(**inputs)
    del inputs["context_latents"], inputs["context_time_index"]
    painting(**inputs)
    assert [cloud.place.shape[1] for cloud in clouds] == [(4 * context.shape[1] + 1) * 16 * 24, 16 * 24]
    shown = clouds[0].color[:: len(clouds[0].color) // len(context)]  # once for each context
    frames = torch.cat([context[:, :, :-1].flatten(1, 2), context[:, :, -1]], dim=1).flatten(1, 3)
    torch.testing.assert_close(shown[:, : frames.shape[1]], frames, **CLOSE)
    frame = to_pixels(inputs["target_latents"][:, :, :1], 4)[:, 0, -1]
    torch.testing.assert_close(clouds[1].color, frame.flatten(1, 2), **CLOSE)


def test_what_is_painted_teaches_the_draft_too(painting, inputs):
    painting(**inputs, words=torch.tensor([[2, 1, 0], [3, 1, 0]] * 2)).square().mean().backward()
    for part in (painting.painter, painting.blocks[-1], painting.proj_out):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())


def test_what_a_painter_needs(make_transformer):
    for changes in ({"see_places": None}, {"prediction_type": "velocity"}):
        with pytest.raises(ValueError, match="expected see_places and prediction_type sample"):
            make_transformer(**{**SEES, **changes}, paint=True)


@torch.no_grad()
def test_a_context_of_noise_neither_turns_the_camera_nor_shares_the_start(painting, inputs):
    """At the timestep of noise the camera stays; among clean frames it turns to what the finder found."""
    words, off = torch.tensor([[2, 1, 0], [3, 1, 0]] * 2), []
    context = [inputs.pop(name) for name in ("context_latents", "context_time_index")]
    for timestep in (1000.0, 0.0):
        cache = painting.encode_context(*context, torch.full((2,), timestep))
        findings = painting(**inputs, words=words, context_cache=cache, only_findings=True)
        off.append((painting.plan(findings, cache) - findings.start[:, :, -1:])[:, 1:].abs().max())
        assert bool((findings.shared > 0).all()) == (timestep == 0)
    assert off[0] == 0 and off[1] > 1e-2


def test_what_is_learnt_before_drawing_includes_the_finder(painting, inputs):
    findings = painting(**inputs, words=torch.tensor([[2, 1, 0], [3, 1, 0]] * 2), only_seen=True)
    findings.found.logsumexp(dim=1).sum().backward()
    assert all(parameter.grad is not None for parameter in painting.finder.see.parameters())
