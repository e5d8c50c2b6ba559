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
    counted: NotRequired[bool | None]
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


AutoAugment = Literal["rand_augment", "trivial_augment_wide"]


class Axis(TypedDict):
    pointer: str
    values: list[Any]


class Baseline(TypedDict):
    copies: int
    deviation: NotRequired[float | None]
    jobs: int
    method: Method
    top1: float


class BatchLatency(TypedDict):
    batch: int
    fastest_ms: float
    median_ms: float
    runs: int


class Calibration(TypedDict):
    bins: list[CalibrationBin]
    ece: float


class CalibrationBin(TypedDict):
    accuracy: NotRequired[float | None]
    confidence: NotRequired[float | None]
    images: int
    up_to: float


Certainty = Literal["certain", "ambiguous", "near"]


class ChangedJobs(TypedDict):
    ids: list[str] | None


class Checkpoint(TypedDict):
    architecture: NotRequired[str | None]
    created_at: str
    fits: list[Fit]
    format: CheckpointFormat
    guess: NotRequired[Guess | None]
    id: str
    name: NotRequired[str | None]
    network: NotRequired[ExportedNetwork | None]
    notes: list[str]
    num_classes: NotRequired[int | None]
    parameters: int
    sha256: str
    size_bytes: int
    tensors: int


CheckpointFormat = Literal["safetensors", "torch_zip", "torch_legacy", "torch_export"]


ClassPredictions = TypedDict(
    "ClassPredictions",
    {
        "agreement": "NotRequired[float | None]",
        "class": "int",
        "images": "int",
        "name": "NotRequired[str | None]",
        "student": "NotRequired[float | None]",
        "student_predicted": "int",
        "teacher": "NotRequired[float | None]",
        "teacher_predicted": "NotRequired[int | None]",
    },
)


class ClassifierCost(TypedDict):
    macs_per_class: int
    other_parameters: int
    parameters_per_class: int


class CombinationEstimate(TypedDict):
    memory_bytes: int
    number: int
    qualification: NotRequired[Qualification | None]
    settings: dict[str, Any]
    time: NotRequired[Time | None]


class CombinationResult(TypedDict):
    best: NotRequired[float | None]
    copies: int
    cost_seconds: float
    curve: list[list[float]]
    deviation: NotRequired[float | None]
    dropped_after: NotRequired[int | None]
    jobs: list[MemberJob]
    n: int
    number: int
    rank: NotRequired[int | None]
    rungs: list[RungResult]
    settings: dict[str, Any]
    top1: NotRequired[float | None]


class ConfusionCell(TypedDict):
    label: int
    predicted: int
    student: int
    teacher: int


class Constraints(TypedDict):
    latency_64_ms: NotRequired[float | None]
    latency_ms: NotRequired[float | None]
    parameters: NotRequired[float | None]
    size_mb: NotRequired[float | None]


class DatasetClass(TypedDict):
    images: dict[str, int]
    label: int
    name: NotRequired[str | None]


class DatasetClasses(TypedDict):
    listed: list[DatasetClass]
    more: int


class DatasetDetails(TypedDict):
    class_count: int
    classes: DatasetClasses
    format: DatasetFormat
    id: str
    images: int
    name: str
    notes: list[str]
    size_bytes: int
    splits: list[SplitSummary]
    statistics: NotRequired[DatasetStatistics | None]
    statistics_fault: NotRequired[str | None]
    statistics_progress: NotRequired[StatisticsProgress | None]
    unlabelled_splits: list[SplitSummary]
    version: NotRequired[str | None]
    versions: list[DatasetVersion]


DatasetFormat = Literal["parquet", "folder", "cifar10", "cifar100", "idx", "webdataset"]


DatasetImage = TypedDict(
    "DatasetImage",
    {
        "class": "NotRequired[str | None]",
        "fault": "NotRequired[str | None]",
        "label": "NotRequired[int | None]",
        "position": "int",
        "thumbnail": "NotRequired[str | None]",
    },
)


class DatasetList(TypedDict):
    data: list[Summary]
    unfinished: list[UnfinishedUpload]
    unusable: list[UnusableDirectory]


