"""Each checker accepts the answer and says "not yet" to what the notebook starts from; none of them raises."""

import pytest

from v4s_lib.viewing import exercises_beyond


def evenly(count, most):
    size = min(count, most)
    return [round(place * (count - 1) / (size - 1)) for place in range(size)]


def by_place(places, targets):
    return places, list(range(places[-1] + 1, places[-1] + 1 + targets))


CASES = [
    ("check_ranks", lambda p, t: (list(range(len(p))), list(range(len(p), len(p) + t))), by_place),
    ("check_lost", lambda a, b: 1 - b / a, lambda a, b: a - b),
    ("check_pairs", lambda c, t, n: (c * n) ** 2 + t * n * (c + t) * n, lambda c, t, n: ((c + t) * n) ** 2),
    ("check_no_faster", lambda f, s: s[-1] / f[-1] <= s[0] / f[0], lambda f, s: s[-1] <= s[0]),
    ("check_retention", lambda a, b: b.mean() / a.mean(), lambda a, b: (b / a).mean()),
    ("check_evenly", evenly, lambda count, most: range(most)),
]


@pytest.mark.parametrize(("name", "right", "start"), CASES, ids=[case[0] for case in CASES])
def test_a_checker_knows_the_answer(name, right, start, capsys):
    check = getattr(exercises_beyond, name)
    check(right)
    assert capsys.readouterr().out == "right\n"
    check(start)
    assert capsys.readouterr().out.startswith("not yet: ")
