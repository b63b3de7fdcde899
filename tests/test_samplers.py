"""The latents that samples are made of, and samples that are made again alone."""

import json
import shutil
import tarfile

import numpy as np
import pytest
import zarr

from distfacegan import pipeline
from distfacegan.cli import main
from distfacegan.core.priors import UNIFORM
from distfacegan.errors import RunDirectoryError, SourceError, SpecError
from distfacegan.samplers import SAMPLERS, Photos
from distfacegan.samplers.interpolate import Interpolate
from distfacegan.samplers.latents import OfFile
from distfacegan.samplers.mirror import Mirror
from distfacegan.samplers.neighbours import Neighbours
from distfacegan.samplers.photos import OfPhotos
from distfacegan.samplers.sampler import choose_photos
from distfacegan.store import groups
from distfacegan.store.run_directory import RunDirectory
from tests.jobs import load_spec

DIM = 5
RANDOM = np.random.default_rng(0)
PHOTOS = Photos(
    rows=np.array([2, 3, 5, 8]),
    z=RANDOM.uniform(-1, 1, (4, DIM)).astype(np.float32),
    mirrored=RANDOM.uniform(-1, 1, (4, DIM)).astype(np.float32),
)


def make(settings, seed=0):
    return settings.make(seed, DIM, UNIFORM, PHOTOS)


def weighted(origin):
    """The latent that an origin describes, of PHOTOS."""
    positions = [PHOTOS.rows.tolist().index(row) for row in origin.parents]
    ends = [PHOTOS.z[positions[0]]]
    if len(positions) == 2:
        of_mirror = origin.sampler == "mirror"
        ends.append((PHOTOS.mirrored if of_mirror else PHOTOS.z)[positions[1]])
    return sum(weight * end for weight, end in zip(origin.weights, ends, strict=True))


@pytest.mark.parametrize("settings", [Interpolate(steps=3), Mirror(steps=3), OfPhotos()])
def test_the_origin_of_a_sample_says_what_its_latent_is_made_of(settings):
    drawn = make(settings).draw(np.arange(4))
    for z, origin in zip(drawn.z, drawn.origins, strict=True):
        assert origin.sampler == settings.kind
        np.testing.assert_allclose(z, weighted(origin), atol=1e-6)


def test_interpolation_walks_between_two_photos_at_equal_steps():
    drawn = make(Interpolate(steps=4)).draw(np.arange(8))
    assert [origin.step for origin in drawn.origins] == [0, 1, 2, 3] * 2
    assert drawn.origins[0].parents == drawn.origins[3].parents
    assert drawn.origins[0].parents != drawn.origins[4].parents
    assert drawn.origins[1].weights == (0.6, 0.4)
    apart = np.diff(drawn.z[:4], axis=0)
    np.testing.assert_allclose(apart, np.broadcast_to(apart[0], apart.shape), atol=1e-6)


def test_mirrors_walk_from_a_photo_to_its_mirror_image():
    sampler = make(Mirror(steps=14))
    assert sampler.count == 4 * 14
    drawn = sampler.draw(np.array([0, 13, 14]))
    assert [origin.parents for origin in drawn.origins] == [(2, 2), (2, 2), (3, 3)]
    assert np.abs(drawn.z[0] - PHOTOS.z[0]).max() < np.abs(drawn.z[1] - PHOTOS.z[0]).max()


def test_neighbours_stay_near_their_photo_and_within_the_prior():
    drawn = make(Neighbours(radius=0.25)).draw(np.arange(200))
    assert {origin.parents[0] for origin in drawn.origins} == {2, 3, 5, 8}
    parents = np.stack([weighted(origin) for origin in drawn.origins])
    assert 0.2 < np.abs(drawn.z - parents).max() <= 0.2500001
    assert np.abs(drawn.z).max() <= 1


@pytest.mark.parametrize("settings", [Interpolate(), Mirror(), Neighbours(), OfPhotos()])
def test_a_sample_is_a_function_of_its_index(settings):
    together, alone = make(settings).draw(np.arange(4)), make(settings).draw(np.array([2]))
    np.testing.assert_array_equal(together.z[2], alone.z[0])
    assert together.origins[2] == alone.origins[0]


def test_samples_of_the_prior_are_those_of_earlier_versions():
    from distfacegan.core.seeding import uniform_latents

    drawn = make(SAMPLERS["prior"](), seed=4).draw(np.arange(7, 12))
    expected = uniform_latents(4, range(7, 12), DIM, stream="synthesis")
    np.testing.assert_array_equal(drawn.z, expected)


def test_parents_are_different_photos_and_all_of_them_are_chosen():
    chosen = choose_photos(0, np.arange(500), num_photos=5, each=3)
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    assert np.bincount(chosen.ravel(), minlength=5).min() > 200
    with pytest.raises(RunDirectoryError, match="needs 2 inverted photos at least, found 1"):
        choose_photos(0, np.arange(3), num_photos=1, each=2)