class DatasetSpec(TypedDict):
    eval_crop: NotRequired[EvalCrop]
    eval_fraction: NotRequired[float]
    eval_resize: NotRequired[int]
    eval_split: NotRequired[str]
    fold: NotRequired[int]
    folds: NotRequired[int]
    image_column: NotRequired[str]
    image_size: int
    label_column: NotRequired[str]
    limit: NotRequired[int]
    limit_per_class: NotRequired[int]
    mean: NotRequired[list[float]]
    name: str
    split_seed: NotRequired[int]
    std: NotRequired[list[float]]
    train_split: NotRequired[str]
    unlabelled_split: NotRequired[str]


class DatasetSpecRequest(TypedDict):
    eval_crop: NotRequired[EvalCrop | None]
    eval_fraction: NotRequired[float | None]
    eval_resize: NotRequired[int | None]
    eval_split: NotRequired[str | None]
    fold: NotRequired[int | None]
    folds: NotRequired[int | None]
    image_column: NotRequired[str | None]
    image_size: NotRequired[int | None]
    label_column: NotRequired[str | None]
    limit: NotRequired[int | None]
    limit_per_class: NotRequired[int | None]
    mean: NotRequired[list[float] | None]
    name: str
    split_seed: NotRequired[int | None]
    std: NotRequired[list[float] | None]
    train_split: NotRequired[str | None]
    unlabelled_split: NotRequired[str | None]


class DatasetStatistics(TypedDict):
    duplicates: list[Duplicates]
    mean: NotRequired[list[float] | None]
    splits: list[ExaminedSplit]
    std: NotRequired[list[float] | None]
    warnings: list[str]


class DatasetVersion(TypedDict):
    id: str
    images: int
    size_bytes: int
    uploaded_at: str
    version: str


class Deleted(TypedDict):
    id: str


class DistillationSpec(TypedDict):
    alpha: NotRequired[float]
    beta: NotRequired[float]
    exclude_target: NotRequired[bool]
    gamma: NotRequired[float]
    grouping: NotRequired[Grouping]
    logit_standardisation: NotRequired[bool]
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
    logit_standardisation: NotRequired[bool | None]
    method: NotRequired[Method | None]
    scale_weights: NotRequired[list[float] | None]
    scales: NotRequired[list[int] | None]
    temperature: NotRequired[float | None]
    warmup_epochs: NotRequired[int | None]
    weights: NotRequired[WeightsRequest | None]


class DryRun(TypedDict):
    classes: int
    eval_images: int
    memory: Memory
    qualification: NotRequired[Qualification | None]
    spec: JobSpec
    student: NetworkFacts
    teacher: NotRequired[NetworkFacts | None]
    time: NotRequired[Time | None]
    train_images: int
    warnings: list[str]


class Duplicates(TypedDict):
    contradictory: int
    examples: list[list[int]]
    images: int
    splits: list[str]


ErrorClass = Literal["user", "oom", "numeric", "worker_lost", "storage", "machine", "internal"]


EvalCrop = Literal["whole", "centre"]


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


class ExaminedSplit(TypedDict):
    compared: int
    examined: int
    examples: list[UndecodableImage]
    formats: dict[str, int]
    images: int
    sizes: NotRequired[ImageSizes | None]
    split: str
    undecodable: int


ExportMode = Literal["training", "evaluation", "mixed", "either"]


class ExportedHead(TypedDict):
    begins_after: NotRequired[str | None]
    classifier: NotRequired[str | None]
    is_linear: NotRequired[bool | None]
    keeps_classifier: NotRequired[str | None]
    new_classifier: NotRequired[ClassifierCost | None]
    operators: list[str]


class ExportedMap(TypedDict):
    layout: MapLayout
    shape: list[int]


class ExportedNetwork(TypedDict):
    batch: list[int | None]
    classes: int
    feature_map: NotRequired[ExportedMap | None]
    head: ExportedHead
    input: list[int]
    macs: int
    memory: NotRequired[MemoryDescription]
    mode: ExportMode
    notes: NotRequired[list[str]]
    operators: dict[str, int]
    overlapping: NotRequired[str | None]
    parameters: int
    schema: str
    student_warnings: NotRequired[list[str]]
    torch: NotRequired[str | None]
    warnings: list[str]


class FailedJob(TypedDict):
    error: Failure
    id: str


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


class Group(TypedDict):
    baseline_deviation: NotRequired[float | None]
    best: float
    copies: int
    datasets: int
    deviation: NotRequired[float | None]
    gain: NotRequired[float | None]
    jobs: list[str]
    n: int
    top1: float
    values: list[Any]


Grouping = Literal["label", "class"]


