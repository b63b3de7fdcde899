"""How much the faces of a set differ from one another."""

import numpy as np


def diversity(faces: np.ndarray, *, num_pairs: int = 2000, seed: int = 0) -> float:
    """Return the mean absolute difference between random pairs of different faces.

    `faces` is [N, ...] of any number type, N at least 2; the result is in its units. The pairs are
    the same for the same N and seed.

    >>> diversity(np.array([[0.0], [1.0]]))
    1.0
    """
    if len(faces) < 2:
        raise ValueError(f"diversity needs at least 2 faces, found {len(faces)}")
    random = np.random.default_rng(seed)
    first = random.integers(len(faces), size=num_pairs)
    second = (first + random.integers(1, len(faces), size=num_pairs)) % len(faces)
    differences = [
        np.abs(faces[i].astype(np.float32) - faces[j].astype(np.float32)).mean()
        for i, j in zip(first, second, strict=True)
    ]
    return float(np.mean(differences))


def diversity_ratio(generated: np.ndarray, real: np.ndarray) -> float:
    """Return the diversity of generated faces over that of real ones, [N, ...] in the same units.

    It is 1 if they are as varied, and 0 if all are one face.
    """
    return diversity(generated) / diversity(real)
