"""Exports networks of timm and torchvision with PyTorch, runs them here, and compares what both compute.

Of each network: the logits of a batch in evaluation and in training, the logits of the four quarters of its feature map, the
gradients, and the state dict after a step of SGD. PyTorch computes in double precision; how far its own single precision is
from that is measured, too, and is the yardstick: with random weights, some networks lose more digits than others.

    make networks                      all of them, and the table in docs/networks.md; after an interruption it goes on
    make networks ONLY=resnet18,…      these, without the table
    make networks OPERATORS=1          small networks of single operators, without the table
    scripts/networks.py --fixtures     the files in tests/fixtures/exported

Run by .deps/networks/run (scripts/setup networks). Needs target/debug/distillery-trainer and its example exported_step.
"""

import argparse
import copy
import json
import math
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback

import torch
from network_list import FIXTURE_NETWORKS, NETWORKS
from safetensors.torch import load_file, save_file

import kept_rows

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests/fixtures/exported"
TABLE = ROOT / "docs/networks.md"
CLASSES = 10
LEARNING_RATE = 0.1
BATCH = 4

PROCESS_ENDED = "its process ended with"


def build(name, arguments):
    """The network with random weights, and the side of its images."""
    torch.manual_seed(1)
    if name.startswith("operators/"):
        import operator_networks

        model, side = operator_networks.build(name.removeprefix("operators/"), CLASSES)
    elif name.startswith("torchvision/"):
        import torchvision

        name = name.removeprefix("torchvision/")
        model = torchvision.models.get_model(name, num_classes=CLASSES, **arguments)
        side = {"inception_v3": 299}.get(name, 224)
    else:
        import timm

        model = timm.create_model(name, num_classes=CLASSES, **arguments)
        side = arguments.get("img_size", model.default_cfg["input_size"][-1])
    vary(model, side)
    for module in model.modules():
        # Both sides would draw other numbers.
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(getattr(module, "drop_rate", None), float):
            module.drop_rate = 0.0
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    return model.train(), side


def vary(model, side):
    """Varies what is initialised to one number, such as scales, and the running statistics: mistakes would not show.

    Running statistics are near those of random images. With others, the activations of deep networks grow or vanish from
    layer to layer, and single precision keeps no digit of the logits.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.std() < 1e-4:
                parameter.add_(0.1 * torch.randn_like(parameter))
        norms = [module for module in model.modules() if getattr(module, "running_mean", None) is not None]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            model.train()(torch.randn(BATCH, 3, side, side))
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.running_var.clamp_(min=0.1 * norm.running_var.mean().item())
            norm.running_mean.add_(0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean))
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.8, 1.25))


def export(model, side, path, dtype=torch.float32):
    batch = torch.export.Dim("batch", min=2, max=65536)
    images = torch.zeros(2, 3, side, side, dtype=dtype)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return program


def step(model, images, labels):
    """What a network computes with a batch, as exported_step.rs names it."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        made = {"logits.evaluation": model.eval()(images)}
    model.train()
    logits = model(images)
    made["logits.training"] = logits.detach()
    torch.nn.functional.cross_entropy(logits, labels).backward()
    for key, parameter in model.named_parameters(remove_duplicate=False):
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        made[f"gradient.{key}"] = gradient
    torch.optim.SGD(model.parameters(), lr=LEARNING_RATE).step()
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            made[f"after.{key}"] = value
    return made


class InEvaluation(torch.fx.Interpreter):
    """Runs an exported graph as in evaluation, and takes `given` for what the node `pooling` computes."""

    def __init__(self, module, pooling):
        super().__init__(module)
        self.pooling, self.given, self.map, self.pooled = pooling, None, None, None

    def run_node(self, node):
        made = super().run_node(node)
        if node.name != self.pooling:
            return made
        self.map, self.pooled = self.env[node.args[0]], made
        return made if self.given is None else self.given

    def call_function(self, target, args, kwargs):
        aten = torch.ops.aten
        args = list(args)
        # One without running statistics standardises weights.
        if target is aten.batch_norm.default and args[3] is not None:
            args[5] = False
        if target in (aten.dropout.default, aten.dropout_.default):
            args[2] = False
        return super().call_function(target, tuple(args), kwargs)


def regions(program, images, described):
    """The feature map [B, C, H, W] in evaluation, and the logits [B, 4, K] of its quarters, row by row."""
    run = InEvaluation(copy.deepcopy(program).module(check_guards=False), described["head"]["begins_after"])
    run.garbage_collect_values = False
    run.run(images)
    channels, height, width = described["feature_map"]["shape"]
    maps = run.map
    if described["feature_map"]["layout"] == "channels_last":
        maps = maps.permute(0, 3, 1, 2)
    if maps.dim() == 3:
        means = maps.mean(2)
        are_last = means.numel() == run.pooled.numel() and torch.allclose(means.flatten(), run.pooled.flatten(), atol=1e-5)
        maps = (maps if are_last else maps.transpose(1, 2)).reshape(-1, channels, height, width)
    quarters = torch.nn.functional.adaptive_avg_pool2d(maps, 2).flatten(2)
    logits = []
    for quarter in range(4):
        run.given = quarters[:, :, quarter].reshape(run.pooled.shape)
        run.env.clear()
        logits.append(run.run(images))
    return {"map": maps, "regions": torch.stack(logits, 1)}


