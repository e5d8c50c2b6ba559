"""What is trained: experiments by name, and the document of each of their jobs."""

import dataclasses
import hashlib
import json
import re

CIFAR100 = {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

METHODS = ("none", "kd", "sdd_kd", "dkd", "sdd_dkd", "nkd", "sdd_nkd")


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of a table: `sdd_kd`, `sdd_kd+ls` with standardised logits, `sdd_kd:1,2` with scales of its own."""

    name: str
    standardised: bool
    scales: tuple

    FORM = re.compile(r"(?P<name>[a-z_]+)(?P<standardised>\+ls)?(:(?P<scales>[0-9]+(,[0-9]+)*))?")

    @classmethod
    def parse(cls, text):
        form = cls.FORM.fullmatch(text)
        if not form or form["name"] not in METHODS:
            raise ValueError(f"{text!r} is no method: one of {', '.join(METHODS)}, with +ls for standardised logits "
                             "and, after sdd_…, scales, as in sdd_kd+ls:1,2")
        has_regions = form["name"].startswith("sdd_")
        if form["scales"] and not has_regions:
            raise ValueError(f"{text!r}: {form['name']} has no scales; did you mean sdd_{text}?")
        if form["standardised"] and form["name"] == "none":
            raise ValueError(f"{text!r}: none has no teacher, whose logits could be standardised")
        scales = tuple(int(scale) for scale in (form["scales"] or "").split(",") if scale)
        return cls(form["name"], bool(form["standardised"]), scales)

    @property
    def has_regions(self):
        return self.name.startswith("sdd_")

    @property
    def has_warmup(self):
        return self.name.endswith(("dkd", "nkd"))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides about an experiment's jobs but method and seed. Runs are comparable if this is the same
    for all of them, so a file of records has one."""

    dataset: str
    pair: tuple
    epochs: int
    teacher_epochs: int
    schedule: str
    image_size: int = 32
    normalisation: dict = dataclasses.field(default_factory=lambda: CIFAR100)
    scales: tuple = ()
    """Of the sdd_ methods that name none; the server's default for the pair if empty."""
    limit: int = 0
    """Images that students train on; all if 0."""
    teacher_limit: int = 0
    batch_size: int = 64
    views: int = 0
    """Views of each image, whose teacher's logits are kept; with 0 the teacher is evaluated in every epoch."""
    precision: str = ""
    """The server's choice if empty."""
    eval_every_epochs: int = 1

    def settings(self):
        """As it is written to the file of records."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def teacher_document(self):
        return self._document("teacher", self.pair[0], {"method": "none"}, self.teacher_epochs, self.teacher_limit, 0)

    def document(self, method, seed):
        """A student's job, without its teacher."""
        of = Method.parse(method)
        distillation = {"method": of.name}
        if of.has_regions and (of.scales or self.scales):
            distillation["scales"] = list(of.scales or self.scales)
        if of.standardised:
            distillation["logit_standardisation"] = True
        if of.has_warmup:
            # 20 of the published 240 epochs.
            distillation["warmup_epochs"] = max(1, round(20 * self.epochs / 240))
        return self._document(method, self.pair[1], distillation, self.epochs, self.limit, seed)

    def _document(self, method, architecture, distillation, epochs, limit, seed):
        training = {"epochs": epochs, "batch_size": self.batch_size, "seed": seed,
                    "eval_every_epochs": self.eval_every_epochs}
        if self.schedule != "multistep":
            training["schedule"] = {"type": self.schedule}
        if self.precision:
            training["precision"] = self.precision
        if self.views and distillation["method"] != "none":
            training["teacher_cache"] = f"views:{self.views}"
        dataset = {"name": self.dataset, "image_size": self.image_size, **self.normalisation}
        if limit:
            dataset["limit"] = limit
        return {
            "name": f"{' to '.join(self.pair)}: {method}, seed {seed}",
            "student": {"architecture": architecture},
            "dataset": dataset,
            "distillation": distillation,
            "training": training,
        }


def identity(document, teacher=None):
    """The hash that a run is recognised by: of the job's document, without its name, and of its teacher's document. It
    has no id, so that a run is the same on every server."""
    decides = {field: value for field, value in document.items() if field not in ("name", "labels", "teacher")}
    if decides["distillation"]["method"] != "none":
        decides["teacher"] = teacher
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment with the runs that are made unless told otherwise."""

    experiment: Experiment
    methods: tuple
    title: str
    seeds: int = 3
    is_default: bool = True
    """Whether `run` without a name makes it. Otherwise it is for a machine with a GPU."""


# In the order in which `run` without a name makes them: the one that is complete first comes first.
PLANS = {
    "imagewoof": Plan(
        Experiment("imagewoof80", ("resnet20", "resnet8"), epochs=60, teacher_epochs=60, schedule="cosine",
                   image_size=64, normalisation=IMAGENET, views=20),
        methods=("kd", "sdd_kd:1,2", "sdd_kd:1,2,4", "none"),
        title="Fine-grained images: ten breeds of dogs",
    ),
    "cifar100": Plan(
        Experiment("cifar100", ("resnet56", "resnet8"), epochs=60, teacher_epochs=60, schedule="cosine", scales=(1, 2),
                   views=20),
        methods=("none", "kd", "sdd_kd", "dkd", "sdd_dkd", "nkd", "sdd_nkd", "sdd_kd+ls"),
        title="CIFAR-100, students trained out",
    ),
    "published": Plan(
        Experiment("cifar100", ("resnet32x4", "shufflenet_v1"), epochs=240, teacher_epochs=240, schedule="multistep",
                   scales=(1, 2, 4)),
        methods=METHODS,
        title="A row of the published table",
        is_default=False,
    ),
}
