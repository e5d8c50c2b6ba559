#!/usr/bin/env python3
"""Scale decoupled distillation between networks of timm in eager PyTorch: the baseline of benches/exported.py.

    exported.py --pair convnext_atto mobilenetv3_small_050             # milliseconds of each of some training steps
    exported.py --pair vit_tiny_patch16_224 resnet18 --export DIR      # writes DIR/teacher.pt2 and DIR/student.pt2

The recipe is that of step.py, which has its losses. Both networks have random weights that follow from the seed. Run by
.deps/networks/run (scripts/setup networks).
"""

import argparse
import pathlib

import timm
import torch
import torch.nn.functional as F
from torch import nn

import step


def build(name, side):
    """A network for images of `side` pixels. The tokens of a transformer are pooled, so that they form a map."""
    if name.startswith(("vit_", "deit_")):
        return timm.create_model(name, num_classes=step.CLASSES, img_size=side, global_pool="avg")
    return timm.create_model(name, num_classes=step.CLASSES)


def feature_map(network, images):
    """The final feature map [B, C, H, W]."""
    features = network.forward_features(images)
    if features.dim() == 3:
        tokens = features[:, network.num_prefix_tokens :]
        edge = round(tokens.shape[1] ** 0.5)
        features = tokens.transpose(1, 2).unflatten(2, (edge, edge))
    return features


def classify(network, regions):
    """The logits [N, K] of pooled regions [N, C], through the whole head after the pooling."""
    if hasattr(network, "fc_norm"):
        return network.head(network.head_drop(network.fc_norm(regions)))
    # Pooling a single position leaves it as it is.
    return network.forward_head(regions[:, :, None, None])


def local_logits(network, images, scales):
    """Global logits [B, K] and the logits of all regions [B, K, R]; the first scale is 1."""
    features = feature_map(network, images)
    pooled = torch.cat([F.adaptive_avg_pool2d(features, scale).flatten(2) for scale in scales], 2)
    batch, channels, regions = pooled.shape
    logits = classify(network, pooled.transpose(1, 2).reshape(batch * regions, channels))
    logits = logits.reshape(batch, regions, -1).transpose(1, 2)
    return logits[:, :, 0], logits


class Trainer:
    def __init__(self, options):
        torch.manual_seed(0)
        self.device, self.scales = torch.device(options.device), options.scales
        teacher, student = (build(name, options.side) for name in options.pair)
        self.teacher, self.student = teacher.to(self.device).eval(), student.to(self.device).train()
        # At learning rate 0, as in the trainer's bench, all steps compute with numbers of the size that training begins
        # with.
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)

    def wait(self):
        if self.device.type != "cpu":
            torch.cuda.synchronize()

    def step(self, images, labels):
        with torch.no_grad():
            _, teacher = local_logits(self.teacher, images, self.scales)
        logits, student = local_logits(self.student, images, self.scales)
        loss = step.CROSS_ENTROPY_WEIGHT * F.cross_entropy(logits, labels)
        loss = loss + step.DISTILLATION_WEIGHT * step.sdd_kd(student, teacher, labels)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 40.0)
        self.optimizer.step()
        return loss


def export(options):
    torch.manual_seed(0)
    for role, name in zip(("teacher", "student"), options.pair):
        images = torch.zeros(2, 3, options.side, options.side)
        batch = torch.export.Dim("batch", min=2, max=65536)
        program = torch.export.export(build(name, options.side).train(), (images,), dynamic_shapes=({0: batch},))
        torch.export.save(program, options.export / f"{role}.pt2")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pair", nargs=2, required=True, metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--side", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--scales", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--export", type=pathlib.Path, metavar="DIR", help="write both networks there, and measure nothing")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--on-request", action="store_true", help="measure --steps steps for each line on standard input")
    parser.add_argument("--processor-time", action="store_true", help="measure processor time per thread")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.export:
        export(options)
        return
    trainer = Trainer(options)
    images = torch.randn(options.batch, 3, options.side, options.side).to(trainer.device)
    step.answer(trainer, (images, torch.randint(0, step.CLASSES, (options.batch,)).to(trainer.device)), options)


if __name__ == "__main__":
    main()