class Groups(TypedDict):
    by: list[str]
    data: list[Group]
    total: int


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


class ImagePage(TypedDict):
    data: list[DatasetImage]
    has_more: bool
    images: int
    next: NotRequired[int | None]
    split: str


class ImageSizes(TypedDict):
    is_uniform: bool
    largest: list[int]
    smallest: list[int]


Interpolation = Literal["nearest", "bilinear"]


class Job(TypedDict):
    attempt: int
    created_at: str
    error: NotRequired[Failure | None]
    finished_at: NotRequired[str | None]
    id: str
    labels: dict[str, str]
    max_attempts: int
    name: str
    notes: NotRequired[str | None]
    priority: int
    progress: NotRequired[Progress | None]
    result: NotRequired[Outcome | None]
    spec: JobSpec
    started_at: NotRequired[str | None]
    status: Status
    student_network: NotRequired[str | None]
    sweep: NotRequired[str | None]
    teacher: NotRequired[Evaluation | None]
    teacher_network: NotRequired[str | None]
    webhooks: NotRequired[list[str]]
    worker: NotRequired[str | None]


class JobChanges(TypedDict):
    labels: NotRequired[dict[str, str | None] | None]
    name: NotRequired[str]
    notes: NotRequired[str | None]
    priority: NotRequired[int]


class JobDetails(Job):
    latency_not_measured: NotRequired[str | None]
    student_facts: NotRequired[NetworkSize | None]
    student_latency: NotRequired[MeasuredStudent | None]
    teacher_facts: NotRequired[NetworkSize | None]


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
    error: NotRequired[str | None]
    finished_at: NotRequired[str | None]
    gain: NotRequired[float | None]
    id: str
    labels: dict[str, str]
    max_attempts: int
    method: str
    name: str
    progress: NotRequired[Progress | None]
    ran_seconds: NotRequired[float | None]
    seed: int
    settings: NotRequired[dict[str, Any]]
    started_at: NotRequired[str | None]
    status: Status
    student: str
    student_names: list[str]
    students: int
    sweep: NotRequired[str | None]
    teacher: NotRequired[str | None]
    teacher_top1: NotRequired[float | None]
    unfinished_students: int
    waiting: NotRequired[Waiting | None]
    worker: NotRequired[str | None]


class KnownSetting(TypedDict):
    jobs: int
    pointer: str
    values: int


class Label(TypedDict):
    jobs: int
    key: str
    value: str


LabelLoss = Literal["cross_entropy", "binary_cross_entropy"]


class LastDay(TypedDict):
    begun: int
    ended: dict[str, int]
    longest_wait_seconds: NotRequired[float | None]
    median_wait_seconds: NotRequired[float | None]
    p95_wait_seconds: NotRequired[float | None]


class Latency(TypedDict):
    batches: list[BatchLatency]
    cpu: str
    load: float
    notes: NotRequired[list[str]]
    processors: int
    runtime: str


class List_Architecture(TypedDict):
    data: list[dict[str, Any]]


class List_Artifact(TypedDict):
    data: list[dict[str, Any]]


class List_Attempt(TypedDict):
    data: list[dict[str, Any]]


class List_KnownSetting(TypedDict):
    data: list[dict[str, Any]]


class List_Label(TypedDict):
    data: list[dict[str, Any]]


class List_Webhook(TypedDict):
    data: list[dict[str, Any]]


class List_WebhookMessage(TypedDict):
    data: list[dict[str, Any]]


class List_Worker(TypedDict):
    data: list[dict[str, Any]]


MapLayout = Literal["channels_first", "channels_last", "tokens"]


class MeasuredStudent(TypedDict):
    failure: NotRequired[str | None]
    latency: NotRequired[Latency | None]
    measured_at: str


class MemberJob(TypedDict):
    best_top1: NotRequired[float | None]
    fraction: NotRequired[float | None]
    id: str
    seed: int
    status: Status


class Memory(TypedDict):
    activations_bytes: int
    method: str
    total_bytes: int
    weights_bytes: int


class MemoryDescription(TypedDict):
    kept_elements: int
    peak_elements: int


Method = Literal["none", "kd", "dkd", "nkd", "ttm", "wttm", "dist", "sdd_kd", "sdd_dkd", "sdd_nkd", "sdd_ttm", "sdd_wttm", "sdd_dist"]


class Metrics(TypedDict):
    last_id: int
    series: list[Series]


