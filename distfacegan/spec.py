"""Job specs: what a job does, checked before anything runs.

Every model refuses unknown keys, and every field says what it is: the descriptions are the manual
and the JSON schema that editors complete from (jobs/job.schema.json).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from distfacegan.core.detectors import DETECTORS, DetectorSettings
from distfacegan.core.detectors.fan import FaceAlignment
from distfacegan.core.losses import LOSSES
from distfacegan.core.recipes import RECIPES
from distfacegan.settings import Choosing, NameOf, OneOf, Section, Share, StorePath, Workers
from distfacegan.sources import SOURCES, SourceSection
from distfacegan.store.exports import FORMATS, ExportFormat
from distfacegan.store.exports.webdataset import WebDataset
from distfacegan.store.run_directory import STAGES


class Ingest(Section):
    """Photos to cropped faces: OpenCV's frontal face cascade, largest face, crop, resize."""

    source: Annotated[SourceSection, OneOf(SOURCES)]
    """Where the photos come from."""
    resolution: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 128
    """Side of a face in pixels (R)."""
    shard_rows: Annotated[int, Field(ge=1, le=65536)] = 512
    """Rows of a shard: the unit of work, retry, storage and commit."""
    workers: Workers = None


class Landmarks(Choosing):
    """Faces to 49 landmarks each."""

    chooses: ClassVar[str] = "detector"

    detector: Annotated[DetectorSettings, OneOf(DETECTORS)] = FaceAlignment()
    """Where the landmarks come from."""
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    """Faces whose mean score is lower are not trusted (status 4); default: the detector's own."""
    workers: Workers = None

    @property
    def least_score(self) -> float:
        """The mean score below which a face's landmarks are not trusted."""
        return self.detector.min_score if self.min_score is None else self.min_score


class Watch(Section):
    """What is looked at on a fixed set of z while BEGAN trains, and what a collapse leads to."""

    every: PositiveInt = 1000
    """Steps from one look, and one picture of samples, to the next; checkpoints look as well."""
    min_diversity: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """A collapse: generated faces differ less than this share of what real ones do, once they had
    more or `grace` steps are over; or k at 0 or 1 for `patience` looks; or losses that are NaN."""
    grace: PositiveInt | None = None
    """Steps in which faces may be alike; default: a fifth of the steps."""
    patience: PositiveInt = 10
    """Looks in a row that find k at 0, or at 1, until that is a collapse."""
    on_collapse: Literal["stop", "rollback", "warn"] = "stop"
    """stop: the stage fails. rollback: on from the most varied checkpoint kept, at half the
    learning rate. warn: a line in the log."""
    max_rollbacks: PositiveInt = 3
    """After so many the next collapse stops the stage."""


class Began(Section):
    """BEGAN's training (section II); `config` names a file of these keys to start from."""

    has_config: ClassVar[bool] = True

    resolution: Annotated[int, Field(ge=8, le=1024)] = 128
    """Side of a generated face in pixels; the faces' own, or that over a whole number."""
    latent_dim: PositiveInt = 64
    """Dimensions of z."""
    width: PositiveInt = 64
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
    """Train on as few as these where `workers` are not to be had; default: wait for all."""
    whole_gb: PositiveFloat = 16.0
    """Faces up to this size are shuffled as a whole and kept in the memory of every worker, its
    GPU's if they leave half of it free; more are read shard by shard, from 16 shards at a time."""
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


class SurrogateSettings(Section):
    """The small network that imitates the generator's images, shrunk to 16 x 16 pixels."""

    pictures: Annotated[int, Field(ge=1000)] = 24_000
    """Images of the generator to learn from."""
    steps: PositiveInt = 5000
    """Steps of its training, of 256 images each."""
    width: PositiveInt = 512
    """Nodes of its two hidden layers."""


def _of_percent(value: Any) -> Any:
    """Read `2%` as 0.02."""
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100
    return value


