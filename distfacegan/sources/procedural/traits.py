"""The traits of one procedural face: every random choice, drawn from (seed, row) alone.

Lengths are in head units: 1 is half the width of an average head (about 70 mm). Angles are in
radians. Colours are sRGB in [0, 1]. The mean proportions are those of human landmarks on photos.
"""

import colorsys
import dataclasses

import numpy as np

Colour = tuple[float, float, float]

SKIN_TONES = (  # from light to deep
    (0.96, 0.82, 0.74),
    (0.93, 0.76, 0.64),
    (0.87, 0.67, 0.53),
    (0.76, 0.55, 0.41),
    (0.60, 0.41, 0.30),
    (0.47, 0.32, 0.23),
    (0.38, 0.25, 0.19),
)
HAIR_COLOURS = (
    (0.09, 0.07, 0.07),
    (0.20, 0.13, 0.09),
    (0.34, 0.21, 0.13),
    (0.55, 0.37, 0.20),
    (0.82, 0.66, 0.40),
    (0.62, 0.27, 0.13),
    (0.70, 0.69, 0.68),
)
HAIR_WEIGHTS = (0.2, 0.2, 0.18, 0.13, 0.14, 0.09, 0.06)
IRIS_COLOURS = ((0.26, 0.15, 0.09), (0.40, 0.26, 0.13), (0.36, 0.42, 0.26), (0.30, 0.46, 0.60))
HAIR_STYLES = ("bald", "short", "fringe", "parted", "long", "bob", "afro", "tied")
HAIR_STYLE_WEIGHTS = (0.08, 0.30, 0.06, 0.26, 0.12, 0.06, 0.06, 0.06)


@dataclasses.dataclass(frozen=True)
class Pose:
    """How the head is turned and where it stands in the picture."""

    yaw: float  # positive: towards the image's right
    pitch: float  # positive: chin down
    roll: float  # positive: clockwise in the image
    scale: float  # 1: a head is half as wide as the picture
    shift: tuple[float, float]  # in head units


@dataclasses.dataclass(frozen=True)
class Shape:
    """The bones and the flesh, which do not change with the expression."""

    width: float
    chin: float  # distance of the chin below the eyes
    jaw: float  # exponent of the jaw's outline: below 1 square, above 1 pointed
    cheeks: float
    eye_distance: float  # from the middle of the face to an eye
    eye_size: float
    eye_slant: float
    brow_height: float
    brow_arch: float
    brow_thickness: float
    nose_length: float
    nose_width: float
    nose_height: float
    mouth_width: float
    mouth_drop: float  # distance of the mouth line below the nose
    upper_lip: float
    lower_lip: float
    chin_height: float


@dataclasses.dataclass(frozen=True)
class Expression:
    """The moving parts. Values are in [-1, 1] or [0, 1] (except the gaze), and 0 at rest."""

    open: float
    smile: float
    brow: float
    brow_tilt: float
    lids: float  # 0 closed, 1 wide open
    gaze: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Look:
    """The colours and the hair."""

    skin: Colour
    lips: Colour
    hair: Colour
    iris: Colour
    cloth: Colour
    background: tuple[Colour, Colour]
    hair_style: str
    hair_volume: float
    hairline: float
    parting: float
    curl: float  # of long hair
    beard: float  # 0 none, 1 full
    blush: float
    texture_seed: int


@dataclasses.dataclass(frozen=True)
class Light:
    """Light from one side, from all sides and from behind; x right, y up, z to the viewer."""

    direction: tuple[float, float, float]
    key: Colour
    ambient: Colour
    rim: float


@dataclasses.dataclass(frozen=True)
class Traits:
    """Everything that the renderer needs to know about one face."""

    pose: Pose
    shape: Shape
    expression: Expression
    look: Look
    light: Light


