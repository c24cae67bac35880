"""The matches that a figure shows are those that two cells make of each other, the surest first."""

import torch

from tests.viewing.test_plots import share
from v4s_lib.model.sight import Seen, Sight
from v4s_lib.viewing.matches import matches, surest


def test_cells_match_that_choose_each_other():
    one = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]]), dim=1)
    other = torch.nn.functional.normalize(torch.tensor([[0.1, 1.0], [1.0, 0.0]]), dim=1)
    cells, met = surest(one, other, 5)
    assert (cells.tolist(), met.tolist()) == ([0, 2], [1, 0])  # cell 1 chooses one that is another's
    assert surest(one, other, 1)[0].tolist() == [0]


def test_the_figure_shows_both_frames_and_their_depths():
    torch.manual_seed(0)
    sight = Sight(8, (4, 6), 90.0)
    colors, count = torch.tensor([[200.0, 40, 40], [40, 40, 200]]), sight.size[0] * sight.size[1]
    frames = (colors / 255)[:, None, None].expand(2, 32, 48, 3)
    keys = torch.nn.functional.normalize(torch.randn(1, 2, count, 64), dim=-1)
    shown = matches(sight, Seen(keys, torch.zeros(1, 2, count), torch.zeros(1, 2, count)), frames, 0, 1)
    assert all(share(shown, tuple(color.tolist())) > 0.1 for color in colors)
