"""browser.html: all generated faces of a run, in pages, by the certainty of their landmarks.

The page holds the index and the expected error of every face. The pictures stay in the files of
thumbnails/, which the page loads as they are looked at.
"""

from __future__ import annotations

import base64

import jinja2
import numpy as np

from distfacegan.store import files, shards, thumbnails
from distfacegan.store.location import Location
from distfacegan.store.run_directory import RunDirectory

NAME = "browser.html"
MOST = 1_000_000  # faces of a page: it stays below 10 MB


def write(run: RunDirectory) -> Location | None:
    """Write the browser of a run's generated faces; return its path, None if there are none.

    Shards of earlier versions have no thumbnails and are left out.
    """
    tables: list[np.ndarray] = []
    names, left = [], MOST
    for number in sorted(shards.done(run.markers("synthesize"))):
        found = thumbnails.read_table(run.synthetic, number)
        if found is not None and 0 < len(found) <= left:
            tables.append(found)
            names.append((number, len(found)))
            left -= len(found)
    if not tables:
        return None
    table = np.concatenate(tables)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("distfacegan.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    html = environment.get_template(NAME).render(
        name=run.root.name,
        count=len(table),
        shards=names,
        indices=_base64(table["index"].astype("<u4")),
        errors=_base64(table["error"].astype("<f4")),
        known=bool(np.isfinite(table["error"]).any()),
        side=thumbnails.SIDE,
        columns=thumbnails.COLUMNS,
        sheet=thumbnails.SHEET,
    )
    path = run.report / NAME
    files.write_bytes(path, html.encode())
    return path


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()