class Missed(TypedDict):
    constraint: str
    most: float
    value: float


class NetworkFacts(TypedDict):
    architecture: NotRequired[str | None]
    feature_map: NotRequired[list[int] | None]
    macs: int
    name: str
    parameters: int


NetworkPrediction = TypedDict(
    "NetworkPrediction",
    {
        "class": "NotRequired[str | None]",
        "confidence": "float",
        "label_probability": "float",
        "predicted": "int",
    },
)


class NetworkReport(TypedDict):
    calibration: Calibration
    top1: float


class NetworkSize(TypedDict):
    macs: int
    parameters: int


NotNew = Union["Job", "DryRun"]


NotNewSweep = Union["SweepDetails", "SweepDryRun"]


NotYet = Union["PendingShards", "PartialUpload"]


OptimizerSpec = dict[str, Any]


OptimizerSpecRequest = dict[str, Any]


class Outcome(TypedDict):
    best_epoch: int
    best_top1: float
    last_top1: float
    student: StudentFacts
    teacher_top1: NotRequired[float | None]


class OutcomeCounts(TypedDict):
    both_wrong: int
    right: int
    student_wrong: int
    teacher_wrong: int


class Page_Checkpoint(TypedDict):
    data: list[dict[str, Any]]
    has_more: bool
    next: NotRequired[str | None]


class Page_Job(TypedDict):
    data: list[dict[str, Any]]
    has_more: bool
    next: NotRequired[str | None]


class Page_Sweep(TypedDict):
    data: list[dict[str, Any]]
    has_more: bool
    next: NotRequired[str | None]


class Pareto(TypedDict):
    constraints: Constraints
    data: list[ParetoStudent]
    not_measured: NotRequired[str | None]
    total: int


class Verdict(TypedDict):
    missed: list[Missed]
    qualifies: NotRequired[bool | None]
    unknown: list[str]


class ParetoStudent(Verdict):
    dataset: str
    front: list[str]
    id: str
    latency: NotRequired[Latency | None]
    latency_failure: NotRequired[str | None]
    method: str
    name: str
    parameters: int
    size_mb: float
    student: str
    top1: float


class PartialUpload(TypedDict):
    expires_at: str
    received_bytes: int
    size_bytes: int
    upload: str


class PendingShards(TypedDict):
    expires_at: str
    name: str
    splits: list[PendingSplit]


class PendingSplit(TypedDict):
    missing: list[int]
    shards: int
    split: str


class Point(TypedDict):
    attempt: int
    epoch: float
    name: str
    step: int
    time: str
    value: float


Precision = Literal["auto", "float32", "bfloat16"]


PredictedImage = TypedDict(
    "PredictedImage",
    {
        "class": "NotRequired[str | None]",
        "difference": "float",
        "label": "int",
        "outcome": "PredictionOutcome",
        "picture": "NotRequired[str | None]",
        "position": "int",
        "regions": "NotRequired[RegionPredictions | None]",
        "student": "NetworkPrediction",
        "teacher": "NotRequired[NetworkPrediction | None]",
    },
)


PredictionOutcome = Literal["right", "student_wrong", "teacher_wrong", "both_wrong"]


class PredictionPage(TypedDict):
    data: list[PredictedImage]
    has_more: bool
    images: int
    next: NotRequired[int | None]
    pictured: int
    scales: list[int]
    split: str


class PredictionReport(TypedDict):
    agreement: NotRequired[float | None]
    cells: list[ConfusionCell]
    cells_left_out: int
    classes: list[ClassPredictions]
    images: int
    outcomes: OutcomeCounts
    split: str
    student: NetworkReport
    teacher: NotRequired[NetworkReport | None]


class Problem(TypedDict):
    detail: str
    errors: NotRequired[list[Fault]]
    status: int
    title: str
    type: str


class Qualification(Verdict):
    latency: NotRequired[Latency | None]
    latency_unknown: NotRequired[str | None]
    size_mb: float


class Queue(TypedDict):
    backing_off: int
    held: int
    images_per_second: float
    longest_wait_seconds: NotRequired[float | None]
    paused: int
    ready: int
    waiting_for_teacher: int
    without_worker: int


Recipe = Literal["timm-a3", "torchvision-v2", "deit"]


class RegionPredictions(TypedDict):
    complementary: list[bool]
    student: list[int]
    teacher: list[int]


