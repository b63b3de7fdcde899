"""The section `began`: how the generator is trained."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distfacegan.core.losses import LOSSES
from distfacegan.settings import NameOf, Section


class Watch(Section):
    """What is looked at on a fixed set of z while BEGAN trains, and what a collapse leads to."""

    every: PositiveInt = 1000
    """Steps between looks. A look writes a grid of samples and measures them. Every checkpoint
    has a look as well."""
    min_diversity: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Least diversity of generated faces, relative to real ones. Less is a collapse, once the faces
    were more diverse or `grace` steps are over. So are k at 0 or 1 for `patience` looks in a row,
    and losses that are NaN."""
    grace: PositiveInt | None = None
    """First steps, in which faces may be alike; default: a fifth of the steps."""
    patience: PositiveInt = 10
    """Looks in a row with k at 0, or at 1, that are a collapse."""
    on_collapse: Literal["stop", "rollback", "warn"] = "stop"
    """stop: the stage fails. rollback: training goes back to the most diverse checkpoint and halves
    the learning rate. warn: a line in the log. If m_global is not a number, the stage fails with
    `warn` too."""
    max_rollbacks: PositiveInt = 3
    """After so many rollbacks the next collapse stops the stage."""


class Began(Section):
    """BEGAN's training (section II); `config` names a file of these keys to start from."""

    has_config: ClassVar[bool] = True

    resolution: Annotated[int, Field(ge=8, le=1024)] = 128
    """Side of a generated face in pixels; the faces' own, or that over a whole number."""
    latent_dim: Annotated[int, Field(ge=1, le=65536)] = 64
    """Dimensions of z."""
    width: Annotated[int, Field(ge=1, le=1024)] = 64
    """Channels of the decoder, and of the encoder's first level."""
    levels: Annotated[int, Field(ge=1, le=8)] = 4
    """Levels of resolution in the encoder and the decoder."""
    skip_connections: bool = False
    """BEGAN's: every upsampling of the decoder sees the stem's picture too. The paper has none."""
    loss: Annotated[str, NameOf(LOSSES), Field(description=NameOf(LOSSES).described())] = "l2"
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Diversity ratio of equation 2."""
    lambda_k: PositiveFloat = 1e-3
    """Learning rate of k_t."""
    latent_constraint: NonNegativeFloat = 0.0
    """Alpha of BEGAN-CS (arXiv:1803.07417): L_D gains alpha |Enc(G(z)) - z|. The paper has none."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of G's weights, which later stages then get."""
    learning_rate: PositiveFloat = 1e-4
    """Adam's, of both networks."""
    learning_rate_decay: Literal["constant", "linear", "cosine"] = "constant"
    """linear, cosine: towards 0 over the second half of the steps."""
    stall: PositiveInt | None = None
    """Steps without a better m_global after which the learning rate is halved, as BEGAN does;
    default: never, as the paper says nothing of it."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Adam's beta_1."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Adam's beta_2."""
    batch: PositiveInt = 16
    """Real faces of one step, over all workers."""
    steps: PositiveInt = 200_000
    """Training steps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast with fp32 masters."""
    compile: bool = False
    """Pass the networks through torch.compile: faster after a minute, needs a C++ compiler."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints; the newest three are kept."""
    metrics_every: PositiveInt = 100
    """Steps between lines of metrics.jsonl, which looks and checkpoints add to."""
    workers: PositiveInt = 1
    """Data-parallel workers; `batch` is split among them."""
    min_workers: PositiveInt | None = None
    """Least number of workers to train with while the cluster has no room for `workers`; default:
    wait for all."""
    whole_gb: PositiveFloat = 16.0
    """If all faces together have at most this size, every worker keeps them all in memory and
    shuffles them as a whole. It keeps them on its GPU if half of that stays free. Larger sets are
    read shard by shard, from 16 shards at a time."""
    watch: Watch = Watch()

    @model_validator(mode="after")
    def _fits(self) -> Began:
        if self.resolution % 2 ** (self.levels - 1):
            raise ValueError(
                f"resolution {self.resolution} cannot be halved {self.levels - 1} times, "
                f"which levels {self.levels} needs"
            )
        if self.workers > self.batch:
            raise ValueError(f"{self.workers} workers cannot share a batch of {self.batch} faces")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers is {self.min_workers}, more than workers, {self.workers}"
            )
        return self
