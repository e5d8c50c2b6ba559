#!/usr/bin/env python3
"""The whole way of two networks of timm through a running server: exports them, trains the teacher, trains the student
alone and with the teacher, downloads it as ONNX, and evaluates that file in ONNX Runtime.

    distillery serve --datasets-dir DIR
    .deps/networks/run examples/imagewoof.py --dataset imagewoof80 --images DIR/imagewoof80

DIR/imagewoof80 has ten breeds of dogs as parquet files: columns `image` and `label`, splits `train` and `validation`.
Any data set of ten classes in that form does. The teacher is convnext_atto and the student mobilenetv3_small_050, both
with random weights and images of 64 pixels.

--out gets the exported networks, student.onnx, and results.json with the curve of each job. The tables also go between
the markers of --document. A run that was stopped goes on with the jobs that the server has. The program fails if the
accuracy of ONNX Runtime differs from the server's by more than the rounding of pixels explains.

Needs torch, timm, Pillow and pyarrow (scripts/setup networks) and ONNX Runtime (scripts/setup onnxruntime).
"""

import argparse
import datetime
import hashlib
import importlib
import io
import json
import pathlib
import shlex
import sys
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT / "benches"), str(ROOT / "scripts")]

import kept_rows  # noqa: E402
from trials.running import duration_text, seconds  # noqa: E402
from trials.server import FINAL, Server  # noqa: E402
from trials.tables import prose, table  # noqa: E402

NETWORKS = {"teacher": "convnext_atto", "student": "mobilenetv3_small_050"}
CLASSES, SIDE = 10, 64
TRAIN, EVALUATION = "train", "validation"
# The jobs, and what tables call them.
JOBS = {"teacher": "teacher", "alone": "student alone", "sdd_kd": "student by sdd_kd"}
MARKER = "examples/imagewoof.py"
# By how many points top-1 may differ: decoders of JPEG round pixels in different ways.
TOLERANCE = 0.5
BATCH = 64


def main(arguments=None):
    options = parse(arguments)
    # What may be missing is asked for before hours of training.
    runtime = onnx_runtime()
    files = shards(options.images)
    server = Server(options.server)
    options.out.mkdir(parents=True, exist_ok=True)
    exported = export(options.out)
    checkpoints = {role: upload(server, path) for role, path in exported.items()}
    runs = train(server, documents(options, checkpoints), options.poll)
    student = options.out / "student.onnx"
    student.write_bytes(server.bytes("GET", f"/v1/jobs/{runs['sdd_kd']['job']}/student?format=onnx"))
    results = {
        "date": datetime.date.today().isoformat(),
        "command": command(options),
        "machine": kept_rows.machine() if server.is_local else None,
        "versions": versions(runtime),
        "dataset": options.dataset,
        "image_size": SIDE,
        "epochs": options.epochs,
        "networks": {role: NETWORKS[role] for role in checkpoints},
        "checkpoints": checkpoints,
        "runs": runs,
        "export": server.artifact(runs["sdd_kd"]["job"], "export-onnx.json"),
        "onnx": evaluate(runtime.InferenceSession(str(student), providers=["CPUExecutionProvider"]), files),
    }
    results["onnx"]["file_sha256"] = hashlib.sha256(student.read_bytes()).hexdigest()
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = section(results)
    print(text)
    kept_rows.replace_section(options.document, MARKER, text)
    if fault := disagreement(results):
        sys.exit(fault)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--server", default="http://127.0.0.1:8080", help="its token, if any, is DISTILLERY_TOKEN")
    parser.add_argument("--dataset", required=True, help="its name below the server's --datasets-dir")
    parser.add_argument("--images", type=pathlib.Path, required=True, metavar="DIR",
                        help="the same data set on this machine: DIR/validation-*.parquet")
    parser.add_argument("--epochs", type=positive, default=30, help="of each job; default: 30")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "data/imagewoof", metavar="DIR",
                        help="default: data/imagewoof")
    parser.add_argument("--document", type=pathlib.Path, default=ROOT / "docs/networks.md", metavar="FILE",
                        help=f"Markdown with the markers of {MARKER}; default: docs/networks.md")
    parser.add_argument("--poll", type=float, default=5.0, help="seconds between polls")
    options = parser.parse_args(arguments)
    markers = [f"<!-- {MARKER}: {end} -->" for end in ("begin", "end")]
    text = options.document.read_text() if options.document.is_file() else ""
    if any(text.count(marker) != 1 for marker in markers):
        parser.error(f"{options.document} needs the lines {' and '.join(markers)} once")
    return options


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def command(options):
    """The command line without what only names places of this machine."""
    words = [".deps/networks/run", MARKER, "--dataset", options.dataset, "--images", f"DIR/{options.dataset}"]
    return shlex.join([*words, "--epochs", str(options.epochs)])


