"""The optional finder: it sees the cells it says it sees, and the context stays a function of itself alone."""

import pytest
import torch

from tests.model.drawn import randn
from v4s_lib.model.codec import PatchCodec
from v4s_lib.model.finder import KEY, Finder, draw_thing, named_place
from v4s_lib.model.pose import relative_to_start, token_rays
from v4s_lib.model.sight import LEAST_CELL
from v4s_lib.training.data import cell_share
from v4s_lib.training.loss import finding_loss

CLOSE = {"atol": 1e-5, "rtol": 0}
FINDS = {"localize_after": 1, "text_dim": 6, "vocabulary": ["ball", "red", "the"], "find_words": 4}


@pytest.fixture
def finder() -> Finder:
    torch.manual_seed(0)
    return Finder(dim=24, text_dim=6, patch=8)


@torch.no_grad()
def test_a_key_belongs_to_its_cell_of_the_last_frame(finder):
    """One pixel changes the keys within the network's reach of two cells, and only in the last of four frames."""
    codec = PatchCodec(8)
    groups = torch.rand((1, 2, 4, 16, 24, 3), generator=torch.Generator().manual_seed(1))
    before = finder.keys(codec.encode_groups(groups))
    assert before.shape == (1, 2 * 4 * 6, KEY)
    for frame, row, column in ((3, 9, 14), (0, 9, 14)):
        changed = groups.clone()
        changed[0, 1, frame, row, column] += 0.5
        moved = (finder.keys(codec.encode_groups(changed)) - before).abs().amax(dim=-1).view(2, 4, 6) > 1e-6
        assert not moved[0].any()
        where = moved[1].nonzero()
        if frame == 0:
            assert len(where) == 0
        else:
            assert moved[1, row // LEAST_CELL, column // LEAST_CELL]
            assert (where - torch.tensor([row // LEAST_CELL, column // LEAST_CELL])).abs().max() <= 3
            assert not moved[1].all()


def test_cells_look_where_their_pixels_do(finder, make_path):
    path = relative_to_start(make_path(1, 5))
    rays = finder.rays(path, 2, 3, 90.0).unflatten(1, (2, 4, 6))
    direction, _ = token_rays(path, 4, 6, 90.0)
    torch.testing.assert_close(rays[0, 1, 2, 3, -42:-39], direction[0, 1, 3, 2 * 6 + 3])  # of the last frame


@torch.no_grad()
def test_where_nothing_agrees_nothing_is_told(finder):
    finder.tell.weight.normal_(generator=torch.Generator().manual_seed(0))
    rays = randn(2, 5, 168, seed=3)
    nothing = torch.tensor([[50.0, 0, 0, 0, 0, 0]] * 2)
    torch.testing.assert_close(finder.change(nothing, rays), torch.zeros(2, 1, 24), atol=1e-6, rtol=0)
    second = torch.tensor([[0.0, 0, 50, 0, 0, 0]] * 2)
    torch.testing.assert_close(finder.change(second, rays)[:, 0], finder.tell(rays[:, 1]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_query_meets_the_key_that_it_agrees_with(finder):
    words = randn(3, 4, 6, seed=4)
    query = finder.query((finder.attend(words).softmax(dim=1).transpose(1, 2) @ words).flatten(1))
    keys = randn(3, 9, KEY, seed=5)
    keys[:, 7] = 3 * query
    assert finder(words, keys).shape == (3, 10)
    assert finder(words, keys).argmax(dim=1).tolist() == [8] * 3
    assert finder(words, -3 * query[:, None].expand(-1, 9, -1)).argmax(dim=1).tolist() == [0] * 3


def test_shares_of_cells_are_counted_in_the_last_frame():
    instance = torch.zeros((1, 2, 4, 8, 12), dtype=torch.long)
    instance[0, 0, 3, 4:8, 4:6] = 20  # half of a cell
    instance[0, 1, 0] = 20
    share = cell_share(instance, torch.tensor([[20, -1]]))
    assert share.shape == (2, 2 * 2 * 3) and share[1].sum() == 0
    assert share[0].tolist() == [0.0] * 4 + [0.5] + [0.0] * 7


def test_the_loss_is_zero_for_the_right_choice_and_counts_what_was_heard():
    shown = torch.tensor([[0.0, 0.5, 0.5, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    right = torch.log(torch.tensor([[0, 0, 0.5, 0.5, 0], [1, 0, 0, 0, 0], [0, 0.2, 0.8, 0, 0]]) + 1e-12)
    heard = torch.tensor([True, True, False])
    assert finding_loss(right, shown, heard).item() == pytest.approx(0, abs=1e-5)
    assert finding_loss(right, shown, ~heard).item() == pytest.approx(-torch.tensor(0.2).log().item(), abs=1e-4)
    even = torch.zeros(3, 5)
    expected = (torch.tensor(5.0).log() - torch.tensor(2.0).log() + torch.tensor(5.0).log()) / 2
    assert finding_loss(even, shown, heard).item() == pytest.approx(expected.item(), abs=1e-5)
    assert finding_loss(even, shown, torch.zeros(3, dtype=torch.bool)).item() == 0


@pytest.fixture
def inputs(latents) -> dict[str, torch.Tensor]:
    return {
        **latents,
        "words": torch.tensor([[2, 1, 0], [3, 1, 0]] * 2),
    }


@torch.no_grad()
def test_a_cached_context_gives_what_an_uncached_one_gives(make_transformer, inputs):
    model = make_transformer(**FINDS)
    expected, findings = model(**inputs, return_findings=True)
    assert findings.found.shape == (4, 1 + 5 * 2 * 3)  # patches of 4 pixels are cells
    cache = model.encode_context(inputs.pop("context_latents"), inputs.pop("context_time_index"))
    torch.testing.assert_close(model(**inputs, context_cache=cache), expected, **CLOSE)


@torch.no_grad()
def test_what_is_found_reaches_the_plan(make_transformer, inputs):
    model, plans = make_transformer(**FINDS), []
    for block in model.blocks:
        block.attn2.to_out[0].weight.zero_()  # words are heard by the finder alone
        block.attn2.to_out[0].bias.zero_()
    for words in (inputs["words"], inputs["words"].flip(0)):
        plans.append(model(**inputs | {"words": words}, return_findings=True)[1].target_numbers)
    assert (plans[0] - plans[1]).abs().max() > 1e-4


def test_what_a_finder_needs(make_transformer):
    for changes in ({"localize_after": None}, {"vocabulary": None}):
        with pytest.raises(ValueError, match="^expected a localizer and a vocabulary for a finder, got localize_after"):
            make_transformer(**FINDS | changes)


def test_of_two_things_that_look_alike_the_likelier_is_the_place():
    """Two clusters, 0.1 m wide and 3 m apart, with 60% and 40%: the mean of the first, not a point between them."""
    first, second = 0.1 * randn(1, 6, 3, seed=8), 0.1 * randn(1, 6, 3, seed=9) + torch.tensor([3.0, 0, 0])
    logits = torch.tensor([[5.0] + [0.6] * 6 + [0.4] * 6]).log()
    place = named_place(logits, torch.cat([first, second], dim=1))
    assert (place[0] - first[0].mean(dim=0)).norm() < 0.1


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.75), (0.5, 0.9)])
def test_a_thing_is_drawn_as_likely_as_it_is_held(temperature, expected):
    """One thing of two cells with 0.5 and 0.25, another of one with 0.25, 4 m away; nothing as likely as all three."""
    points = torch.tensor([[1.0, 0, 0], [1.1, 0, 0], [-3.0, 0, 0]]).expand(2000, 3, 3)
    logits = torch.tensor([1.0, 0.5, 0.25, 0.25]).log().expand(2000, 4)
    drawn = draw_thing(logits, points, temperature, torch.Generator().manual_seed(0))
    first = named_place(drawn, points)[:, 0] > 0
    held = {1.0: 0.75, 0.5: (0.25 + 0.0625) / 0.375}[temperature]
    assert held == pytest.approx(expected, abs=0.07) and first.float().mean() == pytest.approx(held, abs=0.03)
    share = drawn.softmax(dim=1)
    torch.testing.assert_close(share[:, 0], torch.full((2000,), 0.5), **CLOSE)
    assert share[first, 3].max() < 1e-6 and share[~first, 1:3].max() < 1e-6
    assert (share[first, 1] > share[first, 2]).all()  # of one thing, the likelier cell stays so
    again = draw_thing(logits, points, temperature, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