@pytest.fixture
def files(tmp_path):
    """The same latents in every kind of file."""
    import pyarrow
    import pyarrow.parquet

    np.save(tmp_path / "z.npy", PHOTOS.z)
    zarr.save_array(tmp_path / "z.zarr", PHOTOS.z)
    table = pyarrow.table({"key": list("abcd"), "z": PHOTOS.z.tolist()})
    pyarrow.parquet.write_table(table, tmp_path / "z.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["z.npy", "z.zarr", "z.parquet"])
def test_latents_come_from_a_file(files, name):
    sampler = make(OfFile(path=files / name))
    assert sampler.count == 4
    np.testing.assert_array_equal(sampler.draw(np.array([3, 1])).z, PHOTOS.z[[3, 1]])
    assert OfFile(path=files / name).inputs() == OfFile(path=files / "z.npy").inputs()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (PHOTOS.z[:, :3], r"is \[4, 3\], expected \[N, 5\]"),
        (PHOTOS.z.ravel(), r"is \[20\], expected \[N, 5\]"),
        (PHOTOS.z * [[1], [1], [9], [1]], r"1 of 4 latents .* outside of \[-1, 1\].* row 2"),
        (
            np.where(np.arange(4)[:, None] == 1, np.nan, PHOTOS.z),
            r"1 of 4 latents .* the first is row 1",
        ),
        (np.array([["x"]]), "no latents could be read"),
        (np.array([{}]), "no latents could be read"),
    ],
)
def test_wrong_latents_are_refused_by_row(tmp_path, wrong, words):
    np.save(tmp_path / "z.npy", wrong)
    with pytest.raises(SourceError, match=words):
        make(OfFile(path=tmp_path / "z.npy"))


@pytest.mark.parametrize("name", ["none.npy", "none.zarr", "none.parquet"])
def test_a_missing_file_of_latents_is_named(tmp_path, name):
    with pytest.raises(SourceError, match=f"{name}: no latents could be read"):
        make(OfFile(path=tmp_path / name))


def test_the_mirror_sampler_needs_the_inversion(tmp_path):
    with pytest.raises(SpecError, match=r"sampler is mirror: .* needs the section invert"):
        load_spec(tmp_path, invert=None, synthesize={"count": 5, "sampler": {"kind": "mirror"}})


def test_an_unknown_sampler_is_named_with_those_that_exist(tmp_path):
    with pytest.raises(SpecError, match="did you mean `interpolate`"):
        load_spec(tmp_path, synthesize={"count": 5, "sampler": {"kind": "interpolat"}})


@pytest.fixture
def again(finished, tmp_path):
    """A function that synthesizes anew in a copy of the finished run."""
    shutil.copytree(finished.root, tmp_path / "run")

    def run(**section):
        section = {"count": 40, "shard_rows": 20, "workers": 1, **section}
        spec = load_spec(tmp_path, synthesize=section, report=None)
        copy = RunDirectory(tmp_path / "run")
        copy.clear("synthesize", ["synthetic"])
        assert pipeline.run(spec) == pipeline.DONE
        return copy

    return run


@pytest.mark.ray
def test_samples_of_photos_and_one_made_again_alone(again, tmp_path, capsys):
    run = again(sampler={"kind": "interpolate", "steps": 3})
    with tarfile.open(run.synthetic / "00001.tar") as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()[10:12]}
    [_, labels] = members
    origin = json.loads(members[labels])["origin"]
    assert (origin["sampler"], origin["step"], origin["steps"]) == ("interpolate", 1, 3)  # index 25
    assert main(["regenerate", str(run.root), "--index", "25", "--to", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "one" / name) for name in members]
    for name, data in members.items():
        assert (tmp_path / "one" / name).read_bytes() == data

    assert main(["regenerate", str(run.root), "--index", "40", "--to", str(tmp_path)]) == 2
    assert "the indices 0 to 39; --index is 40" in capsys.readouterr().err


@pytest.mark.ray
def test_mirrored_photos_are_inverted_for_the_samples_between(again):
    run = again(sampler={"kind": "mirror", "steps": 2})
    mirrored = groups.open_group(run.latents, "mirrored")
    direct = groups.open_group(run.latents, "latents")
    good = groups.read(direct, "status") == 1
    np.testing.assert_array_equal(groups.read(mirrored, "status") == 1, good)
    losses = [groups.read(group, "loss")[good] for group in (direct, mirrored)]
    assert abs(np.log(losses[1].mean() / losses[0].mean())) < 0.2  # a mirrored face is as hard
    assert not np.allclose(*(groups.read(group, "z")[good] for group in (direct, mirrored)))
    assert not list(pipeline.verify(run))


@pytest.mark.ray
def test_more_samples_than_there_are_is_refused_before_any_is_made(again):
    with pytest.raises(RunDirectoryError, match=r"count is 400, but the sampler photos has only"):
        again(count=400, sampler={"kind": "photos"})
