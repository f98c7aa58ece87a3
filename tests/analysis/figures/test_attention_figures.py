import re
from functools import partial

import numpy as np
import pytest

from transformer.analysis.attention import Attention
from transformer.analysis.figures import to_bytes
from transformer.analysis.figures.attention import draw, heat_maps
from transformer.analysis.page import Start
from transformer.errors import InputError

TOKENS = ["The", "$x$", "law", "<s>", "_^{\\", "schöner"]


@pytest.fixture(scope="module")
def found(make_attention) -> Attention:
    return make_attention(TOKENS, 2, 3)


@pytest.mark.parametrize(
    "shown",
    [Start("cross"), Start("encoder", layer=1, head=2), Start("rollout"), Start("encoder", word="law", joined=True)],
)
def test_it_is_drawn_without_a_date(found, shown):
    for suffix, begins in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        data = to_bytes(partial(draw, found, shown), suffix)
        assert data.startswith(begins)
        assert not re.search(rb"<dc:date>|Software", data)


def test_heat_maps_are_the_weights_on_one_scale_and_a_rollout_on_its_own(found):
    for shown, largest in ((Start("cross"), 1), (Start("rollout"), found.weights["rollout"].max())):
        *grid, _ = heat_maps(found, shown).axes  # the last one is the scale
        weights = found.weights[shown.kind]
        for axes, index in zip(grid, np.ndindex(weights.shape[:2]), strict=True):
            (image,) = axes.images
            np.testing.assert_array_equal(np.asarray(image.get_array()), weights[index])
            assert image.get_clim() == (0, pytest.approx(largest))


def test_what_is_not_there(found):
    for shown, message in (
        (Start("encoder", layer=2), "Kind encoder has no layer 2"),
        (Start("encoder", head=3), "Kind encoder has no head 3"),
        (Start("encoder", word="cat"), "cat is not one of the query tokens"),
    ):
        with pytest.raises(InputError, match=message):
            draw(found, shown)
