"""Networks from their weights on disk: this run's own, or those a spec names.

Between the layers: core knows networks and no files, store knows files and no networks.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from distfacegan.core.audit import Audit, Judged
from distfacegan.core.lgen import Evaluation, LandmarkGenerator
from distfacegan.core.networks import Generator
from distfacegan.core.surrogate import Surrogate
from distfacegan.core.uncertainty import Reliability
from distfacegan.errors import CheckpointError, RunDirectoryError
from distfacegan.store import formats, weight_files
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory

log = logging.getLogger(__name__)

GENERATOR = "generator"
LGEN = "lgen"
SURROGATE = "surrogate"


def generator_path(run: RunDirectory, given: Location | None) -> Location:
    """Return the generator that a section names, or the finished one of this run."""
    if given is None and not run.finished("began"):
        raise RunDirectoryError(
            f"{run.root} has no finished generator: run the stage began first, "
            "or name one with `generator: FILE`"
        )
    return given or run.began / GENERATOR


@dataclasses.dataclass(frozen=True)
class LoadedGenerator:
    """A generator, frozen, and where its weights are."""

    path: Location
    network: Generator
    digest: str  # of the file of its weights

    def check_resolution(self, resolution: int | None) -> None:
        """Raise CheckpointError if faces of so many pixels cannot be shrunk to the generator's."""
        side = self.network.resolution
        if resolution is not None and (resolution < side or resolution % side):
            raise CheckpointError(
                f"{self.path} makes faces of {side} pixels: the faces of {resolution} pixels to be "
                "inverted are no whole number of times as large"
            )


def open_generator(path: Location) -> LoadedGenerator:
    """Load a generator from a folder or a .safetensors file, its architecture from its shapes.

    Raises CheckpointError if the weights are missing, damaged or no generator's.
    """
    try:
        state, digest = weight_files.load_with_digest(path, GENERATOR)
        network = Generator.from_state_dict(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return LoadedGenerator(path, network.eval().requires_grad_(False), digest)


def load_generator(path: Location) -> Generator:
    """Return the network alone of `open_generator`."""
    return open_generator(path).network


def digest(path: Location, name: str) -> str:
    """Return the digest of the weights that a path means; raises CheckpointError."""
    return weight_files.load_with_digest(path, name)[1]


def load_surrogate(folder: Location) -> Surrogate:
    """Load the surrogate of a generator (recipe fast); raises CheckpointError if it is damaged."""
    return Surrogate.from_state_dict(weight_files.load(folder, SURROGATE))


def lgen_path(run: RunDirectory, given: Location | None) -> Location:
    """Return the landmark generator that a section names, or the finished one of this run."""
    if given is None and not run.finished("lgen"):
        raise RunDirectoryError(
            f"{run.root} has no finished landmark generator: run the stage lgen first, "
            "or name one with `lgen: FOLDER`"
        )
    return given or run.lgen / "final"


def load_lgen(path: Location, latent_dim: int, generator: str) -> LandmarkGenerator:
    """Load the landmark generator of the generator whose digest is given.

    Raises CheckpointError if it learnt the latents of another one.
    """
    if not path.is_dir():
        raise CheckpointError(f"no landmark generator at {path}: give the folder that holds one")
    network = _load_lgen(path, LGEN)
    takes = network.hidden[0].in_features
    if takes != latent_dim:
        raise CheckpointError(
            f"{path} takes z of {takes} dimensions, the generator of {latent_dim}"
        )
    owner = lgen_owner(path)
    if owner not in (None, generator):
        raise CheckpointError(
            f"{path} gives landmarks of the faces of another generator:\n"
            f"  generator: {owner} it was trained for, {generator} is used here\n"
            "Use the two that belong together (`generator` and `lgen` of the section synthesize), "
            "or run the stages invert and lgen with this generator."
        )
    return network


@dataclasses.dataclass(frozen=True)
class LabelMaker:
    """What gives the landmarks of generated faces, and says how far off they may be."""

    lgen: LandmarkGenerator
    others: list[LandmarkGenerator]  # whose spread is a sign of error; empty where there are none
    reliability: dict[str, Reliability]  # by the kind of label; empty where it was not measured


def load_label_maker(path: Location, latent_dim: int, generator: str) -> LabelMaker:
    """Load a landmark generator as `load_lgen` does, and what was kept beside it."""
    lgen = load_lgen(path, latent_dim, generator)
    meta = weight_files.read_meta(path)
    variants = meta.get("members", [])
    return LabelMaker(
        lgen,
        [_load_lgen(path, f"member{i}", v) for i, v in enumerate(variants, 1)],
        {
            name: Reliability(**formats.known_fields(Reliability, found))
            for name, found in meta.get("reliability", {}).items()
        },
    )


def _load_lgen(
    path: Location, name: str, variant: Mapping[str, Any] | None = None
) -> LandmarkGenerator:
    state = weight_files.load(path, name)
    try:
        variant = variant or weight_files.read_meta(path)["variant"]
        shape = {key: variant[key] for key in ("depth", "width", "activation")}
        network = LandmarkGenerator(latent_dim=state["hidden.0.weight"].shape[1], **shape)
        network.load_state_dict(state)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no landmark generator: {error!r}") from None
    return network.eval()


def warn_if_unowned(path: Location, generator: str) -> None:
    """Log a warning where nobody knows which generator a landmark generator belongs to."""
    if lgen_owner(path) is None:
        log.warning(
            "%s does not say whose latents it learnt (version 0.1.0 made it): its landmarks are "
            "true only if those were of the generator %s",
            path,
            generator,
        )


def lgen_owner(path: Location) -> str | None:
    """Return the digest of the generator whose latents a landmark generator learnt.

    None where nobody knows: version 0.1.0 did not write it down. Its run did, if that is still
    around the landmark generator.
    """
    found = weight_files.read_meta(path).get("generator")
    run = RunDirectory(path.parent.parent)
    if found is not None or path.parent != run.lgen:
        return found
    lgen, invert = run.record("lgen"), run.record("invert")
    if lgen is None or invert is None or lgen.inputs.get("latents") != run.identity("invert"):
        return None
    return invert.inputs.get("generator")


def lgen_evaluation(path: Location) -> Evaluation | None:
    """Return the errors that were measured when a landmark generator was made, if they are kept."""
    found = weight_files.read_meta(path).get("evaluation")
    return parse_evaluation(found) if found else None


def parse_evaluation(found: Mapping[str, Any]) -> Evaluation:
    """Return L-Gen's errors from the JSON that keeps them."""
    known = formats.known_fields(Evaluation, found)
    if found.get("fresh"):
        fresh = formats.known_fields(Audit, found["fresh"])
        if fresh.get("judged"):
            fresh["judged"] = Judged(**formats.known_fields(Judged, fresh["judged"]))
        known["fresh"] = Audit(**fresh)
    elif found.get("generated"):  # as version 0.1.0 kept it
        known["fresh"] = Audit(
            count=found["generated"],
            trusted=found["generated_trusted"],
            nme=found["nme_generated"],
            nme_mean_shape=found["nme_generated_mean_shape"],
        )
    return Evaluation(**known)
