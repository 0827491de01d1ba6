"""What is stored of a map, and how far float16 is from it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from graphprop.datasets.layout import packed, stored, unpacked
from graphprop.datasets.plan import Plan, rows_of_chunk

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(arrays(np.float32, (2, 1, 3, 3), elements=FLOATS))
@settings(max_examples=300, deadline=None)
def test_float16_keeps_eleven_digits_and_never_overflows(maps):
    small, scale = packed(maps)
    assert np.isfinite(small).all()
    back = unpacked(small, scale).astype(np.float64)
    largest = np.abs(maps).max(axis=(1, 2, 3), keepdims=True).astype(np.float64)
    # the second where float16 has no more digits, the third where float32 has none
    bound = np.abs(maps) * 2.0**-11 + largest * 2.0**-39 + 2.0**-149
    assert (np.abs(back - maps) <= bound).all()
    mantissa, _ = np.frexp(scale)
    assert (mantissa == 0.5).all()


def test_entries_that_are_not_finite_stay_so_and_spoil_no_other():
    maps = np.array([[[np.nan, np.inf, -np.inf, 3.0]], [[0.0, 0.0, 0.0, 0.0]]])
    small, scale = packed(maps)
    assert np.isnan(small[0, 0, 0])
    assert (small[0, 0, 1], small[0, 0, 2]) == (np.inf, -np.inf)
    assert unpacked(small, scale)[0, 0, 3] == 3.0
    assert scale[1] == 1.0


def test_sums_are_of_the_map_as_computed():
    maps = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    for dtype, reduce in (("float32", None), ("float16", "channels")):
        found = stored(maps, dtype, reduce)
        exact = maps.astype(np.float64)
        np.testing.assert_allclose(found["relevance_sum"], exact.sum((1, 2, 3)), rtol=1e-13)
        below = np.minimum(exact, 0).sum((1, 2, 3))
        np.testing.assert_allclose(found["relevance_negative"], below, rtol=1e-13)
        wanted = exact if reduce is None else exact.sum(1)
        kept = unpacked(found["relevance"], found.get("scale"))
        np.testing.assert_allclose(kept, wanted, atol=2e-3)


def test_a_chunk_depends_on_the_size_of_a_map_alone():
    assert rows_of_chunk((3, 224, 224), "float32") == 32
    assert rows_of_chunk((3, 224, 224), "float16") == 64
    assert rows_of_chunk((1, 6, 6), "float32") == 256
    assert rows_of_chunk((3, 10000, 10000), "float32") == 1


@pytest.mark.parametrize(("count", "chunk", "batch"), [(10, 4, 3), (8, 4, 4), (1, 256, 16)])
def test_batches_cover_every_row_once_and_end_with_their_chunk(count, chunk, batch):
    plan = Plan(count, chunk, batch)
    rows = [row for number in range(plan.chunks) for row in plan.rows(number)]
    assert rows == list(range(count))
    for number in range(plan.chunks):
        batches = list(plan.batches(number))
        assert [row for part in batches for row in part] == list(plan.rows(number))
        assert all(len(part) == batch for part in batches[:-1])