def sample_traits(seed: int, row: int) -> Traits:
    """Return the traits of one face: a pure function of (seed, row)."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row])))
    pose, shape, expression = _sample_pose(rng), _sample_shape(rng), _sample_expression(rng)
    look = _sample_look(rng)
    return Traits(pose, shape, expression, look, _sample_light(rng, look.skin))


def _bell(rng: np.random.Generator, mean: float, spread: float) -> float:
    """Return a normal random value, clipped at two standard deviations."""
    return mean + spread * min(max(float(rng.standard_normal()), -2.0), 2.0)


def _span(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    r, g, b_ = (x + (y - x) * share for x, y in zip(a, b, strict=True))
    return (r, g, b_)


def _tint(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> Colour:
    """Return a random colour of any hue."""
    return colorsys.hsv_to_rgb(rng.random(), _span(rng, *saturation), _span(rng, *value))


def _sample_pose(rng: np.random.Generator) -> Pose:
    return Pose(
        yaw=float(np.radians(_span(rng, -30, 30))),
        pitch=float(np.radians(_span(rng, -12, 12))),
        roll=float(np.radians(_bell(rng, 0, 7.0))),
        scale=_span(rng, 0.86, 1.0),
        shift=(_span(rng, -0.12, 0.12), _span(rng, -0.1, 0.1)),
    )


def _sample_shape(rng: np.random.Generator) -> Shape:
    return Shape(
        width=_bell(rng, 1.04, 0.027),
        chin=_bell(rng, 1.42, 0.033),
        jaw=_bell(rng, 0.76, 0.048),
        cheeks=_bell(rng, 0.06, 0.015),
        eye_distance=_bell(rng, 0.46, 0.011),
        eye_size=_bell(rng, 0.195, 0.0072),
        eye_slant=_bell(rng, 0.015, 0.012),
        brow_height=_bell(rng, 0.25, 0.015),
        brow_arch=_bell(rng, 0.06, 0.015),
        brow_thickness=_bell(rng, 0.055, 0.0084),
        nose_length=_bell(rng, 0.52, 0.021),
        nose_width=_bell(rng, 0.195, 0.015),
        nose_height=_bell(rng, 0.36, 0.027),
        mouth_width=_bell(rng, 0.37, 0.018),
        mouth_drop=_bell(rng, 0.25, 0.013),
        upper_lip=_bell(rng, 0.085, 0.011),
        lower_lip=_bell(rng, 0.125, 0.012),
        chin_height=_bell(rng, 0.08, 0.018),
    )


def _sample_expression(rng: np.random.Generator) -> Expression:
    opened = _span(rng, 0.2, 1.0) if rng.random() < 0.6 else 0.0
    return Expression(
        open=opened,
        smile=_span(rng, -0.3, 0.8),
        brow=_span(rng, -0.5, 0.8),
        brow_tilt=_bell(rng, 0, 0.3),
        lids=_span(rng, 0.62, 1.0),
        gaze=(_bell(rng, 0, 0.35), _bell(rng, 0, 0.2)),
    )


def _sample_look(rng: np.random.Generator) -> Look:
    tone = _span(rng, 0, len(SKIN_TONES) - 1.001)
    skin = _mix(SKIN_TONES[int(tone)], SKIN_TONES[int(tone) + 1], tone % 1)
    style = HAIR_STYLES[int(rng.choice(len(HAIR_STYLES), p=HAIR_STYLE_WEIGHTS))]
    hair = HAIR_COLOURS[int(rng.choice(len(HAIR_COLOURS), p=HAIR_WEIGHTS))]
    hair = _mix(hair, HAIR_COLOURS[0], _span(rng, 0, 0.15) + 0.6 * (tone > 4))
    cloth = _tint(rng, (0.1, 0.6), (0.15, 0.85))
    top, bottom = (_tint(rng, (0.03, 0.24), (0.42, 0.8)) for _ in range(2))
    bearded = style in ("bald", "short", "parted", "afro") and rng.random() < 0.35
    return Look(
        skin=skin,
        lips=_mix(
            (skin[0] * 0.88, skin[1] * 0.62, skin[2] * 0.62),
            (0.72, 0.16, 0.22),
            0.35 * rng.random(),
        ),
        hair=hair,
        iris=IRIS_COLOURS[0] if tone > 3.5 else IRIS_COLOURS[int(rng.integers(4))],
        cloth=cloth,
        background=(top, _mix(top, bottom, 0.7)),
        hair_style=style,
        hair_volume=_span(rng, 0.3, 0.45) if style == "afro" else _span(rng, 0.08, 0.17),
        hairline=_span(rng, 0.86, 1.05),
        parting=_span(rng, -0.5, 0.5),
        curl=_span(rng, 0, 0.07) if rng.random() < 0.6 else 0.0,
        beard=_span(rng, 0.2, 0.85) if bearded else 0.0,
        blush=_span(rng, 0.0, 0.25),
        texture_seed=int(rng.integers(2**31)),
    )


def _sample_light(rng: np.random.Generator, skin: Colour) -> Light:
    side, height = _span(rng, -0.6, 0.6), _span(rng, 0.15, 0.6)
    direction = np.array([np.sin(side), np.sin(height), np.cos(side)])
    direction /= np.linalg.norm(direction)
    warmth, power, fill = _span(rng, -0.06, 0.1), _span(rng, 0.66, 0.78), _span(rng, 0.23, 0.33)
    exposure = 1.6 - 0.75 * sum(skin) / 3  # photographers light the face
    power, fill = power * exposure, fill * exposure
    return Light(
        direction=(float(direction[0]), float(direction[1]), float(direction[2])),
        key=(power * (1 + warmth), power, power * (1 - warmth)),
        ambient=(fill * (1 - 0.5 * warmth), fill, fill * (1 + 0.5 * warmth)),
        rim=_span(rng, 0.1, 0.4),
    )
