// Made by scripts/api-types.mjs from /openapi.json: do not edit.

interface Schemas {
  Architecture: {
    family: string;
    feature_map_channels: number;
    feature_map_side: number;
    input_side: number;
    macs: number;
    name: string;
    parameters: number;
  };
  Artifact: {
    created_at: string;
    name: string;
    sha256: string;
    size_bytes: number;
  };
  Attempt: {
    attempt: number;
    counted?: boolean | null;
    device?: string | null;
    ended_at?: string | null;
    heard_at?: string | null;
    outcome?: string | null;
    resumed_epochs?: number | null;
    resumed_step?: number | null;
    runnable_at: string;
    saved_at?: string | null;
    started_at: string;
    worker?: string | null;
  };
  Augmentation: "none" | "crop_flip" | "resized_crop_flip";
  AutoAugment: "rand_augment" | "trivial_augment_wide";
  Axis: {
    pointer: string;
    values: unknown[];
  };
  Baseline: {
    copies: number;
    deviation?: number | null;
    jobs: number;
    method: Schemas['Method'];
    top1: number;
  };
  BatchLatency: {
    batch: number;
    fastest_ms: number;
    median_ms: number;
    runs: number;
  };
  Calibration: {
    bins: Schemas['CalibrationBin'][];
    ece: number;
  };
  CalibrationBin: {
    accuracy?: number | null;
    confidence?: number | null;
    images: number;
    up_to: number;
  };
  Certainty: "certain" | "ambiguous" | "near";
  ChangedJobs: {
    ids: string[] | null;
  };
  Checkpoint: {
    architecture?: string | null;
    created_at: string;
    fits: Schemas['Fit'][];
    format: Schemas['CheckpointFormat'];
    guess?: Schemas['Guess'] | null;
    id: string;
    name?: string | null;
    network?: Schemas['ExportedNetwork'] | null;
    notes: string[];
    num_classes?: number | null;
    parameters: number;
    sha256: string;
    size_bytes: number;
    tensors: number;
  };
  CheckpointFormat: "safetensors" | "torch_zip" | "torch_legacy" | "torch_export";
  ClassPredictions: {
    agreement?: number | null;
    class: number;
    images: number;
    name?: string | null;
    student?: number | null;
    student_predicted: number;
    teacher?: number | null;
    teacher_predicted?: number | null;
  };
  ClassifierCost: {
    macs_per_class: number;
    other_parameters: number;
    parameters_per_class: number;
  };
  CombinationEstimate: {
    memory_bytes: number;
    number: number;
    qualification?: Schemas['Qualification'] | null;
    settings: Record<string, unknown>;
    time?: Schemas['Time'] | null;
  };
  CombinationResult: {
    best?: number | null;
    copies: number;
    cost_seconds: number;
    curve: number[][];
    deviation?: number | null;
    dropped_after?: number | null;
    jobs: Schemas['MemberJob'][];
    n: number;
    number: number;
    rank?: number | null;
    rungs: Schemas['RungResult'][];
    settings: Record<string, unknown>;
    top1?: number | null;
  };
  ConfusionCell: {
    label: number;
    predicted: number;
    student: number;
    teacher: number;
  };
  Constraints: {
    latency_64_ms?: number | null;
    latency_ms?: number | null;
    parameters?: number | null;
    size_mb?: number | null;
  };
  DatasetClass: {
    images: Record<string, number>;
    label: number;
    name?: string | null;
  };
  DatasetClasses: {
    listed: Schemas['DatasetClass'][];
    more: number;
  };
  DatasetDetails: {
    class_count: number;
    classes: Schemas['DatasetClasses'];
    format: Schemas['DatasetFormat'];
    id: string;
    images: number;
    name: string;
    notes: string[];
    size_bytes: number;
    splits: Schemas['SplitSummary'][];
    statistics?: Schemas['DatasetStatistics'] | null;
    statistics_fault?: string | null;
    statistics_progress?: Schemas['StatisticsProgress'] | null;
    unlabelled_splits: Schemas['SplitSummary'][];
    version?: string | null;
    versions: Schemas['DatasetVersion'][];
  };
  DatasetFormat: "parquet" | "folder" | "cifar10" | "cifar100" | "idx" | "webdataset";
  DatasetImage: {
    class?: string | null;
    fault?: string | null;
    label?: number | null;
    position: number;
    thumbnail?: string | null;
  };
  DatasetList: {
    data: Schemas['Summary'][];
    unfinished: Schemas['UnfinishedUpload'][];
    unusable: Schemas['UnusableDirectory'][];
  };
  DatasetSpec: {
    eval_crop?: Schemas['EvalCrop'];
    eval_fraction?: number;
    eval_resize?: number;
    eval_split?: string;
    fold?: number;
    folds?: number;
    image_column?: string;
    image_size: number;
    label_column?: string;
    limit?: number;
    limit_per_class?: number;
    mean?: number[];
    name: string;
    split_seed?: number;
    std?: number[];
    train_split?: string;
    unlabelled_split?: string;
  };
  DatasetSpecRequest: {
    eval_crop?: Schemas['EvalCrop'] | null;
    eval_fraction?: number | null;
    eval_resize?: number | null;
    eval_split?: string | null;
    fold?: number | null;
    folds?: number | null;
    image_column?: string | null;
    image_size?: number | null;
    label_column?: string | null;
    limit?: number | null;
    limit_per_class?: number | null;
    mean?: number[] | null;
    name: string;
    split_seed?: number | null;
    std?: number[] | null;
    train_split?: string | null;
    unlabelled_split?: string | null;
  };
  DatasetStatistics: {
    duplicates: Schemas['Duplicates'][];
    mean?: number[] | null;
    splits: Schemas['ExaminedSplit'][];
    std?: number[] | null;
    warnings: string[];
  };
  DatasetVersion: {
    id: string;
    images: number;
    size_bytes: number;
    uploaded_at: string;
    version: string;
  };
  Deleted: {
    id: string;
  };
  DistillationSpec: {
    alpha?: number;
    beta?: number;
    exclude_target?: boolean;
    gamma?: number;
    grouping?: Schemas['Grouping'];
    logit_standardisation?: boolean;
    method: Schemas['Method'];
    scale_weights?: number[];
    scales?: number[];
    temperature?: number;
    warmup_epochs?: number;
    weights: Schemas['Weights'];
  };
  DistillationSpecRequest: {
    alpha?: number | null;
    beta?: number | null;
    exclude_target?: boolean | null;
    gamma?: number | null;
    grouping?: Schemas['Grouping'] | null;
    logit_standardisation?: boolean | null;
    method?: Schemas['Method'] | null;
    scale_weights?: number[] | null;
    scales?: number[] | null;
    temperature?: number | null;
    warmup_epochs?: number | null;
    weights?: Schemas['WeightsRequest'] | null;
  };
  DryRun: {
    classes: number;
    eval_images: number;
    memory: Schemas['Memory'];
    qualification?: Schemas['Qualification'] | null;
    spec: Schemas['JobSpec'];
    student: Schemas['NetworkFacts'];
    teacher?: Schemas['NetworkFacts'] | null;
    time?: Schemas['Time'] | null;
    train_images: number;
    warnings: string[];
  };
  Duplicates: {
    contradictory: number;
    examples: number[][];
    images: number;
    splits: string[];
  };
  ErrorClass: "user" | "oom" | "numeric" | "worker_lost" | "storage" | "machine" | "internal";
  EvalCrop: "whole" | "centre";
  Evaluation: {
    images: number;
    loss: number;
    top1: number;
    top5: number;
  };
  Event: {
    attempt: number;
    data?: Record<string, unknown> | null;
    kind: Schemas['EventKind'];
    message: string;
    seq: number;
    time: string;
  };
  EventKind: "status" | "log" | "warning" | "checkpoint" | "teacher" | "compacted";
  ExaminedSplit: {
    compared: number;
    examined: number;
    examples: Schemas['UndecodableImage'][];
    formats: Record<string, number>;
    images: number;
    sizes?: Schemas['ImageSizes'] | null;
    split: string;
    undecodable: number;
  };
  ExportMode: "training" | "evaluation" | "mixed" | "either";
  ExportedHead: {
    begins_after?: string | null;
    classifier?: string | null;
    is_linear?: boolean | null;
    keeps_classifier?: string | null;
    new_classifier?: Schemas['ClassifierCost'] | null;
    operators: string[];
  };
  ExportedMap: {
    layout: Schemas['MapLayout'];
    shape: number[];
  };
  ExportedNetwork: {
    batch: (number | null)[];
    classes: number;
    feature_map?: Schemas['ExportedMap'] | null;
    head: Schemas['ExportedHead'];
    input: number[];
    macs: number;
    memory?: Schemas['MemoryDescription'];
    mode: Schemas['ExportMode'];
    notes?: string[];
    operators: Record<string, number>;
    overlapping?: string | null;
    parameters: number;
    schema: string;
    student_warnings?: string[];
    torch?: string | null;
    warnings: string[];
  };
  FailedJob: {
    error: Schemas['Failure'];
    id: string;
  };
  Failure: {
    class: Schemas['ErrorClass'];
    message: string;
  };
  Fault: {
    detail: string;
    pointer: string;
  };
  Fit: {
    architecture: string;
    num_classes: number;
  };
  GpuUsage: {
    busy_share?: number | null;
    memory_total_bytes: number;
    memory_used_bytes: number;
    name: string;
  };
  Group: {
    baseline_deviation?: number | null;
    best: number;
    copies: number;
    datasets: number;
    deviation?: number | null;
    gain?: number | null;
    jobs: string[];
    n: number;
    top1: number;
    values: unknown[];
  };
  Grouping: "label" | "class";
  Groups: {
    by: string[];
    data: Schemas['Group'][];
    total: number;
  };
  Guess: {
    agreement: number;
    architecture: string;
    certainty: Schemas['Certainty'];
    difference?: string | null;
    num_classes?: number | null;
  };
  Health: {
    status: string;
  };
  History: {
    data: Schemas['Event'][];
    has_more: boolean;
  };
  ImagePage: {
    data: Schemas['DatasetImage'][];
    has_more: boolean;
    images: number;
    next?: number | null;
    split: string;
  };
  ImageSizes: {
    is_uniform: boolean;
    largest: number[];
    smallest: number[];
  };
  Interpolation: "nearest" | "bilinear";
  Job: {
    attempt: number;
    created_at: string;
    error?: Schemas['Failure'] | null;
    finished_at?: string | null;
    id: string;
    labels: Record<string, string>;
    max_attempts: number;
    name: string;
    notes?: string | null;
    priority: number;
    progress?: Schemas['Progress'] | null;
    result?: Schemas['Outcome'] | null;
    spec: Schemas['JobSpec'];
    started_at?: string | null;
    status: Schemas['Status'];
    student_network?: string | null;
    sweep?: string | null;
    teacher?: Schemas['Evaluation'] | null;
    teacher_network?: string | null;
    webhooks?: string[];
    worker?: string | null;
  };
  JobChanges: {
    labels?: Record<string, string | null> | null;
    name?: string;
    notes?: string | null;
    priority?: number;
  };
  JobDetails: Schemas['Job'] & {
    latency_not_measured?: string | null;
    student_facts?: Schemas['NetworkSize'] | null;
    student_latency?: Schemas['MeasuredStudent'] | null;
    teacher_facts?: Schemas['NetworkSize'] | null;
  };
  JobProgress: Schemas['Progress'] & {
    id: string;
  };
  JobSpec: {
    dataset: Schemas['DatasetSpec'];
    distillation: Schemas['DistillationSpec'];
    labels: Record<string, string>;
    max_attempts: number;
    name: string;
    priority: number;
    student: Schemas['StudentSpec'];
    teacher?: Schemas['TeacherSpec'];
    training: Schemas['TrainingSpec'];
  };
  JobSpecRequest: {
    dataset: Schemas['DatasetSpecRequest'];
    distillation?: Schemas['DistillationSpecRequest'] | null;
    labels?: Record<string, string> | null;
    max_attempts?: number | null;
    name?: string | null;
    priority?: number | null;
    student: Schemas['StudentSpecRequest'];
    teacher?: Schemas['TeacherSpecRequest'] | null;
    training?: Schemas['TrainingSpecRequest'] | null;
  };
  JobSummary: {
    attempt: number;
    baseline?: Schemas['Baseline'] | null;
    best_top1?: number | null;
    created_at: string;
    curve: number[][];
    dataset?: string | null;
    error?: string | null;
    finished_at?: string | null;
    gain?: number | null;
    id: string;
    labels: Record<string, string>;
    max_attempts: number;
    method: string;
    name: string;
    progress?: Schemas['Progress'] | null;
    ran_seconds?: number | null;
    seed: number;
    settings?: Record<string, unknown>;
    started_at?: string | null;
    status: Schemas['Status'];
    student: string;
    student_names: string[];
    students: number;
    sweep?: string | null;
    teacher?: string | null;
    teacher_top1?: number | null;
    unfinished_students: number;
    waiting?: Schemas['Waiting'] | null;
    worker?: string | null;
  };
  KnownSetting: {
    jobs: number;
    pointer: string;
    values: number;
  };
  Label: {
    jobs: number;
    key: string;
    value: string;
  };
  LabelLoss: "cross_entropy" | "binary_cross_entropy";
  LastDay: {
    begun: number;
    ended: Record<string, number>;
    longest_wait_seconds?: number | null;
    median_wait_seconds?: number | null;
    p95_wait_seconds?: number | null;
  };
  Latency: {
    batches: Schemas['BatchLatency'][];
    cpu: string;
    load: number;
    notes?: string[];
    processors: number;
    runtime: string;
  };
  List_Architecture: {
    data: ({
      family: string;
      feature_map_channels: number;
      feature_map_side: number;
      input_side: number;
      macs: number;
      name: string;
      parameters: number;
    })[];
  };
  List_Artifact: {
    data: ({
      created_at: string;
      name: string;
      sha256: string;
      size_bytes: number;
    })[];
  };
  List_Attempt: {
    data: ({
      attempt: number;
      counted?: boolean | null;
      device?: string | null;
      ended_at?: string | null;
      heard_at?: string | null;
      outcome?: string | null;
      resumed_epochs?: number | null;
      resumed_step?: number | null;
      runnable_at: string;
      saved_at?: string | null;
      started_at: string;
      worker?: string | null;
    })[];
  };
  List_KnownSetting: {
    data: ({
      jobs: number;
      pointer: string;
      values: number;
    })[];
  };
  List_Label: {
    data: ({
      jobs: number;
      key: string;
      value: string;
    })[];
  };
  List_Webhook: {
    data: ({
      name: string;
    })[];
  };
  List_WebhookMessage: {
    data: ({
      attempts: number;
      created_at: string;
      delivered_at?: string | null;
      id: string;
      last_error?: string | null;
      next_attempt_at?: string | null;
      type: string;
      webhook: string;
    })[];
  };
  List_Worker: {
    data: ({
      busy_share: number;
      dataset_cache_bytes?: number | null;
      datasets?: Record<string, string> | null;
      device: string;
      devices: number;
      heartbeat_at: string;
      id: string;
      job?: string | null;
      jobs: string[];
      memory_bytes?: number | null;
      name: string;
      online: boolean;
      started_at: string;
      stopped_because?: string | null;
      usage?: Schemas['Usage'] | null;
      version: string;
      waits_for?: string | null;
    })[];
  };
  MapLayout: "channels_first" | "channels_last" | "tokens";
  MeasuredStudent: {
    failure?: string | null;
    latency?: Schemas['Latency'] | null;
    measured_at: string;
  };
  MemberJob: {
    best_top1?: number | null;
    fraction?: number | null;
    id: string;
    seed: number;
    status: Schemas['Status'];
  };
  Memory: {
    activations_bytes: number;
    method: string;
    total_bytes: number;
    weights_bytes: number;
  };
  MemoryDescription: {
    kept_elements: number;
    peak_elements: number;
  };
  Method: "none" | "kd" | "dkd" | "nkd" | "ttm" | "wttm" | "dist" | "sdd_kd" | "sdd_dkd" | "sdd_nkd" | "sdd_ttm" | "sdd_wttm" | "sdd_dist";
  Metrics: {
    last_id: number;
    series: Schemas['Series'][];
  };
  Missed: {
    constraint: string;
    most: number;
    value: number;
  };
  NetworkFacts: {
    architecture?: string | null;
    feature_map?: number[] | null;
    macs: number;
    name: string;
    parameters: number;
  };
  NetworkPrediction: {
    class?: string | null;
    confidence: number;
    label_probability: number;
    predicted: number;
  };
  NetworkReport: {
    calibration: Schemas['Calibration'];
    top1: number;
  };
  NetworkSize: {
    macs: number;
    parameters: number;
  };
  NotNew: Schemas['Job'] | Schemas['DryRun'];
  NotNewSweep: Schemas['SweepDetails'] | Schemas['SweepDryRun'];
  NotYet: Schemas['PendingShards'] | Schemas['PartialUpload'];
  OptimizerSpec: {
    learning_rate: number;
    momentum: number;
    nesterov: boolean;
    type: "sgd";
    weight_decay: number;
  } | {
    beta1: number;
    beta2: number;
    learning_rate: number;
    type: "adamw";
    weight_decay: number;
  } | {
    beta1: number;
    beta2: number;
    learning_rate: number;
    type: "lamb";
    weight_decay: number;
  };
  OptimizerSpecRequest: {
    learning_rate?: number | null;
    momentum?: number | null;
    nesterov?: boolean | null;
    type?: "sgd";
    weight_decay?: number | null;
  } | {
    beta1?: number | null;
    beta2?: number | null;
    learning_rate?: number | null;
    type?: "adamw";
    weight_decay?: number | null;
  } | {
    beta1?: number | null;
    beta2?: number | null;
    learning_rate?: number | null;
    type?: "lamb";
    weight_decay?: number | null;
  };
  Outcome: {
    best_epoch: number;
    best_top1: number;
    last_top1: number;
    student: Schemas['StudentFacts'];
    teacher_top1?: number | null;
  };
  OutcomeCounts: {
    both_wrong: number;
    right: number;
    student_wrong: number;
    teacher_wrong: number;
  };
  Page_Checkpoint: {
    data: ({
      architecture?: string | null;
      created_at: string;
      fits: Schemas['Fit'][];
      format: Schemas['CheckpointFormat'];
      guess?: Schemas['Guess'] | null;
      id: string;
      name?: string | null;
      network?: Schemas['ExportedNetwork'] | null;
      notes: string[];
      num_classes?: number | null;
      parameters: number;
      sha256: string;
      size_bytes: number;
      tensors: number;
    })[];
    has_more: boolean;
    next?: string | null;
  };
  Page_Job: {
    data: ({
      attempt: number;
      created_at: string;
      error?: Schemas['Failure'] | null;
      finished_at?: string | null;
      id: string;
      labels: Record<string, string>;
      max_attempts: number;
      name: string;
      notes?: string | null;
      priority: number;
      progress?: Schemas['Progress'] | null;
      result?: Schemas['Outcome'] | null;
      spec: Schemas['JobSpec'];
      started_at?: string | null;
      status: Schemas['Status'];
      student_network?: string | null;
      sweep?: string | null;
      teacher?: Schemas['Evaluation'] | null;
      teacher_network?: string | null;
      webhooks?: string[];
      worker?: string | null;
    })[];
    has_more: boolean;
    next?: string | null;
  };
  Page_Sweep: {
    data: ({
      axes: Schemas['Axis'][];
      combinations: number;
      created_at: string;
      finished_at?: string | null;
      id: string;
      jobs: Record<string, number>;
      max_parallel?: number | null;
      name: string;
      next_rung?: number | null;
      seeds: number;
      status: Schemas['SweepStatus'];
      strategy: Schemas['Strategy'];
      warnings: string[];
      webhooks?: string[];
    })[];
    has_more: boolean;
    next?: string | null;
  };
  Pareto: {
    constraints: Schemas['Constraints'];
    data: Schemas['ParetoStudent'][];
    not_measured?: string | null;
    total: number;
  };
  ParetoStudent: Schemas['Verdict'] & {
    dataset: string;
    front: string[];
    id: string;
    latency?: Schemas['Latency'] | null;
    latency_failure?: string | null;
    method: string;
    name: string;
    parameters: number;
    size_mb: number;
    student: string;
    top1: number;
  };
  PartialUpload: {
    expires_at: string;
    received_bytes: number;
    size_bytes: number;
    upload: string;
  };
  PendingShards: {
    expires_at: string;
    name: string;
    splits: Schemas['PendingSplit'][];
  };
  PendingSplit: {
    missing: number[];
    shards: number;
    split: string;
  };
  Point: {
    attempt: number;
    epoch: number;
    name: string;
    step: number;
    time: string;
    value: number;
  };
  Precision: "auto" | "float32" | "bfloat16";
  PredictedImage: {
    class?: string | null;
    difference: number;
    label: number;
    outcome: Schemas['PredictionOutcome'];
    picture?: string | null;
    position: number;
    regions?: Schemas['RegionPredictions'] | null;
    student: Schemas['NetworkPrediction'];
    teacher?: Schemas['NetworkPrediction'] | null;
  };
  PredictionOutcome: "right" | "student_wrong" | "teacher_wrong" | "both_wrong";
  PredictionPage: {
    data: Schemas['PredictedImage'][];
    has_more: boolean;
    images: number;
    next?: number | null;
    pictured: number;
    scales: number[];
    split: string;
  };
  PredictionReport: {
    agreement?: number | null;
    cells: Schemas['ConfusionCell'][];
    cells_left_out: number;
    classes: Schemas['ClassPredictions'][];
    images: number;
    outcomes: Schemas['OutcomeCounts'];
    split: string;
    student: Schemas['NetworkReport'];
    teacher?: Schemas['NetworkReport'] | null;
  };
  Problem: {
    detail: string;
    errors?: Schemas['Fault'][];
    status: number;
    title: string;
    type: string;
  };
  Progress: {
    epoch: number;
    epochs: number;
    eta_seconds: number;
    fraction: number;
    images_per_second: number;
    step: number;
    steps: number;
  };
  Qualification: Schemas['Verdict'] & {
    latency?: Schemas['Latency'] | null;
    latency_unknown?: string | null;
    size_mb: number;
  };
  Queue: {
    backing_off: number;
    held: number;
    images_per_second: number;
    longest_wait_seconds?: number | null;
    paused: number;
    ready: number;
    waiting_for_teacher: number;
    without_worker: number;
  };
  Recipe: "timm-a3" | "torchvision-v2" | "deit";
  RegionPredictions: {
    complementary: boolean[];
    student: number[];
    teacher: number[];
  };
  RungResult: {
    deviation?: number | null;
    epochs: number;
    jobs: number;
    kept: boolean;
    top1?: number | null;
  };
  Sampling: "stored" | "balanced";
  ScheduleSpec: {
    gamma: number;
    milestones: number[];
    type: "multistep";
  } | {
    type: "cosine";
    warmup_epochs: number;
  } | {
    type: "constant";
  };
  ScheduleSpecRequest: {
    gamma?: number | null;
    milestones?: number[] | null;
    type?: "multistep";
  } | {
    type?: "cosine";
    warmup_epochs?: number | null;
  } | {
    type?: "constant";
  };
  Scope: "read" | "submit" | "admin";
  Series: {
    name: string;
    points: Schemas['SeriesPoint'][];
  };
  SeriesPoint: {
    epoch: number;
    step: number;
    time: string;
    value: number;
  };
  Session: {
    required: boolean;
    scope?: Schemas['Scope'] | null;
  };
  SplitSummary: {
    images: number;
    name: string;
    size_bytes?: number;
  };
  StatisticsProgress: {
    images: number;
    read: number;
  };
  Status: "queued" | "running" | "pausing" | "paused" | "cancelling" | "succeeded" | "failed" | "cancelled" | "unknown";
  Storage: Schemas['Stored'] & {
    checkpoints_limit_bytes?: number | null;
    free_bytes?: number | null;
  };
  Stored: {
    artifacts: number;
    artifacts_bytes: number;
    checkpoints: number;
    checkpoints_bytes: number;
    database_bytes: number;
    datasets: number;
    datasets_bytes: number;
    states: number;
    states_bytes: number;
  };
  Strategy: {
    type: "grid";
  } | {
    jobs: number;
    seed?: number;
    type: "random";
  } | {
    keep?: number;
    rungs: number[];
    type: "halving";
  };
  StudentFacts: {
    parameters: number;
    sha256: string;
    size_bytes: number;
  };
  StudentHead: "keep" | "new";
  StudentSpec: {
    architecture?: string;
    checkpoint?: string;
    head?: Schemas['StudentHead'];
  };
  StudentSpecRequest: {
    architecture?: string | null;
    checkpoint?: string | null;
    head?: Schemas['StudentHead'] | null;
  };
  Summaries: {
    data: Schemas['JobSummary'][];
    statuses: Record<string, number>;
    total: number;
  };
  Summary: {
    classes: number;
    format: Schemas['DatasetFormat'];
    images: number;
    name: string;
    notes: string[];
    size_bytes: number;
    splits: Schemas['SplitSummary'][];
    unlabelled_splits?: Schemas['SplitSummary'][];
    version?: string | null;
  };
  Sweep: {
    axes: Schemas['Axis'][];
    combinations: number;
    created_at: string;
    finished_at?: string | null;
    id: string;
    jobs: Record<string, number>;
    max_parallel?: number | null;
    name: string;
    next_rung?: number | null;
    seeds: number;
    status: Schemas['SweepStatus'];
    strategy: Schemas['Strategy'];
    warnings: string[];
    webhooks?: string[];
  };
  SweepDetails: Schemas['Sweep'] & {
    first_failure?: Schemas['FailedJob'] | null;
    results: Schemas['CombinationResult'][];
  };
  SweepDryRun: {
    combinations: Schemas['CombinationEstimate'][];
    device?: string | null;
    device_hours?: number | null;
    jobs: number;
    memory: Schemas['Memory'];
    name: string;
    seeds: number;
    trained_part: number;
    warnings: string[];
  };
  SweepRequest: {
    axes: Record<string, unknown[]>;
    base: unknown;
    max_parallel?: number | null;
    name?: string | null;
    seeds?: number | null;
    strategy?: Schemas['Strategy'] | null;
    webhooks?: string[] | null;
  };
  SweepStatus: "running" | "paused" | "finished" | "cancelled" | "unknown";
  System: {
    last_day: Schemas['LastDay'];
    queue: Schemas['Queue'];
    storage: Schemas['Storage'];
  };
  TeacherSpec: {
    architecture?: string;
    checkpoint?: string;
    classes?: string[];
    job?: string;
    mean?: number[];
    min_top1?: number;
    std?: number[];
  };
  TeacherSpecRequest: {
    architecture?: string | null;
    checkpoint?: string | null;
    classes?: string[] | null;
    job?: string | null;
    mean?: number[] | null;
    min_top1?: number | null;
    std?: number[] | null;
  };
  Time: {
    device: string;
    images_per_second: number;
    measured_jobs: number;
    method: string;
    seconds: number;
  };
  TrainingSpec: {
    augmentation: Schemas['Augmentation'];
    auto_augment?: Schemas['AutoAugment'];
    auto_augment_interpolation?: Schemas['Interpolation'];
    batch_size: number;
    body_learning_rate_scale?: number;
    checkpoint_every_epochs: number;
    class_weights?: number[] | string;
    clip_grad_norm: number | null;
    cutmix_alpha?: number;
    decay_biases_and_norms?: boolean;
    devices?: number;
    early_stopping_patience?: number;
    ema_decay?: number;
    epochs: number;
    eval_every_epochs: number;
    gradient_accumulation?: number;
    label_loss?: Schemas['LabelLoss'];
    label_smoothing?: number;
    label_threshold?: number | null;
    mixup_alpha?: number;
    optimizer: Schemas['OptimizerSpec'];
    precision: Schemas['Precision'];
    rand_augment_magnitude?: number;
    rand_augment_ops?: number;
    random_erasing?: number;
    sampling?: Schemas['Sampling'];
    schedule: Schemas['ScheduleSpec'];
    seed: number;
    teacher_cache?: string;
  };
  TrainingSpecRequest: {
    augmentation?: Schemas['Augmentation'] | null;
    auto_augment?: Schemas['AutoAugment'] | null;
    auto_augment_interpolation?: Schemas['Interpolation'] | null;
    batch_size?: number | null;
    body_learning_rate_scale?: number | null;
    checkpoint_every_epochs?: number | null;
    class_weights?: number[] | string | null;
    clip_grad_norm?: number | null;
    cutmix_alpha?: number | null;
    decay_biases_and_norms?: boolean | null;
    devices?: number | null;
    early_stopping_patience?: number | null;
    ema_decay?: number | null;
    epochs?: number | null;
    eval_every_epochs?: number | null;
    gradient_accumulation?: number | null;
    label_loss?: Schemas['LabelLoss'] | null;
    label_smoothing?: number | null;
    label_threshold?: number | null;
    mixup_alpha?: number | null;
    optimizer?: Schemas['OptimizerSpecRequest'] | null;
    precision?: Schemas['Precision'] | null;
    rand_augment_magnitude?: number | null;
    rand_augment_ops?: number | null;
    random_erasing?: number | null;
    recipe?: Schemas['Recipe'] | null;
    sampling?: Schemas['Sampling'] | null;
    schedule?: Schemas['ScheduleSpecRequest'] | null;
    seed?: number | null;
    teacher_cache?: string | null;
  };
  UndecodableImage: {
    file?: string | null;
    position: number;
    reason: string;
  };
  UnfinishedUpload: {
    expires_at: string;
    name: string;
    next: string;
    received_bytes: number;
    shards?: number | null;
    shards_here?: number | null;
    size_bytes?: number | null;
    split?: string | null;
    upload?: string | null;
  };
  UnusableDirectory: {
    name: string;
    reason: string;
  };
  Updates: {
    events: Schemas['Event'][];
    has_more: boolean;
    job: Schemas['Job'];
    next: string;
    points: Schemas['Point'][];
  };
  Usage: {
    cpu_share?: number | null;
    gpu?: Schemas['GpuUsage'] | null;
    memory_total_bytes?: number | null;
    memory_used_bytes?: number | null;
  };
  Verdict: {
    missed: Schemas['Missed'][];
    qualifies?: boolean | null;
    unknown: string[];
  };
  WaitReason: "teacher" | "backoff" | "no_worker" | "version" | "devices" | "dataset" | "declined" | "sweep" | "turn" | "start";
  Waiting: {
    detail: string;
    position?: number | null;
    reason: Schemas['WaitReason'];
    starts_in_seconds?: number | null;
  };
  WaitingShard: {
    sha256: string;
    shard: number;
    size_bytes: number;
  };
  WaitingShardList: {
    data: Schemas['WaitingShard'][];
    shards: number;
  };
  Webhook: {
    name: string;
  };
  WebhookMessage: {
    attempts: number;
    created_at: string;
    delivered_at?: string | null;
    id: string;
    last_error?: string | null;
    next_attempt_at?: string | null;
    type: string;
    webhook: string;
  };
  Weights: {
    clustering?: number;
    complementary: number;
    consistent: number;
    cross_entropy: number;
    distillation: number;
  };
  WeightsRequest: {
    clustering?: number | null;
    complementary?: number | null;
    consistent?: number | null;
    cross_entropy?: number | null;
    distillation?: number | null;
  };
  Worker: {
    busy_share: number;
    dataset_cache_bytes?: number | null;
    datasets?: Record<string, string> | null;
    device: string;
    devices: number;
    heartbeat_at: string;
    id: string;
    job?: string | null;
    jobs: string[];
    memory_bytes?: number | null;
    name: string;
    online: boolean;
    started_at: string;
    stopped_because?: string | null;
    usage?: Schemas['Usage'] | null;
    version: string;
    waits_for?: string | null;
  };
}