def distance(found, expected):
    """‖found − expected‖ / ‖expected‖ of tensors by name."""
    square = lambda tensors: sum(tensor.double().square().sum().item() for tensor in tensors)
    difference = square(found[key].double() - expected[key].double() for key in expected)
    size = square(expected.values())
    return math.sqrt(difference / size) if size > 0 else math.sqrt(difference)


def part(tensors, prefix):
    return {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def changes(tensors, before):
    """How far a step moved the state dict."""
    after = part(tensors, "after.")
    return {key: tensor.double() - before[key.removeprefix("after.")].double() for key, tensor in after.items()}


def run(program, *arguments):
    result = subprocess.run([program, *arguments], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr.strip().removeprefix("error: ") or f"{program} ended with {result.returncode}")
    return result.stdout


def compare(name, arguments, programs):
    """A row of the table."""
    model, side = build(name, arguments)
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        path, batch, result = directory / "network.pt2", directory / "batch.safetensors", directory / "result.safetensors"
        begun = time.monotonic()
        try:
            program = export(model, side, path)
        except Exception as error:
            raise RuntimeError(f"torch.export: {str(error).strip().splitlines()[0]}") from error
        exported = time.monotonic() - begun
        described = json.loads(run(programs / "distillery-trainer", "inspect", path))
        generator = torch.Generator().manual_seed(2)
        images = torch.randn(BATCH, 3, side, side, generator=generator)
        labels = torch.arange(BATCH) % CLASSES
        save_file({"images": images, "labels": labels.float()}, batch)
        run(programs / "examples/exported_step", path, batch, result)
        ours = load_file(result)
    single = step(model, images, labels)
    exact = step(copy.deepcopy(model).double(), images.double(), labels)
    state = model.state_dict()
    row = {"parameters": described["parameters"], "export_seconds": exported, "warnings": described["warnings"]}
    row |= {"operators": sum(described["operators"].values()), "kinds": len(described["operators"])}
    row |= {"feature_map": described["feature_map"], "is_linear": described["head"]["is_linear"], "errors": {}}
    missing = exact.keys() - ours.keys()
    if missing:
        raise RuntimeError(f"{len(missing)} tensors are missing, such as {sorted(missing)[0]}")
    for column, of in [
        ("evaluation", lambda made: part(made, "logits.evaluation")),
        ("training", lambda made: part(made, "logits.training")),
        ("gradients", lambda made: part(made, "gradient.")),
        ("step", lambda made: changes(made, state)),
    ]:
        reference = of(exact)
        row["errors"][column] = [distance(of(made), reference) for made in (ours, single)]
    if "regions" in ours:
        with torch.no_grad():
            expected = regions(program, images, described)
        row["errors"]["regions"] = [distance({key: ours[key]}, {key: expected[key]}) for key in ("regions", "map")]
    return row


# Largest accepted distance, unless PyTorch's own single precision is further away.
TOLERANCES = {"evaluation": 1e-5, "training": 1e-5, "gradients": 1e-4, "step": 1e-4, "regions": 1e-4}
# Where single precision is further away than this, nothing has been compared.
LARGEST = 0.05


def failures(row):
    for column, (ours, own) in row["errors"].items():
        allowed = TOLERANCES[column] if column == "regions" else min(max(TOLERANCES[column], 4 * own), LARGEST)
        # Not a number is no failure of `>`.
        if not (ours <= allowed):
            yield f"{column} differs by {ours:.0e}, and {allowed:.0e} is allowed"


def attempt(name, arguments, programs, results):
    """Compares in a process of its own, so that no network's memory or crash is another's."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
    try:
        row = compare(name, arguments, programs)
        row["reason"] = "; ".join(failures(row))
    except Exception as error:
        if not isinstance(error, RuntimeError):
            traceback.print_exc()
        row = {"reason": f"{type(error).__name__}: {error}" if not isinstance(error, RuntimeError) else str(error)}
    results.put(row)


def compare_apart(name, arguments, programs):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=attempt, args=(name, arguments, programs, results))
    process.start()
    while process.is_alive() and results.empty():
        process.join(0.2)
    row = results.get() if not results.empty() else {"reason": f"{PROCESS_ENDED} {process.exitcode}"}
    process.join()
    return row


def title(name, arguments):
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{name} ({shown})" if shown else name


def table(rows):
    lines = [
        "| network | parameters | operators | feature map | head | evaluation | training | regions | gradients | step |",
        "| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    failed = []
    for name, row in rows:
        if row["reason"]:
            failed.append(f"| {name} | {row['reason'].splitlines()[0]} |")
            if len(row["reason"].splitlines()) > 1:
                rest = "; ".join(line.removeprefix("- ") for line in row["reason"].splitlines()[1:])
                failed[-1] = f"| {name} | {rest} |"
            continue
        found = row["feature_map"]
        shape = "×".join(str(size) for size in found["shape"]) if found else "none"
        head = {True: "linear", False: "not linear", None: ""}[row["is_linear"]]
        error = lambda column: f"{row['errors'][column][0]:.0e}" if column in row["errors"] else ""
        columns = [error(column) for column in ("evaluation", "training", "regions", "gradients", "step")]
        parameters = f"{row['parameters'] / 1e6:.1f} M"
        lines.append(f"| {' | '.join([name, parameters, str(row['operators']), shape, head, *columns])} |")
    if failed:
        lines += ["", "These do not work:", "", "| network | reason |", "| --- | --- |", *failed]
    return "\n".join(lines)


def versions():
    import timm
    import torchvision

    plain = lambda version: version.split("+")[0]
    torchvision_is = f"torchvision {plain(torchvision.__version__)}"
    return f"PyTorch {plain(torch.__version__)}, timm {timm.__version__}, {torchvision_is}"


def write_table(rows, kept):
    good = sum(not row["reason"] for _, row in rows)
    intro = f"{good} of {len(rows)} networks agree ({versions()}; {kept.where()})."
    left = [title(*network) for network in NETWORKS[len(rows) :]]
    if left:
        intro += f" Not compared, because the command was stopped: {', '.join(left)}."
    kept_rows.replace_section(TABLE, "make networks", f"{intro}\n\n{table(rows)}")


def write_fixtures(programs):
    """Writes each network with random weights, and what PyTorch computes with it in double precision."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for file, name, arguments, side, count in FIXTURE_NETWORKS:
        model, _ = build(name, arguments)
        path = FIXTURES / f"{file}.pt2"
        export(model, side, path)
        described = json.loads(run(programs / "distillery-trainer", "inspect", path))
        images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))
        exact = copy.deepcopy(model).double()
        made = step(exact, images.double(), torch.arange(count) % CLASSES)
        with tempfile.TemporaryDirectory() as directory, torch.no_grad():
            program = export(exact, side, pathlib.Path(directory) / "double.pt2", torch.float64)
            found = regions(program, images.double(), described)
        whole = made["logits.evaluation"].unsqueeze(1)
        tensors = {"images": images, "eval_logits": made["logits.evaluation"], "train_logits": made["logits.training"]}
        tensors |= {"feature_map": found["map"], "region_logits": torch.cat((whole, found["regions"]), 1)}
        if count > 1:
            norms = [gradient.norm() for gradient in part(made, "gradient.").values()]
            statistics = [value.flatten() for key, value in part(made, "after.").items() if ".running_" in key]
            tensors["grad_norms"] = torch.stack(norms)
            tensors |= {"running_after": torch.cat(statistics)} if statistics else {}
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, FIXTURES / f"{file}.safetensors")
        print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names, separated by commas; the table stays as it is")
    parser.add_argument("--operators", action="store_true", help="small networks of single operators instead")
    parser.add_argument("--fixtures", action="store_true", help="write tests/fixtures/exported, and compare nothing")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "target/debug", help="where the programs are")
    arguments = parser.parse_args()
    if arguments.fixtures:
        return write_fixtures(arguments.programs)
    chosen = NETWORKS
    if arguments.only:
        wanted = arguments.only.split(",")
        known = {name for name, _ in NETWORKS}
        chosen = [network for network in NETWORKS if network[0] in wanted]
        chosen += [(name, {}) for name in wanted if name not in known]
    if arguments.operators:
        import operator_networks

        chosen = [(f"operators/{name}", {}) for name in operator_networks.names()]
    kept = None
    if chosen is NETWORKS:
        programs = [arguments.programs / name for name in ("distillery-trainer", "examples/exported_step")]
        conditions = {"versions": versions(), "programs": kept_rows.sha256(*programs, __file__)}
        kept = kept_rows.KeptRows("networks", conditions)
    rows = []
    for name, options in chosen:
        begun, of_row = time.monotonic(), title(name, options)
        row = kept.get(of_row) if kept else None
        if row is None:
            row = compare_apart(name, options, arguments.programs)
            outcome = row["reason"] or ", ".join(f"{key} {error[0]:.0e}" for key, error in row["errors"].items())
            print(f"{of_row}: {outcome} ({time.monotonic() - begun:.0f} s)", flush=True)
        rows.append((of_row, row))
        if kept:
            # After each, since all of them take half an hour. One whose process was killed is tried again.
            if not row["reason"].startswith(PROCESS_ENDED):
                kept.put(of_row, row)
            write_table(rows, kept)
    if chosen is NETWORKS:
        return 0
    return 1 if any(row["reason"] for _, row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
