"""What users get wrong about landmarks and L-Gen, and what they are told."""

import numpy as np
import pytest
import torch

from distfacegan.core.lgen import Variant
from distfacegan.core.lgen_training import train_together
from distfacegan.errors import RunDirectoryError, SourceError, SpecError
from distfacegan.sources.pts import read_pts
from distfacegan.stages.lgen import load_rows
from distfacegan.store import groups
from distfacegan.store.run_directory import RunDirectory
from distfacegan.store.shards import Status
from tests.jobs import load_spec


def test_points_that_are_shares_and_not_pixels_are_refused(tmp_path):
    lines = ["version: 1", "n_points: 49", "{", *["0.4 0.6"] * 49, "}"]
    (tmp_path / "a.pts").write_text("\n".join(lines))
    with pytest.raises(SourceError, match=r"a.pts: all numbers .*; expected pixels"):
        read_pts(tmp_path / "a.pts")


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"depth": []}, "lgen.search.depth: .*at least 1"),
        ({"learning_rate": [-0.1]}, "lgen.search.learning_rate.*greater than 0"),
        ({"activation": ["relux"]}, "lgen.search.activation.*relu"),
        ({"batch": [0]}, "lgen.search.batch.*greater than 0"),
        ({"widht": [3]}, "lgen.search.widht.*did you mean `width`"),
        ({"learning_rate": "3e-4"}, "lgen.search.learning_rate.*list"),
    ],
)
def test_a_search_space_that_cannot_be_searched_is_refused_by_field(tmp_path, search, words):
    with pytest.raises(SpecError, match=words):
        load_spec(tmp_path, lgen={"search": search})


def test_a_run_without_latents_or_landmarks_is_refused_by_what_is_missing(tmp_path):
    run = RunDirectory(tmp_path / "run")
    shape = {"num_rows": 60, "shard_rows": 60}
    groups.create_group(run.latents, "landmarks", **shape)
    with pytest.raises(RunDirectoryError, match="latents"):
        load_rows(run)
    latents = groups.create_group(run.latents, "latents", **shape, Z=4)
    with pytest.raises(RunDirectoryError, match="0 rows have both a latent and landmarks"):
        load_rows(run)
    latents["status"][:] = Status.OK
    groups.open_group(run.latents, "landmarks")["status"][:49] = Status.OK
    with pytest.raises(RunDirectoryError, match=r"49 rows have both .* L-Gen needs 50"):
        load_rows(run)


def test_fewer_rows_than_a_batch_are_one_batch():
    z, points = torch.rand(5, 3), torch.rand(5, 49, 2)
    found = [
        train_together(z, points, [Variant(width=4, batch=size)], epochs=3, seeds=[0])[0]
        for size in (5, 64)
    ]
    for one, other in zip(found[0].parameters(), found[1].parameters(), strict=True):
        np.testing.assert_array_equal(one.detach(), other.detach())
