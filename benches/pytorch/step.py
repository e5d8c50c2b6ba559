#!/usr/bin/env python3
"""Scale decoupled distillation in plain PyTorch, as in the published scripts: float32, channels first, eager
operations, a loader with worker processes. It is the baseline of benches/compare.py. With --modern, steps are what a
user of PyTorch would write today: networks compiled by torch.compile, bfloat16 autocast, channels last.

    step.py --pair resnet32x4 resnet8x4                     # milliseconds of each of some training steps
    step.py --pair resnet20 resnet8 --data DIR --epochs 2   # a whole short run on CIFAR-100's parquet files
    step.py --device cuda                                   # either on a GPU
    step.py --device cuda --modern                          # compiled, in bfloat16

The networks come from examples/networks.py, which checks them against the published code. Needs torch; training on
files also needs numpy, pillow and pyarrow (scripts/setup pytorch_bench). torch.compile needs a C compiler, and on a GPU
triton.
"""

import argparse
import io
import json
import pathlib
import random
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "examples"))
import networks

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
CLASSES, TEMPERATURE = 100, 4.0
CROSS_ENTROPY_WEIGHT, DISTILLATION_WEIGHT, COMPLEMENTARY_WEIGHT = 0.1, 0.9, 2.0


def classifier(network):
    """The network's classifier: its last linear layer."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def local_logits(layer, features):
    """Global logits [B, K] and the logits of all regions [B, K, 21], for scales 1, 2 and 4."""
    grids = [F.adaptive_avg_pool2d(features, scale).flatten(2) for scale in (1, 2, 4)]
    pooled = torch.cat(grids, 2)
    batch, channels, regions = pooled.shape
    logits = layer(pooled.transpose(1, 2).reshape(batch * regions, channels))
    logits = logits.reshape(batch, regions, -1).transpose(1, 2)
    return logits[:, :, 0], logits


def kd(student, teacher):
    log_p = F.log_softmax(student / TEMPERATURE, dim=1)
    q = F.softmax(teacher / TEMPERATURE, dim=1)
    return F.kl_div(log_p, q, reduction="none").sum(1, keepdim=True) * TEMPERATURE**2


def sdd_kd(student, teacher, target):
    """The mean loss over all regions, with boolean masks; regions that disagree with the whole image count double."""
    batch, classes, regions = student.shape
    student = student.transpose(1, 2).reshape(batch * regions, classes)
    teacher = teacher.transpose(1, 2).reshape(batch * regions, classes)
    target = target.repeat_interleave(regions)
    predicted = teacher.argmax(1)
    right = predicted == target
    whole = right.reshape(batch, regions)[:, 0].repeat_interleave(regions)
    losses = [torch.zeros((), device=student.device)]
    for mask, weight in [
        (right & whole, 1.0),
        (~right & ~whole, 1.0),
        (right & ~whole, COMPLEMENTARY_WEIGHT),
        (~right & whole, COMPLEMENTARY_WEIGHT),
    ]:
        if mask.any():
            losses.append(weight * kd(student[mask], teacher[mask]).sum())
    return sum(losses) / (batch * regions)


class Trainer:
    def __init__(self, options):
        torch.manual_seed(options.seed)
        self.device, self.modern = torch.device(options.device), options.modern
        self.teacher = networks.build(options.pair[0], CLASSES).to(self.device).eval()
        self.student = networks.build(options.pair[1], CLASSES).to(self.device).train()
        rate = 0.01 if options.pair[1].startswith(("shufflenet", "mobilenet")) else 0.05
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        milestones = [round(share * options.epochs) for share in (0.625, 0.75, 0.875)]
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, milestones)
        self.features = [self.teacher.features, self.student.features]
        if self.modern:
            for network in (self.teacher, self.student):
                network.to(memory_format=torch.channels_last)
            self.features = [torch.compile(features) for features in self.features]

    def to_device(self, *tensors):
        return [tensor.to(self.device, non_blocking=True) for tensor in tensors]

    def wait(self):
        if self.device.type != "cpu":
            torch.cuda.synchronize()

    def logits(self, network, features, images):
        """Global logits and those of all regions, in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.modern):
            logits = local_logits(classifier(network), features(images))
        return [each.float() for each in logits]

    def step(self, images, labels):
        teacher_features, student_features = self.features
        if self.modern:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            _, teacher = self.logits(self.teacher, teacher_features, images)
        logits, student = self.logits(self.student, student_features, images)
        loss = CROSS_ENTROPY_WEIGHT * F.cross_entropy(logits, labels)
        loss = loss + DISTILLATION_WEIGHT * sdd_kd(student, teacher, labels)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 40.0)
        self.optimizer.step()
        return loss