class Retry(Section):
    """Another search for the rows whose error is largest; the better latent is kept."""

    worst: Annotated[
        float,
        BeforeValidator(_of_percent),
        Field(gt=0, le=1),
        WithJsonSchema(
            {
                "type": ["number", "string"],
                "exclusiveMinimum": 0,
                "maximum": 1,
                "pattern": "^[0-9.]+%$",
            }
        ),
    ] = 0.02
    """The share of every shard's rows that is searched again, like 0.02 or 2%. Rows that have
    reached `target_loss` are not."""
    starts: PositiveInt = 3
    """Starts to search from. One is the recipe's own, if `steps` is more than in the first search;
    the others are random."""
    steps: PositiveInt | None = None
    """Generator steps from each start; default: twice those of the first search."""


def _steps_described() -> str:
    numbers = ", ".join(f"{recipe.steps} for {name}" for name, recipe in RECIPES.items())
    return f"Generator steps for each face; default: {numbers}."


class Invert(Section):
    """For every face the z with the least |x - G(z)| (section III, equation 3)."""

    recipe: Annotated[str, NameOf(RECIPES), Field(description=NameOf(RECIPES).described())] = "fast"
    steps: Annotated[PositiveInt | None, Field(description=_steps_described())] = None
    target_loss: PositiveFloat | None = None
    """A face is done as soon as its error, computed in `precision`, is no larger than this. A batch
    ends when all of its faces are done."""
    retry: Retry | None = None
    """Another search for the worst rows; default: none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format in which G computes; the errors that are stored are computed in fp32. auto:
    bf16 if the stage began on a GPU, else fp32."""
    radius: PositiveFloat | None = 1.0
    """Latents stay within [-radius, radius]: 1 is the prior, null no bound. Some recipes have no
    bound."""
    learning_rate: PositiveFloat = 0.1
    """Adam's, for the recipes that use it."""
    batch: PositiveInt = 256
    """Faces inverted together."""
    surrogate: SurrogateSettings = SurrogateSettings()
    """The small network of the recipes that need one. It is trained before the first face."""
    generator: StorePath | None = None
    """Weights to invert: a .safetensors file or a folder with one; default: this run's BEGAN."""
    photos: StorePath | None = None
    """Run directory whose faces are inverted; default: this one."""
    workers: Workers = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, section: Any) -> Any:
        """Fill in what depends on the recipe. The fields refuse whatever is of a wrong type."""
        if not isinstance(section, dict):
            return section
        filled, name = dict(section), section.get("recipe", cls.model_fields["recipe"].default)
        recipe = RECIPES.get(name) if isinstance(name, str) else None
        if recipe is None:
            return section
        if filled.get("steps") is None:
            filled["steps"] = recipe.steps
        if not recipe.bounded:
            if filled.get("radius") is not None:
                bounded = ", ".join(other for other, each in RECIPES.items() if each.bounded)
                raise ValueError(
                    f"recipe {name} has no bound: leave radius out, or take one of {bounded}"
                )
            filled["radius"] = None
        return filled

    @field_validator("retry")
    @classmethod
    def _fill_in_retry(cls, retry: Retry | None, info: ValidationInfo) -> Retry | None:
        if retry is None or retry.steps is not None or info.data.get("steps") is None:
            return retry
        return retry.model_copy(update={"steps": 2 * info.data["steps"]})


LGenDecay = Literal["constant", "cosine"]


class Search(Section):
    """The variants of L-Gen that Ray Tune chooses from; each a list of values."""

    depth: list[PositiveInt] = Field(default=[2, 3, 4], min_length=1)
    """Hidden layers."""
    width: list[PositiveInt] = Field(default=[64, 128, 256, 512], min_length=1)
    """Nodes of a hidden layer."""
    activation: list[Literal["relu", "elu", "silu", "tanh"]] = Field(
        default=["relu", "elu", "silu"], min_length=1
    )
    """Nonlinearity of the hidden layers."""
    learning_rate: list[PositiveFloat] = Field(default=[1e-4, 3e-4, 1e-3, 3e-3], min_length=1)
    """Adam's."""
    learning_rate_decay: list[LGenDecay] = Field(default=["constant", "cosine"], min_length=1)
    """To zero, over the whole training."""
    weight_decay: list[NonNegativeFloat] = Field(default=[0.0, 0.3, 1.0], min_length=1)
    """Decoupled from the gradient (AdamW)."""
    batch: list[PositiveInt] = Field(default=[16, 64, 256], min_length=1)
    """Rows of a training step."""


