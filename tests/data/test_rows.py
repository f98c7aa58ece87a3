import numpy as np

from transformer.data.rows import of_one_width, pad

WIDTHS = [16, 24, 32, 48, 64, 96, 100]


def test_every_sequence_is_in_one_batch_of_its_width():
    lengths = np.random.default_rng(0).integers(1, 101, 300)
    shapes, seen = set(), []
    for width, rows, chosen in of_one_width(lengths, WIDTHS, 256, 4):
        assert 0 < len(chosen) <= rows
        assert rows == 1 or width * rows <= 256
        assert rows < 4 * len(chosen) or (width, rows) in shapes  # as large as what came before
        assert (lengths[chosen] <= width).all()
        shapes.add((width, rows))
        seen += chosen.tolist()
    assert sorted(seen) == list(range(300))
    assert {width for width, _ in shapes} == {16, 24, 32, 48, 64, 96, 100}
    assert len(shapes) == 7  # one a width
    assert list(of_one_width(np.array([], int), WIDTHS, 256, 4)) == []
    ((width, rows, _),) = of_one_width(np.array([20]), WIDTHS, 8192, 4)
    assert (width, rows) == (24, 1)
    ((width, rows, _),) = of_one_width(np.array([20]), WIDTHS, 8192)
    assert (width, rows) == (24, 341)  # always the same number of rows
    few = {next(of_one_width(np.full(number, 20), WIDTHS, 8192, 4))[1] for number in range(1, 500)}
    assert few == {1, 5, 21, 85, 341}  # of a width, whatever the number


def test_pad():
    ids, mask = pad([[5, 6], [7]], 3, 4, pad_id=9)
    assert ids.tolist() == [[5, 6, 9, 9], [7, 9, 9, 9], [9, 9, 9, 9]]
    assert mask.tolist() == [[True, True, False, False], [True, False, False, False], [False] * 4]