class Cifar(Dataset):
    """The images of parquet files, decoded on opening and augmented one by one on access."""

    def __init__(self, directory, split, limit=None):
        import numpy as np
        import pyarrow.parquet
        from PIL import Image

        self.images, self.labels, self.training = [], [], split == "train"
        for path in sorted(pathlib.Path(directory).glob(f"{split}-*.parquet")):
            table = pyarrow.parquet.read_table(path)
            table = table.slice(0, None if limit is None else limit - len(self.images))
            label = "fine_label" if "fine_label" in table.column_names else "label"
            image = "img" if "img" in table.column_names else "image"
            for encoded in table.column(image).to_pylist():
                self.images.append(np.asarray(Image.open(io.BytesIO(encoded["bytes"])).convert("RGB")))
            self.labels.extend(table.column(label).to_pylist())
        if not self.images:
            sys.exit(f"{directory} has no {split}-*.parquet")

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        import numpy as np

        image = self.images[index]
        if self.training:
            padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
            top, left = random.randint(0, 8), random.randint(0, 8)
            image = padded[top : top + 32, left : left + 32]
            if random.random() < 0.5:
                image = image[:, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div(255)
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        return (tensor - mean) / std, self.labels[index]


def evaluate(trainer, network, loader):
    right = total = 0
    network.eval()
    with torch.no_grad():
        for images, labels in loader:
            images, labels = trainer.to_device(images, labels)
            right += (network(images).argmax(1) == labels).sum().item()
            total += len(labels)
    return 100 * right / total


def state_dict(path):
    """Reads weights of torch.save or distillery. A safetensors file is a length, a table of tensors, and their bytes."""
    if not path.endswith(".safetensors"):
        return torch.load(path, weights_only=True)
    content = pathlib.Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    kinds = {"F32": torch.float32, "I64": torch.int64}
    state = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            values = torch.frombuffer(bytearray(content[start + first : start + end]), dtype=kinds[entry["dtype"]])
            state[name] = values.view(entry["shape"])
    return state


def train(options):
    """Trains from opening the files to the last evaluation. Prints a line for the teacher and each epoch."""
    train_set, test_set = Cifar(options.data, "train", options.limit), Cifar(options.data, "test")
    workers = {"num_workers": options.workers, "batch_size": options.batch, "pin_memory": options.device != "cpu"}
    train_loader = DataLoader(train_set, shuffle=True, **workers)
    test_loader = DataLoader(test_set, **workers)
    trainer = Trainer(options)
    if options.teacher_weights:
        trainer.teacher.load_state_dict(state_dict(options.teacher_weights))
    print(json.dumps({"teacher": evaluate(trainer, trainer.teacher, test_loader)}), flush=True)
    for epoch in range(options.epochs):
        trainer.student.train()
        for images, labels in train_loader:
            trainer.step(*trainer.to_device(images, labels))
        trainer.schedule.step()
        print(json.dumps({"epoch": epoch + 1, "top1": evaluate(trainer, trainer.student, test_loader)}), flush=True)


def measure(trainer, batch, options, steps):
    clock = time.process_time if options.processor_time else time.perf_counter
    share = torch.get_num_threads() if options.processor_time else 1
    if trainer.device.type != "cpu":
        # Back to back, as in training.
        trainer.wait()
        begun = clock()
        for _ in range(steps):
            trainer.step(*batch)
        trainer.wait()
        return [1e3 * (clock() - begun) / steps] * steps
    times = []
    for _ in range(steps):
        begun = clock()
        trainer.step(*batch)
        times.append(1e3 * (clock() - begun) / share)
    return times


def answer(trainer, batch, options):
    """Warms up, then measures once, or once for each line of standard input."""
    measure(trainer, batch, options, 3)
    if options.on_request:
        print("ready", flush=True)
        for _ in sys.stdin:
            print(json.dumps(measure(trainer, batch, options, options.steps)), flush=True)
    else:
        print(json.dumps(measure(trainer, batch, options, options.steps)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pair", nargs=2, metavar=("TEACHER", "STUDENT"), default=("resnet32x4", "resnet8x4"))
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--on-request", action="store_true", help="measure --steps steps for each line on standard input")
    parser.add_argument("--modern", action="store_true", help="torch.compile, bfloat16 autocast, channels last; for steps only")
    parser.add_argument("--processor-time", action="store_true", help="measure processor time per thread")
    parser.add_argument("--data", help="directory with train-*.parquet and test-*.parquet: run a whole training")
    parser.add_argument("--teacher-weights", help="a state dict that torch.save wrote, or a safetensors file")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.modern and options.data:
        parser.error("--modern is for steps: leave out --data")
    torch.set_num_threads(options.threads)
    if options.data:
        train(options)
    else:
        trainer = Trainer(options)
        batch = trainer.to_device(torch.randn(options.batch, 3, 32, 32), torch.randint(0, CLASSES, (options.batch,)))
        answer(trainer, batch, options)


if __name__ == "__main__":
    main()