class LGen(Section):
    """The landmark generator z -> landmarks (section V); `config` names a file of these keys.

    The network of Table I is always the first trial.
    """

    has_config: ClassVar[bool] = True

    depth: PositiveInt = 3
    """Hidden layers (Table I)."""
    width: PositiveInt = 128
    """Nodes of a hidden layer (Table I)."""
    activation: Literal["relu", "elu", "silu", "tanh"] = "relu"
    """Nonlinearity of the hidden layers (Table I)."""
    learning_rate: PositiveFloat = 3e-4
    """Adam's."""
    learning_rate_decay: LGenDecay = "constant"
    """To zero, over the whole training; the paper has none."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled from the gradient (AdamW); the paper has none."""
    batch: PositiveInt = 16
    """B_N of equation 4."""
    epochs: PositiveInt = 1000
    """Passes over the rows."""
    trials: PositiveInt = 16
    """Variants to try, Table I's included."""
    validation_share: Share = 0.1
    """Share of the rows that chooses among the trials."""
    test_share: Share = 0.1
    """Share of the rows that no choice has seen: the reported error is theirs."""
    early_stopping: bool = True
    """Stop poor trials early (ASHA). Which trials stop depends on timing; false: none does."""
    search: Search = Search()
    """The search space."""


class Synthesize(Choosing):
    """New faces with landmarks: z uniform, G(z) the face, L-Gen(z) its landmarks (section VI)."""

    chooses: ClassVar[str] = "format"

    count: PositiveInt
    """Faces to generate."""
    format: Annotated[ExportFormat, OneOf(FORMATS)] = WebDataset()
    """How they are written."""
    shard_rows: Annotated[int, Field(ge=1, le=65536)] = 1000
    """Faces of one shard, which a worker holds in memory."""
    generator: StorePath | None = None
    """Weights of G; default: this run's BEGAN."""
    lgen: StorePath | None = None
    """Folder of a landmark generator; default: this run's."""
    workers: Workers = None


class Report(Section):
    """The page and its numbers."""


class JobSpec(Section):
    """One job. A section that is absent is not run: what it would have made is read from `run`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of the job in logs and in the report."""
    run: StorePath
    """The run directory: a path, or a URL (s3://bucket/folder, gs://, az://). Like every path of a
    spec a path is relative to the spec's own folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every random number of the job is a function of this and of a row or a step."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What GPU stages compute on; cuda waits for GPUs, auto takes them if they are there now."""
    ingest: Ingest | None = None
    landmarks: Landmarks | None = None
    began: Began | None = None
    invert: Invert | None = None
    lgen: LGen | None = None
    synthesize: Synthesize | None = None
    report: Report | None = None

    @model_validator(mode="after")
    def _sections_fit(self) -> JobSpec:
        if self.ingest and self.began and self.ingest.resolution % self.began.resolution:
            raise ValueError(
                f"began.resolution {self.began.resolution} must be ingest.resolution "
                f"{self.ingest.resolution}, or that divided by a whole number"
            )
        self._use_one_generator()
        if not self.stages:
            raise ValueError(f"nothing to do: none of the sections {', '.join(STAGES)} is there")
        return self

    def _use_one_generator(self) -> None:
        """Refuse the landmarks of one generator beside the faces of another."""
        if self.invert is None:
            return
        own = "this run's own"
        inverted = self.invert.generator
        used = self.synthesize.generator if self.synthesize else None
        alone = self.synthesize is None and (self.began is None or inverted is None)
        if alone or used == inverted or (self.synthesize and self.synthesize.lgen):
            return
        raise ValueError(
            f"invert.generator is {inverted or own}, synthesize.generator {used or own}: L-Gen "
            "learns the latents of the first, so its landmarks are wrong on faces of the second. "
            "Give both sections the same `generator`"
            + (", or leave it out of both: began trains one" if self.began else "")
        )

    @property
    def stages(self) -> list[str]:
        """The sections present, in the order in which they run."""
        return [name for name in STAGES if getattr(self, name) is not None]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a spec as it is written."""
    schema = JobSpec.model_json_schema()
    for name in STAGES:  # `report:` with nothing after it means the defaults
        schema["properties"][name].setdefault("description", f"Run the stage {name}.")
    return schema
