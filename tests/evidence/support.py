"""Records for the tests of benches/evidence.py."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))

from trials.experiments import PLANS, identity  # noqa: E402
from trials.records import Records  # noqa: E402


def record(experiment, method, seed, last, curve=()):
    """A run that ended with this accuracy."""
    document = experiment.teacher_document() if method == "teacher" else experiment.document(method, seed)
    scales = document["distillation"].get("scales")
    shares = {"all": 0.3, **{str(scale): 0.1 * scale for scale in scales or ()}}
    return {
        "document": identity(document, identity(experiment.teacher_document())),
        "method": method, "pair": list(experiment.pair), "seed": seed, "epochs": experiment.epochs, "images": 50000,
        "eval_images": 10000, "scales": scales, "best_top1": last, "best_epoch": 1, "last_top1": last,
        "curve": list(curve), "teacher_top1": None, "teacher_sha256": None, "student_sha256": "ab" * 32,
        "complementary": {"train": shares, "eval": shares} if scales else None, "seconds": 600.0,
        "images_per_second": 3000.0, "attempts": 1, "finished_at": "2026-12-01T10:00:00.123Z",
        "machine": {"cpu": "A processor", "cores": 2, "flags": "AVX2", "device": "cpu", "card": None,
                    "precision": "float32", "threads": 2},
        "version": {"distillery": "0.1.0", "libtorch": "2.11.0"}, "job": "job_1",
        "distillation": document["distillation"], "training": document["training"],
    }


def records(path, name, runs):
    """A file of records of one of the experiments: `runs` has the last accuracies by method, by seed."""
    experiment = PLANS[name].experiment
    made = Records(path, name, experiment.settings())
    made.records.append(record(experiment, "teacher", 0, 70.0))
    for method, accuracies in runs.items():
        for seed, last in enumerate(accuracies):
            made.records.append(record(experiment, method, seed, last, [[1.0, last / 2], [2.0, last]]))
    path.write_text(made.text())
    return made