class RungResult(TypedDict):
    deviation: NotRequired[float | None]
    epochs: int
    jobs: int
    kept: bool
    top1: NotRequired[float | None]


Sampling = Literal["stored", "balanced"]


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
    size_bytes: NotRequired[int]


class StatisticsProgress(TypedDict):
    images: int
    read: int


Status = Literal["queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled", "unknown"]


class Stored(TypedDict):
    artifacts: int
    artifacts_bytes: int
    checkpoints: int
    checkpoints_bytes: int
    database_bytes: int
    datasets: int
    datasets_bytes: int
    states: int
    states_bytes: int


class Storage(Stored):
    checkpoints_limit_bytes: NotRequired[int | None]
    free_bytes: NotRequired[int | None]


Strategy = dict[str, Any]


class StudentFacts(TypedDict):
    parameters: int
    sha256: str
    size_bytes: int


StudentHead = Literal["keep", "new"]


class StudentSpec(TypedDict):
    architecture: NotRequired[str]
    checkpoint: NotRequired[str]
    head: NotRequired[StudentHead]


class StudentSpecRequest(TypedDict):
    architecture: NotRequired[str | None]
    checkpoint: NotRequired[str | None]
    head: NotRequired[StudentHead | None]


class Summaries(TypedDict):
    data: list[JobSummary]
    statuses: dict[str, int]
    total: int


class Summary(TypedDict):
    classes: int
    format: DatasetFormat
    images: int
    name: str
    notes: list[str]
    size_bytes: int
    splits: list[SplitSummary]
    unlabelled_splits: NotRequired[list[SplitSummary]]
    version: NotRequired[str | None]


class Sweep(TypedDict):
    axes: list[Axis]
    combinations: int
    created_at: str
    finished_at: NotRequired[str | None]
    id: str
    jobs: dict[str, int]
    max_parallel: NotRequired[int | None]
    name: str
    next_rung: NotRequired[int | None]
    seeds: int
    status: SweepStatus
    strategy: Strategy
    warnings: list[str]
    webhooks: NotRequired[list[str]]


class SweepDetails(Sweep):
    first_failure: NotRequired[FailedJob | None]
    results: list[CombinationResult]


class SweepDryRun(TypedDict):
    combinations: list[CombinationEstimate]
    device: NotRequired[str | None]
    device_hours: NotRequired[float | None]
    jobs: int
    memory: Memory
    name: str
    seeds: int
    trained_part: float
    warnings: list[str]


class SweepRequest(TypedDict):
    axes: dict[str, list[Any]]
    base: Any
    max_parallel: NotRequired[int | None]
    name: NotRequired[str | None]
    seeds: NotRequired[int | None]
    strategy: NotRequired[Strategy | None]
    webhooks: NotRequired[list[str] | None]


SweepStatus = Literal["running", "paused", "finished", "cancelled", "unknown"]


class System(TypedDict):
    last_day: LastDay
    queue: Queue
    storage: Storage


class TeacherSpec(TypedDict):
    architecture: NotRequired[str]
    checkpoint: NotRequired[str]
    classes: NotRequired[list[str]]
    job: NotRequired[str]
    mean: NotRequired[list[float]]
    min_top1: NotRequired[float]
    std: NotRequired[list[float]]


class TeacherSpecRequest(TypedDict):
    architecture: NotRequired[str | None]
    checkpoint: NotRequired[str | None]
    classes: NotRequired[list[str] | None]
    job: NotRequired[str | None]
    mean: NotRequired[list[float] | None]
    min_top1: NotRequired[float | None]
    std: NotRequired[list[float] | None]


class Time(TypedDict):
    device: str
    images_per_second: float
    measured_jobs: int
    method: str
    seconds: float


class TrainingSpec(TypedDict):
    augmentation: Augmentation
    auto_augment: NotRequired[AutoAugment]
    auto_augment_interpolation: NotRequired[Interpolation]
    batch_size: int
    body_learning_rate_scale: NotRequired[float]
    checkpoint_every_epochs: int
    class_weights: NotRequired[list[float] | str]
    clip_grad_norm: float | None
    cutmix_alpha: NotRequired[float]
    decay_biases_and_norms: NotRequired[bool]
    devices: NotRequired[int]
    early_stopping_patience: NotRequired[int]
    ema_decay: NotRequired[float]
    epochs: int
    eval_every_epochs: int
    gradient_accumulation: NotRequired[int]
    label_loss: NotRequired[LabelLoss]
    label_smoothing: NotRequired[float]
    label_threshold: NotRequired[float | None]
    mixup_alpha: NotRequired[float]
    optimizer: OptimizerSpec
    precision: Precision
    rand_augment_magnitude: NotRequired[int]
    rand_augment_ops: NotRequired[int]
    random_erasing: NotRequired[float]
    sampling: NotRequired[Sampling]
    schedule: ScheduleSpec
    seed: int
    teacher_cache: NotRequired[str]


