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
from distfacegan.core.picture import Linearisation, gauss_newton, pool
from distfacegan.core.seeding import uniform_latents
from distfacegan.core.surrogate import Surrogate
from distfacegan.errors import CheckpointError

# Generator steps for each face where none are asked for. "paper" is Adam as in section III, which
# gives neither start nor length, and has no bound; "clip" is the same inside a box; "bfgs" is the
# quasi-Newton method, started from what G's linearisation round z = 0 says; "fast" is the same,
# started from what a surrogate says that was trained on G's pictures.
RECIPES = {"paper": 500, "clip": 500, "bfgs": 20, "fast": 12}
PRECISIONS = ("fp32", "bf16")
# The settings of an Inverter that decide what it finds, beside its surrogate.
SEARCH_SETTINGS = ("seed", "recipe", "steps", "target_loss", "radius", "learning_rate", "precision")
START_NOISE = 0.5  # that other starts add to the first guess, uniform in [-0.5, 0.5]
CHECK_EVERY = 4  # steps after which a batch with a target loss may stop


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The best latent found for each face."""

    z: Tensor  # f32 [B, Z]
    loss: Tensor  # f32 [B], equation 3 at z; inf where it was never finite
    steps: Tensor  # i32 [B], generator steps up to z: evaluations of G and its gradient

    def where(self, chosen: Tensor, other: "Inversion") -> "Inversion":
        """Return these latents where `chosen` [B] is true, and the other's elsewhere."""
        return Inversion(
            torch.where(chosen[:, None], self.z, other.z),
            torch.where(chosen, self.loss, other.loss),
            torch.where(chosen, self.steps, other.steps),
        )


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
        target_loss: float | None = None,
        radius: float | None = 1.0,
        learning_rate: float = 0.1,
        precision: str = "fp32",
        surrogate: Surrogate | None = None,
    ) -> None:
        """Prepare all that the faces share.

        A face is done after `steps` generator steps, or when its loss is at most `target_loss`.
        `radius` keeps latents in the box [-radius, radius]^Z ("paper" has none); `learning_rate`
        is Adam's; with `precision` "bf16" G computes in bfloat16, and the losses returned are of
        full precision all the same; "fast" needs the `surrogate` of this generator.
        """
        if recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, found {recipe!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be fp32 or bf16, found {precision!r}")
        self.recipe, self.seed, self.learning_rate = recipe, seed, learning_rate
        self.steps = RECIPES[recipe] if steps is None else steps
        self.target_loss = target_loss
        self.radius = None if recipe == "paper" else radius
        exact = FrozenGenerator(generator)
        rounds = precision == "bf16"
        self.generator = FrozenGenerator(generator, torch.bfloat16) if rounds else exact
        self._exact = exact if rounds else None
        # Latents have at least single precision.
        self._latent_dtype = torch.promote_types(exact.dtype, torch.float32)
        self._model: Linearisation | Surrogate | None = None
        if recipe == "bfgs":
            self._model = Linearisation(exact, self._latent_dtype)
        if recipe == "fast":
            self._model = _fitting(surrogate, generator)
            self._model.to(self.generator.device, self._latent_dtype)

    def __call__(
        self,
        faces: Tensor,
        rows: Sequence[int] | np.ndarray,
        *,
        starts: Sequence[int] | np.ndarray | int = 0,
        steps: int | None = None,
    ) -> Inversion:
        """Invert faces [B, 3, R, R] of these rows.

        `starts` numbers the starts of faces: 0 is the recipe's own; `steps` is for this call. No
        device sync before the end, but for one every CHECK_EVERY steps with a target loss.
        Raises CheckpointError where faces and generator differ in resolution.
        """
        target = self.target_loss
        for step, found in enumerate(self.iterate(faces, rows, starts=starts, steps=steps), 1):
            if target is not None and step % CHECK_EVERY == 0 and (found.loss <= target).all():
                break
        loss = found.loss
        if self._exact is not None:
            exact = self._exact.loss(found.z, self._on_device(faces))
            loss = torch.where(torch.isfinite(loss), exact, loss)
        return Inversion(found.z.float().cpu(), loss.float().cpu(), found.steps.cpu())

    def again(
        self,
        faces: Tensor,
        rows: Sequence[int] | np.ndarray,
        found: Inversion,
        *,
        starts: int,
        steps: int,
    ) -> Inversion:
        """Invert faces [B, 3, R, R] once more, from `starts` starts, and keep the best of all.

        The recipe's own start is one of them if it now leads further than before.
        """
        first = 0 if steps > self.steps else 1
        numbers = np.repeat(np.arange(first, first + starts), len(faces))
        others = self(
            faces.repeat(starts, 1, 1, 1), np.tile(rows, starts), starts=numbers, steps=steps
        )
        for i in range(starts):
            part = slice(i * len(faces), (i + 1) * len(faces))
            other = Inversion(others.z[part], others.loss[part], others.steps[part])
            found = other.where(other.loss < found.loss, found)
        return found

    def iterate(
        self,
        faces: Tensor,
        rows: Sequence[int] | np.ndarray,
        *,
        starts: Sequence[int] | np.ndarray | int = 0,
        steps: int | None = None,
    ) -> Iterator[Inversion]:
        """Yield the best latents so far, on the device, after every generator step."""
        _check_faces(self.generator, faces, rows)
        faces, steps = self._on_device(faces), self.steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps must be positive, found {steps}")
        z = self._draw(np.asarray(rows), np.broadcast_to(starts, len(faces))).to(faces.device)
        if self._model is None:
            found = self._adam(faces, self._into_box(z), steps)
        else:
            radius = torch.inf if self.radius is None else self.radius
            first = self._model.solve(pool(faces), min(radius, self._model.known_radius))
            found = self._bfgs(faces, self._into_box(first + z), self._model, steps)
        yield from found if self.target_loss is None else _held(found, self.target_loss)

    def _draw(self, rows: np.ndarray, starts: np.ndarray) -> Tensor:
        """Return where Adam starts, or how far from its first guess another method does, [B, Z]."""
        drawn = np.zeros((len(rows), self.generator.latent_dim), np.float32)
        for start in set(starts.tolist()):
            of_start = starts == start
            stream = f"inversion/{start}" if start else "inversion"
            if self._model is None or start:
                drawn[of_start] = uniform_latents(
                    self.seed, rows[of_start], drawn.shape[1], stream=stream
                )
        share = 1.0 if self._model is None else START_NOISE
        return share * torch.from_numpy(drawn).to(self._latent_dtype)

    def _adam(self, faces: Tensor, z: Tensor, steps: int) -> Iterator[Inversion]:
        adam = torch.optim.Adam([z], lr=self.learning_rate, fused=True)
        best = Inversion(
            z.clone(),
            loss=z.new_full((len(z),), torch.inf),
            steps=torch.zeros(len(z), dtype=torch.int32, device=z.device),
        )
        for step in range(1, steps + 1):
            loss, z.grad, _ = self.generator.step(z, faces)
            here = Inversion(z, loss, torch.full_like(best.steps, step))
            best = here.where(loss < best.loss, best)  # never where the loss is nan or inf
            yield best
            adam.step()
            z.copy_(self._into_box(z))

    def _bfgs(
        self, faces: Tensor, z: Tensor, model: Linearisation | Surrogate, steps: int
    ) -> Iterator[Inversion]:
        loss, gradient, images = self.generator.step(z, faces)
        target, picture = pool(faces), pool(images.to(z.dtype))  # of the face, of G at the best z

        def curvature(z: Tensor) -> Tensor:
            return gauss_newton(model.jacobian_at(z, picture), target - picture)

        def evaluate(z: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal images
            loss, gradient, images = self.generator.step(z, faces)
            return loss, gradient

        state = quasi_newton.begin(z, loss, gradient, curvature(z))
        yield Inversion(state.z, state.loss, state.steps)
        for step in range(2, steps + 1):
            if self.recipe == "fast" and step > 2:  # the surrogate knows the curvature here too
                improved = (state.steps == step - 1)[:, None]
                picture = torch.where(improved, pool(images.to(z.dtype)), picture)
                state = quasi_newton.rebase(state, curvature(state.z))
            state = quasi_newton.advance(state, evaluate, step=step, radius=self.radius)
            yield Inversion(state.z, state.loss, state.steps)

    def _into_box(self, z: Tensor) -> Tensor:
        return z if self.radius is None else z.clamp(-self.radius, self.radius)

    def _on_device(self, faces: Tensor) -> Tensor:
        return faces.to(
            self.generator.device, self._latent_dtype, memory_format=torch.channels_last
        )


def _held(found: Iterator[Inversion], target_loss: float) -> Iterator[Inversion]:
    """Yield what is found, but hold each face at the first latent that reaches its target."""
    held = next(found)
    yield held
    for better in found:
        held = held.where(held.loss <= target_loss, better)
        yield held


def _fitting(surrogate: Surrogate | None, generator: Generator) -> Surrogate:
    """Return a copy of the surrogate, which must be one of this generator, for inference."""
    if surrogate is None:
        raise ValueError("recipe fast needs the surrogate of the generator, found none")
    pictures = pool(torch.empty(1, 3, generator.resolution, generator.resolution)).shape[1]
    expected, found = (pictures, generator.latent_dim), tuple(surrogate.linear.weight.shape)
    if found != expected:
        raise CheckpointError(
            f"the surrogate maps {found[1]} latents to {found[0]} numbers of a picture, that of "
            f"this generator {expected[1]} to {expected[0]}: it is another generator's"
        )
    return copy.deepcopy(surrogate).requires_grad_(False)


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
