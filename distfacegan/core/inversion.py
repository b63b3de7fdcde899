"""The inverse of a generator: for each face the latent that makes it (section III, equation 3).

Legend: B batch, R resolution, Z latent dimension; images are in [-1, 1].
"""

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from distfacegan.core.latent_model import LatentModel
from distfacegan.core.objective import error_at
from distfacegan.core.recipes import RECIPES, latent_dtype
from distfacegan.core.search import Search
from distfacegan.core.surrogate import Surrogate
from distfacegan.core.thumbnail import thumbnails
from distfacegan.errors import CheckpointError

START_NOISE = 0.5  # how far other starts lie from a recipe's first guess, relative to the prior
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

    Every face is inverted as if it were alone. Its start is a function of (seed, row) or of the
    face. A face that is not finite does not disturb the others.
    """

    def __init__(
        self, model: LatentModel, search: Search, surrogate: Surrogate | None = None
    ) -> None:
        """Prepare all that the faces share.

        Raises ValueError for an unknown recipe, or where it needs a surrogate and has none, and
        CheckpointError where the surrogate is another generator's.
        """
        if search.recipe not in RECIPES:
            known = ", ".join(RECIPES)
            raise ValueError(f"recipe must be one of {known}, found {search.recipe!r}")
        recipe = RECIPES[search.recipe]
        self.search, self.steps = search, search.steps or recipe.steps
        rounds = search.precision == "bf16"
        self.model = model.with_dtype(torch.bfloat16) if rounds else model
        self._exact = model if rounds else None
        self._dtype = latent_dtype(model)
        if recipe.needs_surrogate:
            surrogate = _fitting(surrogate, model, search.recipe).to(model.device, self._dtype)
        self._recipe = recipe(model, search, surrogate)

    def __call__(
        self,
        faces: Tensor,
        rows: Sequence[int] | np.ndarray,
        *,
        starts: Sequence[int] | np.ndarray | int = 0,
        steps: int | None = None,
    ) -> Inversion:
        """Invert faces [B, 3, R, R] of these rows.

        `starts` numbers the starts of faces: 0 is the recipe's own; `steps` is for this call. The
        only device syncs are at the end and, with a target loss, every CHECK_EVERY steps.
        Raises CheckpointError where faces and generator differ in resolution.
        """
        target = self.search.target_loss
        for step, found in enumerate(self.iterate(faces, rows, starts=starts, steps=steps), 1):
            if target is not None and step % CHECK_EVERY == 0 and (found.loss <= target).all():
                break
        loss = found.loss
        if self._exact is not None:
            exact = error_at(self._exact, found.z, self._on_device(faces))
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

        The recipe's own start is one of them if `steps` now leads further than before.
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
        _check_faces(self.model, faces, rows)
        steps = self.steps if steps is None else steps
        faces, target = self._on_device(faces), self.search.target_loss
        start = self._start(faces, np.asarray(rows), np.broadcast_to(starts, len(faces)))
        best = Inversion(
            start.nan_to_num(),
            loss=start.new_full((len(start),), torch.inf),
            steps=torch.zeros(len(start), dtype=torch.int32, device=start.device),
        )
        search = self._recipe.iterate(self.model, faces, start)
        for step, (z, loss) in zip(range(1, steps + 1), search, strict=False):
            better = loss < best.loss  # never where the loss is nan or inf
            if target is not None:
                better &= best.loss > target  # a face is held where it first reached its target
            best = Inversion(z, loss, torch.full_like(best.steps, step)).where(better, best)
            yield best

    def _start(self, faces: Tensor, rows: np.ndarray, starts: np.ndarray) -> Tensor:
        """Return where the search begins [B, Z]: at the recipe's guess or at a random latent.

        Starts other than 0 are random in any case: about the guess, where there is one.
        """
        guess, dim = self._recipe.guess(faces), self.model.latent_dim
        drawn = np.zeros((len(rows), dim), np.float32)
        for start in set(starts.tolist()):
            if guess is None or start:
                of_start, stream = starts == start, f"inversion/{start}" if start else "inversion"
                drawn[of_start] = self.model.prior.draw(
                    self.search.seed, rows[of_start], dim, stream=stream
                )
        z = torch.from_numpy(drawn).to(faces.device, self._dtype)
        return self._recipe.bound.clamp(z if guess is None else guess + START_NOISE * z)

    def _on_device(self, faces: Tensor) -> Tensor:
        return faces.to(self.model.device, self._dtype, memory_format=torch.channels_last)


def _fitting(surrogate: Surrogate | None, model: LatentModel, recipe: str) -> Surrogate:
    """Return a copy of the surrogate for inference, after a check that it is of this generator."""
    if surrogate is None:
        raise ValueError(f"recipe {recipe} needs the surrogate of the generator, found none")
    size = thumbnails(torch.empty(1, 3, model.resolution, model.resolution)).shape[1]
    expected, found = (size, model.latent_dim), tuple(surrogate.linear.weight.shape)
    if found != expected:
        raise CheckpointError(
            f"the surrogate maps {found[1]} latents to {found[0]} numbers of a thumbnail, that of "
            f"this generator {expected[1]} to {expected[0]}: it is another generator's"
        )
    return copy.deepcopy(surrogate).requires_grad_(False)


def _check_faces(model: LatentModel, faces: Tensor, rows: Sequence[int] | np.ndarray) -> None:
    side = model.resolution
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