class TrainingSpecRequest(TypedDict):
    augmentation: NotRequired[Augmentation | None]
    auto_augment: NotRequired[AutoAugment | None]
    auto_augment_interpolation: NotRequired[Interpolation | None]
    batch_size: NotRequired[int | None]
    body_learning_rate_scale: NotRequired[float | None]
    checkpoint_every_epochs: NotRequired[int | None]
    class_weights: NotRequired[list[float] | str | None]
    clip_grad_norm: NotRequired[float | None]
    cutmix_alpha: NotRequired[float | None]
    decay_biases_and_norms: NotRequired[bool | None]
    devices: NotRequired[int | None]
    early_stopping_patience: NotRequired[int | None]
    ema_decay: NotRequired[float | None]
    epochs: NotRequired[int | None]
    eval_every_epochs: NotRequired[int | None]
    gradient_accumulation: NotRequired[int | None]
    label_loss: NotRequired[LabelLoss | None]
    label_smoothing: NotRequired[float | None]
    label_threshold: NotRequired[float | None]
    mixup_alpha: NotRequired[float | None]
    optimizer: NotRequired[OptimizerSpecRequest | None]
    precision: NotRequired[Precision | None]
    rand_augment_magnitude: NotRequired[int | None]
    rand_augment_ops: NotRequired[int | None]
    random_erasing: NotRequired[float | None]
    recipe: NotRequired[Recipe | None]
    sampling: NotRequired[Sampling | None]
    schedule: NotRequired[ScheduleSpecRequest | None]
    seed: NotRequired[int | None]
    teacher_cache: NotRequired[str | None]


class UndecodableImage(TypedDict):
    file: NotRequired[str | None]
    position: int
    reason: str


class UnfinishedUpload(TypedDict):
    expires_at: str
    name: str
    next: str
    received_bytes: int
    shards: NotRequired[int | None]
    shards_here: NotRequired[int | None]
    size_bytes: NotRequired[int | None]
    split: NotRequired[str | None]
    upload: NotRequired[str | None]


class UnusableDirectory(TypedDict):
    name: str
    reason: str


class Updates(TypedDict):
    events: list[Event]
    has_more: bool
    job: Job
    next: str
    points: list[Point]


class Usage(TypedDict):
    cpu_share: NotRequired[float | None]
    gpu: NotRequired[GpuUsage | None]
    memory_total_bytes: NotRequired[int | None]
    memory_used_bytes: NotRequired[int | None]


WaitReason = Literal["teacher", "backoff", "no_worker", "version", "devices", "dataset", "declined", "sweep", "turn", "start"]


class Waiting(TypedDict):
    detail: str
    position: NotRequired[int | None]
    reason: WaitReason
    starts_in_seconds: NotRequired[float | None]


class WaitingShard(TypedDict):
    sha256: str
    shard: int
    size_bytes: int


class WaitingShardList(TypedDict):
    data: list[WaitingShard]
    shards: int


class Webhook(TypedDict):
    name: str


class WebhookMessage(TypedDict):
    attempts: int
    created_at: str
    delivered_at: NotRequired[str | None]
    id: str
    last_error: NotRequired[str | None]
    next_attempt_at: NotRequired[str | None]
    type: str
    webhook: str


class Weights(TypedDict):
    clustering: NotRequired[float]
    complementary: float
    consistent: float
    cross_entropy: float
    distillation: float


class WeightsRequest(TypedDict):
    clustering: NotRequired[float | None]
    complementary: NotRequired[float | None]
    consistent: NotRequired[float | None]
    cross_entropy: NotRequired[float | None]
    distillation: NotRequired[float | None]


class Worker(TypedDict):
    busy_share: float
    dataset_cache_bytes: NotRequired[int | None]
    datasets: NotRequired[dict[str, str] | None]
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
    stopped_because: NotRequired[str | None]
    usage: NotRequired[Usage | None]
    version: str
    waits_for: NotRequired[str | None]
