"""`tfticket.json` in a SavedModel's folder: content, check and origin of the export."""

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib

import keras

from tfticket.export.checking.exported import Exported
from tfticket.export.storage.formats import READ_BY
from tfticket.inspection.costs import summary_rows, total

FILE = "tfticket.json"


def write_manifest(
    folder: pathlib.Path,
    model: keras.Model,
    exported: Exported,
    made: dict,
) -> None:
    """Writes the manifest of the files in a version's folder.

    "weights" are the rows of `tfticket.summary_rows`, with the same fields, and the
    totals are their sums. "flops_unknown" names the rows whose operations are not known
    and which the totals leave out. "read_by" names the runtimes that read SavedModels
    of this format, as found when tfticket was released.

    Args:
        folder: The folder of the SavedModel.
        model: The plain model that it was made from.
        exported: The result of its check.
        made: Further facts about how it was made, as JSON values; its "format" is one
            of `READ_BY`.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = summary_rows(model)
    whole = total(rows)
    manifest = {
        "manifest": 1,
        "made": {
            **made,
            "notes": list(exported.notes),
            "tfticket": importlib.metadata.version("tfticket"),
            "keras": keras.__version__,
            "tensorflow": importlib.metadata.version("tensorflow"),
        },
        "read_by": list(READ_BY[made["format"]]),
        "parity": {
            "compared": exported.compared,
            "max_error": exported.max_error,
            "typical_error": exported.typical_error,
            "agreement": exported.agreement,
            "c_api": exported.c_api,
            "latency_ms": exported.latency_ms,
        },
        "parameters": whole.parameters,
        "kept": whole.kept,
        "density": whole.density,
        "flops_dense": whole.flops_dense,
        "flops_sparse": whole.flops_sparse,
        "flops_unknown": {
            row.name: row.why_no_flops for row in rows if row.why_no_flops
        },
        "weights": [
            {**dataclasses.asdict(row), "density": row.density} for row in rows
        ],
        "bytes": sum(path.stat().st_size for path in files),
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        },
    }
    (folder / FILE).write_text(json.dumps(manifest, indent=1) + "\n")
