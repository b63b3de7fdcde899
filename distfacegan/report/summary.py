"""The numbers of a run: summary.json. A number that is not known is null."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from distfacegan.core.diversity import diversity
from distfacegan.core.lgen import Evaluation
from distfacegan.report.contents import NUM_FACES, STAGES, Contents
from distfacegan.report.coverage import coverage
from distfacegan.store import metrics, shards, weight_files
from distfacegan.store.shards import Status


def summarize(contents: Contents) -> dict[str, Any]:
    """Return every number that the page shows."""
    generated, real = _diversity(contents.generated_faces), _diversity(contents.real_faces)
    photos, generator = contents.photos, contents.generator
    return {
        "coverage": coverage(contents),
        "name": contents.spec.get("name", contents.run.root.name),
        "run": str(contents.run.root),
        "seed": contents.seed,
        "written": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "rows": photos.num_rows if photos else None,
        "resolution": photos.row_shape("image")[0] if photos else None,
        "generator": {
            "resolution": generator.resolution if generator else None,
            "latent_dim": generator.latent_dim if generator else None,
            "digest": contents.generator_digest,
        },
        "diversity_ratio": generated / real if generated is not None and real else None,
        "diversity_generated": generated,
        "diversity_real": real,
        "diversity_faces": NUM_FACES,
        "stages": {
            stage: _stage(contents, stage)
            for stage in STAGES
            if contents.run.record(stage) is not None
        },
        "began": _began(contents),
        "invert": {
            "loss": spread(contents.losses),
            "steps": spread(contents.steps),
            "at_the_wall": contents.at_the_wall,
        },
        "landmarks": {"deviation": spread(contents.deviations)},
        "lgen": _lgen(contents),
        "synthesize": {"count": _synthetic_count(contents)},
        "study": contents.study,
    }


def spread(values: np.ndarray) -> dict[str, Any]:
    """Return the number of finite values, their mean, median and 90th percentile."""
    values = values[np.isfinite(values)].astype(np.float64)
    if len(values) == 0:
        return {"rows": 0, "mean": None, "median": None, "p90": None}
    median, p90 = np.percentile(values, [50, 90])
    return {
        "rows": len(values),
        "mean": float(values.mean()),
        "median": float(median),
        "p90": float(p90),
    }


def _diversity(faces: np.ndarray | None) -> float | None:
    return None if faces is None or len(faces) < 2 else diversity(faces)


def _stage(contents: Contents, stage: str) -> dict[str, Any]:
    """Return the work of a stage, and the part that is done, from its record and its markers."""
    record = contents.run.record(stage)
    assert record is not None
    last = record.last_run
    set_aside: dict[str, str] = {}
    totals: dict[str, Any] = {"statuses": {}, "sums": {}}
    rows: int | None
    done: int | None
    if record.shards is not None:
        markers = list(shards.read_markers(contents.run.markers(stage)))
        totals, marked = shards.totals(markers), {str(marker.shard) for marker in markers}
        rows, done = record.rows, totals["rows"]
        reasons = {} if last is None else last.set_aside
        set_aside = {shard: reason for shard, reason in reasons.items() if shard not in marked}
    elif record.steps is not None:
        rows, done = record.steps, _steps_done(contents)
    else:
        rows = done = None if last is None else last.rows
    seconds = round(sum(run.seconds for run in record.runs), 3) if record.runs else None
    return {
        "rows": rows,
        "done": done,
        "set_aside": len(set_aside),
        "set_aside_reasons": set_aside,
        "seconds": seconds,
        "rows_per_s": round(done / seconds, 3) if done and seconds else None,
        "statuses": totals["statuses"],
        "sums": totals["sums"],
        "runs": len(record.runs),
        "finished": record.finished,
    }


def _steps_done(contents: Contents) -> int:
    """Return the step of the newest checkpoint, from which a stopped training continues."""
    found = weight_files.checkpoints(contents.run.began / "checkpoints")
    return int(found[-1].name) if found else 0


def _began(contents: Contents) -> dict[str, Any]:
    lines = contents.metrics
    last = metrics.with_last_look(lines) if lines else None
    names = ("m_global", "k", "loss_real", "loss_fake", "images_per_s", *metrics.LOOK)
    return {
        "steps": last and last.step,
        **{name: last and _finite(getattr(last, name)) for name in names},
        "rollbacks": list(map(dataclasses.asdict, contents.rollbacks)),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _lgen(contents: Contents) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(Evaluation)]
    found = contents.evaluation
    errors = dict.fromkeys(names) if found is None else dataclasses.asdict(found)
    return {**errors, "trials": list(map(dataclasses.asdict, contents.trials))}


def _synthetic_count(contents: Contents) -> int | None:
    if contents.run.record("synthesize") is None:
        return None
    totals = shards.totals(shards.read_markers(contents.run.markers("synthesize")))
    return int(totals["statuses"].get(Status.OK.label, 0))