def onnx_runtime():
    for path in (None, ROOT / ".deps/onnxruntime/packages"):
        if path:
            sys.path.append(str(path))
        try:
            return importlib.import_module("onnxruntime")
        except ModuleNotFoundError:
            pass
    sys.exit("ONNX Runtime is missing: run scripts/setup onnxruntime, or pip install onnxruntime")


def versions(runtime):
    import timm
    import torch

    return {"PyTorch": torch.__version__, "timm": timm.__version__, "ONNX Runtime": runtime.__version__}


def shards(directory):
    """The parquet files of the evaluation split."""
    found = sorted(directory.glob(f"{EVALUATION}-*.parquet")) or sorted(directory.glob(f"{EVALUATION}/*.parquet"))
    if not found:
        sys.exit(f"{directory} has no {EVALUATION}-*.parquet: --images is the directory with the parquet files")
    return found


def export(out):
    """The exported networks by role. Files that are there stay, so that a run that goes on has the same weights."""
    paths = {role: out / f"{name}.pt2" for role, name in NETWORKS.items()}
    missing = {role: path for role, path in paths.items() if not path.exists()}
    if missing:
        import timm
        import torch

    for role, path in missing.items():
        torch.manual_seed(0)
        # A student has to be exported in training mode, and so may be a teacher.
        model = timm.create_model(NETWORKS[role], num_classes=CLASSES).train()
        batch = torch.export.Dim("batch", min=2, max=65536)
        program = torch.export.export(model, (torch.zeros(2, 3, SIDE, SIDE),), dynamic_shapes=({0: batch},))
        # As a whole or not at all.
        new = path.with_suffix(".new.pt2")
        torch.export.save(program, new)
        new.replace(path)
    return paths


def upload(server, path):
    """The id of the checkpoint, which is the same for the same bytes."""
    query = urllib.parse.urlencode({"name": path.name})
    checkpoint = json.loads(server.bytes("PUT", f"/v1/checkpoints?{query}", path.read_bytes()))
    print(f"{path.name}: {checkpoint['id']}, {checkpoint['parameters']:,} parameters", flush=True)
    return checkpoint["id"]


def documents(options, checkpoints):
    """The job that each of JOBS is; the last one has no teacher yet."""
    training = {
        "epochs": options.epochs,
        "optimizer": {"type": "adamw", "learning_rate": 0.001},
        "schedule": {"type": "cosine"},
        "seed": 0,
    }
    dataset = {"name": options.dataset, "train_split": TRAIN, "eval_split": EVALUATION, "image_size": SIDE}
    found = {}
    for job, title in JOBS.items():
        role = "teacher" if job == "teacher" else "student"
        found[job] = {
            "name": f"{options.dataset}: {title} ({NETWORKS[role]})",
            "student": {"checkpoint": checkpoints[role]},
            "dataset": dataset,
            "distillation": {"method": "sdd_kd" if job == "sdd_kd" else "none"},
            "training": training,
        }
    return found


def train(server, wanted, poll):
    """Posts all jobs, waits for them, and returns what each one gave. The last one waits for the teacher's itself."""
    teacher = server.post(wanted["teacher"])
    posted = {
        "teacher": teacher,
        "alone": server.post(wanted["alone"]),
        "sdd_kd": server.post({**wanted["sdd_kd"], "teacher": {"job": teacher}}),
    }
    return {job: outcome(server, job, wait(server, job_id, poll)) for job, job_id in posted.items()}


