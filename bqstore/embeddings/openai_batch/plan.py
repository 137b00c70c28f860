"""Assigns texts to lines and batches, by the limits of the Batch API."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..openai.packing import OPENAI, Limits, plan_requests
from .job import Job, Line, Part, id_of

# The API's limits for one batch. The last is for embeddings only, and usually reached first.
MAX_BATCH_LINES = 50_000
MAX_BATCH_BYTES = 200_000_000
MAX_BATCH_TEXTS = 50_000

_TEXT_REFUSED = re.compile(r"HTTP 4(00|13|22)")


def add_parts(job: Job, sizes: Sequence[int], bytes_of: Callable[[Line], int], limits: Limits = OPENAI) -> bool:
    """Add parts for all texts that have no vector and are in no line with a result, or one still expected.

    ``sizes`` are upper bounds of the texts' tokens; ``bytes_of`` returns the size of a line in the upload. Returns
    whether parts were added.
    """
    wanted, alone = wanted_rows(job)
    lines = [(i, i + 1) for i in np.flatnonzero(wanted & alone).tolist()]
    for start, stop in _runs(wanted & ~alone):
        lines += [(start + cut.start, start + cut.stop) for cut in plan_requests(sizes[start:stop], limits)]
    new: list[Part] = []
    left = np.zeros(3, np.int64)
    for line in sorted(lines):
        takes = np.array([1, line[1] - line[0], bytes_of(line)])
        if not new or (takes > left).any():
            new.append(Part("", []))
            left = np.array([MAX_BATCH_LINES, MAX_BATCH_TEXTS, MAX_BATCH_BYTES])
        left = left - takes
        new[-1].lines.append(line)
    for part in new:  # equal plans get equal names, so batches are recognized even if the job's file is lost
        plan = json.dumps([job.name, len(job.parts), part.lines])
        part.name = "bqstore-" + hashlib.sha256(plan.encode()).hexdigest()[:40]
        job.parts.append(part)
    return bool(new)


def wanted_rows(job: Job) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Masks of the texts to submit, and of those to submit alone, since a line with them was refused."""
    wanted = ~job.vectors.has_vector
    alone = np.zeros_like(wanted)
    for part in job.parts:
        wanted[part.expected()] = False
        for line in part.lines:  # perhaps because of one text, which must not fail the others again
            alone[part.rows_of(line)] |= bool(_TEXT_REFUSED.match(part.lost.get(id_of(line), "")))
    return wanted, alone


def _runs(mask: npt.NDArray[np.bool_]) -> list[Line]:
    """Start and stop of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
