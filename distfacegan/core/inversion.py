"""The inverse of a generator: for each face the latent that makes it (section III, equation 3).

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from distfacegan.core import quasi_newton
from distfacegan.core.frozen import FrozenGenerator
from distfacegan.core.networks import Generator
from distfacegan.core.picture import EPSILON, Linearisation, gauss_newton, pool
from distfacegan.core.seeding import uniform_latents
from distfacegan.core.surrogate import Surrogate
from distfacegan.errors import CheckpointError

# Generator steps for each face where none are asked for. "paper" is Adam as in section III, which
# gives neither start nor length, and has no bound; "clip" is the same inside a box; "bfgs" is the
# quasi-Newton method, started from what G's linearisation round z = 0 says; "fast" is the same,
# started from what a surrogate says that was trained on G's pictures.
RECIPES = {"paper": 500, "clip": 500, "bfgs": 20, "fast": 12}
OVERSTEP = 1.5  # of the quasi-Newton method in a box: with longer steps it ends in better minima
START_SHARE = 0.5  # of the box, for its first guess: from nearer to 0 it ends in better minima


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The best latent found for each face."""

    z: Tensor  # f32 [B, Z]
    loss: Tensor  # f32 [B], equation 3 at z; inf where it was never finite
    steps: Tensor  # i32 [B], that led to it: Adam's updates from the start, or evaluations of G


class Inverter:
    """Minimises equation 3 over the latents of faces, by one recipe, on the generator's device.

    Every face is inverted as if it were alone: its start is a function of (seed, row) or of the
    face, and what is not finite in one stays there. The generator itself is not touched.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        recipe: str,
        seed: int = 0,
        steps: int | None = None,
        radius: float | None = 1.0,
        learning_rate: float = 0.1,
        dtype: torch.dtype | None = None,
        surrogate: Surrogate | None = None,
    ) -> None:
        """Prepare all that the faces share.

        `radius` keeps latents in the box [-radius, radius]^Z ("paper" has none); `learning_rate`
        is Adam's; G computes in `dtype`, by default that of its weights; "fast" needs the
        `surrogate` of this generator.
        """
        if recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, found {recipe!r}")
        self.recipe, self.seed, self.learning_rate = recipe, seed, learning_rate
        self.steps = RECIPES[recipe] if steps is None else steps
        self.radius = None if recipe == "paper" else radius
        self.generator = FrozenGenerator(generator, dtype)
        weight = generator.stem.weight  # latents have at least single precision
        self._latent_dtype = torch.promote_types(weight.dtype, torch.float32)
        self._model: Linearisation | Surrogate | None = None
        if recipe == "bfgs":
            self._model = Linearisation(FrozenGenerator(generator), self._latent_dtype)
        if recipe == "fast":
            if surrogate is None:
                raise ValueError("recipe fast needs the surrogate of the generator, found none")
            self._model = copy.deepcopy(surrogate).requires_grad_(False)
            self._model.to(self.generator.device, self._latent_dtype)

    def __call__(self, faces: Tensor, rows: Sequence[int] | np.ndarray) -> Inversion:
        """Invert faces [B, 3, R, R] of these rows. No device sync before the end.

        Raises CheckpointError where faces and generator differ in resolution.
        """
        for found in self.iterate(faces, rows):  # noqa: B007
            pass
        return Inversion(found.z.float().cpu(), found.loss.float().cpu(), found.steps.cpu())

    def iterate(self, faces: Tensor, rows: Sequence[int] | np.ndarray) -> Iterator[Inversion]:
        """Yield the best latents so far, on the device, after every evaluation of G."""
        _check_faces(self.generator, faces, rows)
        g = self.generator
        faces = faces.to(g.device, self._latent_dtype, memory_format=torch.channels_last)
        return self._adam(faces, rows) if self._model is None else self._bfgs(faces, self._model)

    def _adam(self, faces: Tensor, rows: Sequence[int] | np.ndarray) -> Iterator[Inversion]:
        """Adam from a uniform start: `steps` updates, so one evaluation more."""
        bound = torch.inf if self.radius is None else self.radius
        start = uniform_latents(self.seed, rows, self.generator.latent_dim, stream="inversion")
        z = torch.from_numpy(start).to(faces.device, self._latent_dtype).clamp_(-bound, bound)
        adam = torch.optim.Adam([z], lr=self.learning_rate, fused=True)
        best = Inversion(
            z.clone(),
            loss=z.new_full((len(z),), torch.inf),
            steps=torch.zeros(len(z), dtype=torch.int32, device=z.device),
        )
        for step in range(self.steps + 1):
            loss, z.grad, _ = self.generator.step(z, faces)
            improved = loss < best.loss  # never where the loss is nan or inf
            best = Inversion(
                torch.where(improved[:, None], z, best.z),
                torch.where(improved, loss, best.loss),
                torch.where(improved, step, best.steps),
            )
            yield best
            adam.step()
            z.clamp_(-bound, bound)

    def _bfgs(self, faces: Tensor, model: Linearisation | Surrogate) -> Iterator[Inversion]:
        """The quasi-Newton method from where the model leads: `steps` evaluations."""
        radius = self.radius
        target = pool(faces)
        z = model.solve(target, None if radius is None else START_SHARE * radius)

        loss, gradient, images = self.generator.step(z, faces)
        picture = pool(images).to(z.dtype)
        hessian = gauss_newton(model.jacobian_at(z, picture), target - picture, EPSILON)
        state = quasi_newton.begin(z, loss, gradient, hessian)
        yield Inversion(state.z, state.loss, state.steps)

        for step in range(2, self.steps + 1):
            state = quasi_newton.advance(
                state,
                lambda z: self.generator.step(z, faces)[:2],
                step=step,
                radius=radius,
                overstep=1.0 if radius is None else OVERSTEP,
            )
            yield Inversion(state.z, state.loss, state.steps)


def _check_faces(
    generator: FrozenGenerator, faces: Tensor, rows: Sequence[int] | np.ndarray
) -> None:
    side = generator.resolution
    if not faces.is_floating_point() or faces.ndim != 4 or faces.shape[1] != 3:
        raise ValueError(
            f"faces must be floats [B, 3, R, R], found {faces.dtype} {list(faces.shape)}"
        )
    if tuple(faces.shape[2:]) != (side, side):
        raise CheckpointError(
            f"faces are {faces.shape[2]}x{faces.shape[3]} pixels, the generator makes "
            f"{side}x{side}: use faces of its resolution or another generator"
        )
    if len(rows) != len(faces):
        raise ValueError(f"{len(faces)} faces need as many rows, found {len(rows)}")