def wait(server, job_id, poll):
    shown = None
    while True:
        job = server.job(job_id)
        progress = job.get("progress") or {}
        line = f"{job['name']}: {job['status']}"
        if job["status"] == "running" and progress:
            line += f", epoch {progress['epoch']} of {progress['epochs']}"
        if line != shown:
            shown = line
            print(f"  {time.strftime('%H:%M:%S')} {line}", flush=True)
        if job["status"] == "succeeded":
            return job
        if job["status"] in FINAL:
            sys.exit(f"{job_id} {job['name']}: {job['status']} {job.get('error') or ''}\n"
                     "The same command tries it again.")
        time.sleep(poll)


def outcome(server, role, job):
    """What is kept of a job that has succeeded."""
    result = job["result"]
    manifest = server.artifact(job["id"], "manifest.json")
    attempts = server.json("GET", f"/v1/jobs/{job['id']}/attempts")["data"]
    points = server.points(job["id"], ["eval/top1"]).get("eval/top1", [])
    return {
        "job": job["id"],
        "network": NETWORKS["teacher" if role == "teacher" else "student"],
        "parameters": result["student"]["parameters"],
        "scales": job["spec"]["distillation"].get("scales"),
        "images": manifest["data"]["train_images"],
        "eval_images": manifest["data"]["eval_images"],
        "device": manifest["attempts"][-1]["device"],
        "versions": manifest["versions"],
        "best_top1": result["best_top1"],
        "best_epoch": result["best_epoch"],
        "last_top1": result["last_top1"],
        "seconds": round(sum(map(seconds, attempts)), 1),
        "curve": [[round(epoch, 4), round(value, 4)] for epoch, value in points],
    }


def evaluate(session, files):
    """Top-1 of an ONNX file over all images of parquet files, in percent, and how it was computed. The file says how
    images become its input."""
    import numpy
    import pyarrow.parquet

    facts = session.get_modelmeta().custom_metadata_map
    mean, std = (numpy.array(json.loads(facts[name]), numpy.float32) for name in ("mean", "std"))
    names = json.loads(facts.get("classes", "[]"))
    resize = int(facts["eval_resize"]) if facts.get("eval_crop") == "centre" else None
    images = correct = 0
    begun = time.monotonic()
    for path in files:
        for rows in pyarrow.parquet.ParquetFile(path).iter_batches(BATCH, columns=["image", "label"]):
            pixels = [prepared(image["bytes"], int(facts["image_size"]), resize) for image in rows["image"].to_pylist()]
            labels = [class_of(label, names, path) for label in rows["label"].to_pylist()]
            given = (numpy.stack(pixels).astype(numpy.float32) / 255 - mean) / std
            logits = session.run(["logits"], {"images": given.transpose(0, 3, 1, 2)})[0]
            images += len(labels)
            correct += int((logits.argmax(1) == labels).sum())
    if not images:
        sys.exit(f"{files[0].parent} has no image in its split {EVALUATION}")
    return {"images": images, "correct": correct, "top1": 100 * correct / images,
            "seconds": round(time.monotonic() - begun, 1)}


def class_of(label, names, path):
    """The number of a label's class: integers are numbers already, and texts are looked up among the classes' names."""
    number = names.index(label) if label in names else label
    if not isinstance(number, int) or not 0 <= number < CLASSES:
        sys.exit(f"{path} has the label {label!r}, and the student's classes are 0 to {CLASSES - 1} or {names}")
    return number


