"""The API's documents. Made by scripts/api-types.mjs from /openapi.json: do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union

if TYPE_CHECKING:
    from typing_extensions import NotRequired


class Architecture(TypedDict):
    family: str
    feature_map_channels: int
    feature_map_side: int
    input_side: int
    macs: int
    name: str
    parameters: int


class Artifact(TypedDict):
    created_at: str
    name: str
    sha256: str
    size_bytes: int


class Attempt(TypedDict):
    attempt: int
    device: NotRequired[str | None]
    ended_at: NotRequired[str | None]
    heard_at: NotRequired[str | None]
    outcome: NotRequired[str | None]
    resumed_epochs: NotRequired[int | None]
    resumed_step: NotRequired[int | None]
    runnable_at: str
    saved_at: NotRequired[str | None]
    started_at: str
    worker: NotRequired[str | None]


Augmentation = Literal["none", "crop_flip", "resized_crop_flip"]


class Baseline(TypedDict):
    deviation: NotRequired[float | None]
    jobs: int
    method: Method
    top1: float


Certainty = Literal["certain", "ambiguous", "near"]


class ChangedJobs(TypedDict):
    ids: NotRequired[list[str] | None]


class Checkpoint(TypedDict):
    architecture: NotRequired[str | None]
    created_at: str
    fits: list[Fit]
    format: CheckpointFormat
    guess: NotRequired[Guess | None]
    id: str
    name: NotRequired[str | None]
    num_classes: NotRequired[int | None]
    parameters: int
    sha256: str
    size_bytes: int
    tensors: int


CheckpointFormat = Literal["safetensors", "torch_zip", "torch_legacy"]


DatasetFormat = Literal["parquet", "folder", "cifar10", "cifar100", "idx"]


class DatasetSpec(TypedDict):
    eval_split: NotRequired[str]
    image_column: NotRequired[str]
    image_size: int
    label_column: NotRequired[str]
    limit: NotRequired[int]
    mean: NotRequired[list[float]]
    name: str
    std: NotRequired[list[float]]
    train_split: NotRequired[str]


class DatasetSpecRequest(TypedDict):
    eval_split: NotRequired[str | None]
    image_column: NotRequired[str | None]
    image_size: NotRequired[int | None]
    label_column: NotRequired[str | None]
    limit: NotRequired[int | None]
    mean: NotRequired[list[float] | None]
    name: str
    std: NotRequired[list[float] | None]
    train_split: NotRequired[str | None]


class Deleted(TypedDict):
    id: str


class DistillationSpec(TypedDict):
    alpha: NotRequired[float]
    beta: NotRequired[float]
    exclude_target: NotRequired[bool]
    gamma: NotRequired[float]
    grouping: NotRequired[Grouping]
    method: Method
    scale_weights: NotRequired[list[float]]
    scales: NotRequired[list[int]]
    temperature: NotRequired[float]
    warmup_epochs: NotRequired[int]
    weights: Weights


class DistillationSpecRequest(TypedDict):
    alpha: NotRequired[float | None]
    beta: NotRequired[float | None]
    exclude_target: NotRequired[bool | None]
    gamma: NotRequired[float | None]
    grouping: NotRequired[Grouping | None]
    method: NotRequired[Method | None]
    scale_weights: NotRequired[list[float] | None]
    scales: NotRequired[list[int] | None]
    temperature: NotRequired[float | None]
    warmup_epochs: NotRequired[int | None]
    weights: NotRequired[WeightsRequest | None]


class DryRun(TypedDict):
    classes: int
    memory: Memory
    spec: JobSpec
    student: NetworkFacts
    teacher: NotRequired[NetworkFacts | None]
    warnings: list[str]


ErrorClass = Literal["user", "oom", "numeric", "worker_lost", "storage", "internal"]


class Evaluation(TypedDict):
    images: int
    loss: float
    top1: float
    top5: float


class Event(TypedDict):
    attempt: int
    data: NotRequired[dict[str, Any] | None]
    kind: EventKind
    message: str
    seq: int
    time: str


EventKind = Literal["status", "log", "warning", "checkpoint", "teacher", "compacted"]


Failure = TypedDict(
    "Failure",
    {
        "class": "ErrorClass",
        "message": "str",
    },
)


class Fault(TypedDict):
    detail: str
    pointer: str


class Fit(TypedDict):
    architecture: str
    num_classes: int


class GpuUsage(TypedDict):
    busy_share: NotRequired[float | None]
    memory_total_bytes: int
    memory_used_bytes: int
    name: str


Grouping = Literal["label", "class"]


class Guess(TypedDict):
    agreement: float
    architecture: str
    certainty: Certainty
    difference: NotRequired[str | None]
    num_classes: NotRequired[int | None]


class Health(TypedDict):
    status: str


class History(TypedDict):
    data: list[Event]
    has_more: bool


class Job(TypedDict):
    attempt: int
    created_at: str
    error: NotRequired[Failure | None]
    finished_at: NotRequired[str | None]
    id: str
    labels: dict[str, str]
    max_attempts: int
    name: str
    priority: int
    progress: NotRequired[Progress | None]
    result: NotRequired[Outcome | None]
    spec: JobSpec
    started_at: NotRequired[str | None]
    status: Status
    teacher: NotRequired[Evaluation | None]
    worker: NotRequired[str | None]


class Progress(TypedDict):
    epoch: int
    epochs: int
    eta_seconds: float
    fraction: float
    images_per_second: float
    step: int
    steps: int


class JobProgress(Progress):
    id: str


class JobSpec(TypedDict):
    dataset: DatasetSpec
    distillation: DistillationSpec
    labels: dict[str, str]
    max_attempts: int
    name: str
    priority: int
    student: StudentSpec
    teacher: NotRequired[TeacherSpec]
    training: TrainingSpec


class JobSpecRequest(TypedDict):
    dataset: DatasetSpecRequest
    distillation: NotRequired[DistillationSpecRequest | None]
    labels: NotRequired[dict[str, str] | None]
    max_attempts: NotRequired[int | None]
    name: NotRequired[str | None]
    priority: NotRequired[int | None]
    student: StudentSpecRequest
    teacher: NotRequired[TeacherSpecRequest | None]
    training: NotRequired[TrainingSpecRequest | None]


class JobSummary(TypedDict):
    attempt: int
    baseline: NotRequired[Baseline | None]
    best_top1: NotRequired[float | None]
    created_at: str
    curve: list[list[float]]
    dataset: NotRequired[str | None]
    error: NotRequired[ErrorClass | None]
    finished_at: NotRequired[str | None]
    gain: NotRequired[float | None]
    id: str
    labels: dict[str, str]
    max_attempts: int
    method: Method
    name: str
    progress: NotRequired[Progress | None]
    seed: int
    started_at: NotRequired[str | None]
    status: Status
    student: str
    teacher: NotRequired[str | None]
    teacher_top1: NotRequired[float | None]
    worker: NotRequired[str | None]


class Label(TypedDict):
    jobs: int
    key: str
    value: str


class LastDay(TypedDict):
    begun: int
    ended: dict[str, int]
    longest_wait_seconds: NotRequired[float | None]
    median_wait_seconds: NotRequired[float | None]
    p95_wait_seconds: NotRequired[float | None]


class List_Architecture(TypedDict):
    data: list[dict[str, Any]]


class List_Artifact(TypedDict):
    data: list[dict[str, Any]]


class List_Attempt(TypedDict):
    data: list[dict[str, Any]]


class List_Label(TypedDict):
    data: list[dict[str, Any]]


class List_Summary(TypedDict):
    data: list[dict[str, Any]]


class List_Worker(TypedDict):
    data: list[dict[str, Any]]


class Memory(TypedDict):
    activations_bytes: int
    method: str
    total_bytes: int
    weights_bytes: int


Method = Literal["none", "kd", "dkd", "nkd", "sdd_kd", "sdd_dkd", "sdd_nkd"]


class Metrics(TypedDict):
    last_id: int
    series: list[Series]


class NetworkFacts(TypedDict):
    architecture: str
    feature_map: list[int]
    macs: int
    parameters: int


NotNew = Union["Job", "DryRun"]


OptimizerSpec = dict[str, Any]


OptimizerSpecRequest = dict[str, Any]


class Outcome(TypedDict):
    best_epoch: int
    best_top1: float
    last_top1: float
    student: StudentFacts
    teacher_top1: NotRequired[float | None]


class Page_Checkpoint(TypedDict):
    data: list[dict[str, Any]]
    has_more: bool
    next: NotRequired[str | None]


class Page_Job(TypedDict):
    data: list[dict[str, Any]]
    has_more: bool
    next: NotRequired[str | None]


class Point(TypedDict):
    attempt: int
    epoch: float
    name: str
    step: int
    time: str
    value: float


Precision = Literal["auto", "float32", "bfloat16"]


class Problem(TypedDict):
    detail: str
    errors: NotRequired[list[Fault]]
    status: int
    title: str
    type: str


class Queue(TypedDict):
    backing_off: int
    held: int
    images_per_second: float
    longest_wait_seconds: NotRequired[float | None]
    paused: int
    ready: int
    waiting_for_teacher: int


ScheduleSpec = dict[str, Any]


ScheduleSpecRequest = dict[str, Any]


Scope = Literal["read", "submit", "admin"]


class Series(TypedDict):
    name: str
    points: list[SeriesPoint]


class SeriesPoint(TypedDict):
    epoch: float
    step: int
    time: str
    value: float


class Session(TypedDict):
    required: bool
    scope: NotRequired[Scope | None]


class SplitSummary(TypedDict):
    images: int
    name: str


Status = Literal["queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"]


class Stored(TypedDict):
    artifacts: int
    artifacts_bytes: int
    checkpoints: int
    checkpoints_bytes: int
    database_bytes: int
    states: int
    states_bytes: int


class Storage(Stored):
    checkpoints_limit_bytes: NotRequired[int | None]
    free_bytes: NotRequired[int | None]


class StudentFacts(TypedDict):
    parameters: int
    sha256: str
    size_bytes: int


class StudentSpec(TypedDict):
    architecture: str
    checkpoint: NotRequired[str]


class StudentSpecRequest(TypedDict):
    architecture: str
    checkpoint: NotRequired[str | None]


class Summaries(TypedDict):
    data: list[JobSummary]
    statuses: dict[str, int]
    total: int


class Summary(TypedDict):
    classes: int
    format: DatasetFormat
    images: int
    name: str
    size_bytes: int
    splits: list[SplitSummary]


class System(TypedDict):
    last_day: LastDay
    queue: Queue
    storage: Storage


class TeacherSpec(TypedDict):
    architecture: str
    checkpoint: NotRequired[str]
    job: NotRequired[str]
    mean: NotRequired[list[float]]
    std: NotRequired[list[float]]


class TeacherSpecRequest(TypedDict):
    architecture: NotRequired[str | None]
    checkpoint: NotRequired[str | None]
    job: NotRequired[str | None]
    mean: NotRequired[list[float] | None]
    std: NotRequired[list[float] | None]


class TrainingSpec(TypedDict):
    augmentation: Augmentation
    batch_size: int
    checkpoint_every_epochs: int
    clip_grad_norm: float | None
    devices: NotRequired[int]
    epochs: int
    eval_every_epochs: int
    optimizer: OptimizerSpec
    precision: Precision
    schedule: ScheduleSpec
    seed: int
    teacher_cache: NotRequired[str]


class TrainingSpecRequest(TypedDict):
    augmentation: NotRequired[Augmentation | None]
    batch_size: NotRequired[int | None]
    checkpoint_every_epochs: NotRequired[int | None]
    clip_grad_norm: NotRequired[float | None]
    devices: NotRequired[int | None]
    epochs: NotRequired[int | None]
    eval_every_epochs: NotRequired[int | None]
    optimizer: NotRequired[OptimizerSpecRequest | None]
    precision: NotRequired[Precision | None]
    schedule: NotRequired[ScheduleSpecRequest | None]
    seed: NotRequired[int | None]
    teacher_cache: NotRequired[str | None]


class Usage(TypedDict):
    cpu_share: NotRequired[float | None]
    gpu: NotRequired[GpuUsage | None]
    memory_total_bytes: NotRequired[int | None]
    memory_used_bytes: NotRequired[int | None]


class Weights(TypedDict):
    complementary: float
    consistent: float
    cross_entropy: float
    distillation: float


class WeightsRequest(TypedDict):
    complementary: NotRequired[float | None]
    consistent: NotRequired[float | None]
    cross_entropy: NotRequired[float | None]
    distillation: NotRequired[float | None]


class Worker(TypedDict):
    busy_share: float
    device: str
    devices: int
    heartbeat_at: str
    id: str
    job: NotRequired[str | None]
    jobs: list[str]
    memory_bytes: NotRequired[int | None]
    name: str
    online: bool
    started_at: str
    usage: NotRequired[Usage | None]
    version: str
    waits_for: NotRequired[str | None]