def prepared(encoded, side, resize):
    """Pixels [side, side, 3] of an image, as an evaluation has them."""
    import numpy
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
    size = [int(resize * edge / min(image.size)) for edge in image.size] if resize else [side, side]
    left, top = (int(round((edge - side) / 2)) for edge in size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    return numpy.asarray(image.crop((left, top, left + side, top + side)))


def difference(results):
    """Points of top-1 by which ONNX Runtime is above the server."""
    return results["onnx"]["top1"] - results["runs"]["sdd_kd"]["best_top1"]


def disagreement(results):
    """What is wrong with the exported student, or `None`."""
    onnx, run = results["onnx"], results["runs"]["sdd_kd"]
    if onnx["images"] != run["eval_images"]:
        return (f"The server evaluated {run['eval_images']} images, and --images has {onnx['images']}: name the "
                "directory of the same data set.")
    # What is no number is no agreement.
    if not abs(difference(results)) <= TOLERANCE:
        return (f"ONNX Runtime's top-1 is {onnx['top1']:.2f} %, and the server's {run['best_top1']:.2f} %: they differ "
                f"by more than {TOLERANCE} points.")
    return None


def section(results):
    """The Markdown of a run."""
    runs, names = results["runs"], results["networks"]
    distilled = runs["sdd_kd"]
    head = (f"{names['teacher']} → {names['student']} on {results['dataset']}: {distilled['images']:,} images of "
            f"{results['image_size']} pixels, {results['epochs']} epochs each, scales "
            f"{', '.join(map(str, distilled['scales'] or [1]))}; top-1 on {distilled['eval_images']:,} images. Seconds "
            "are those of the job.")
    rows = [[JOBS[job], run["network"], f"{run['parameters'] / 1e6:.1f} M", f"{run['best_top1']:.2f}",
             str(run["best_epoch"]), f"{run['last_top1']:.2f}", f"{run['seconds']:.0f}"] for job, run in runs.items()]
    columns = ["run", "network", "parameters", "best top-1, %", "epoch", "last top-1, %", "seconds"]
    return "\n\n".join([
        prose(head),
        table(columns, rows),
        f"Top-1 per epoch:\n\n```text\n{chart({JOBS[job]: run['curve'] for job, run in runs.items()})}\n```",
        prose(exported_text(results)),
        prose(f"{where(results)}. Command:"),
        f"```\n{results['command']}\n```",
    ])


def exported_text(results):
    """What became of the student as ONNX."""
    onnx, report = results["onnx"], results["export"] or {}
    if parity := report.get("parity"):
        parity = (f"its report compares {parity['images']} images, and logits differ by "
                  f"{parity['relative_difference']:.0e} of the largest")
    else:
        parity = f"its report has no comparison ({report.get('not_checked') or 'the server has no report'})"
    return (f"The student as ONNX: {parity}. ONNX Runtime classifies {onnx['correct']:,} of {onnx['images']:,} images "
            f"of the parquet files as they are labelled: its top-1 is {onnx['top1']:.2f} %, and the server's "
            f"{results['runs']['sdd_kd']['best_top1']:.2f} %. Decoding and evaluating took "
            f"{duration_text(onnx['seconds'])}.")


def where(results):
    """Day, machine and versions."""
    run = results["runs"]["sdd_kd"]
    programs = {"distillery": run["versions"]["distillery"], "libtorch": run["versions"]["libtorch"],
                **results["versions"]}
    versions = ", ".join(f"{program} {version}" for program, version in programs.items())
    machine = results["machine"] or "a server on another machine"
    return f"{results['date']}, {machine}, trained on {run['device']}; {versions}"


def chart(curves, width=72, height=14):
    """Curves of (epoch, top-1) in characters: each has the first letter of its last word."""
    marks = {name: name.split()[-1][0] for name in curves}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return "no points"
    (first, last), (low, high) = ((min(axis), max(axis)) for axis in zip(*points))
    grid = [[" "] * width for _ in range(height)]
    for name, curve in curves.items():
        for epoch, top1 in curve:
            column = round((epoch - first) / ((last - first) or 1) * (width - 1))
            row = round((high - top1) / ((high - low) or 1) * (height - 1))
            grid[row][column] = marks[name]
    level = lambda row: high - (high - low) * row / (height - 1)
    lines = [f"{level(row):5.1f} |{''.join(cells)}".rstrip() for row, cells in enumerate(grid)]
    ends = f"{f'{first:g}':<{width - 8}}{f'{last:g}':>8}"
    legend = ", ".join(f"{mark}: {name}" for name, mark in marks.items())
    return "\n".join([*lines, f"      +{'-' * width}", f"       {ends}".rstrip(), f"       epoch; {legend}"])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted. The server goes on with the jobs that it has; the same command collects them.")
