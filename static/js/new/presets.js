// Specifications to start from: on what this server has, or as published. Pure.

/** The methods, by the names of the papers. */
export const METHODS = { none: 'Plain training', kd: 'KD', dkd: 'DKD', nkd: 'NKD', sdd_kd: 'SD-KD', sdd_dkd: 'SD-DKD', sdd_nkd: 'SD-NKD' };

const OWN = [
  { id: 'sdd_kd', label: 'SD-KD: scale decoupled distillation' },
  { id: 'kd', label: 'KD: plain distillation' },
  { id: 'none', label: 'none: train a network on labels (makes a teacher)' },
];

/** Published top-1 in percent (Wei et al. 2024), as in examples/published, of each pair by these methods. */
const COLUMNS = ['kd', 'sdd_kd', 'dkd', 'sdd_dkd', 'nkd', 'sdd_nkd'];
const CIFAR100 = [
  ['resnet32x4', 'shufflenet_v1', [74.07, 76.30, 76.45, 77.30, 75.31, 76.34]],
  ['wrn_40_2', 'shufflenet_v1', [74.83, 76.65, 76.70, 77.21, 75.96, 76.81]],
  ['resnet50_cifar', 'mobilenet_v2', [67.35, 69.55, 70.35, 71.36, 69.39, 70.25]],
  ['vgg13', 'mobilenet_v2', [67.37, 68.79, 69.71, 70.25, 68.72, 69.50]],
  ['resnet32x4', 'shufflenet_v2', [74.45, 76.67, 77.07, 78.05, 76.26, 77.07]],
  ['resnet50_cifar', 'vgg8', [73.81, 74.89, 75.34, 75.86, 74.01, 74.62]],
];
const CIFAR100_DATA = { name: 'cifar100', mean: [0.5071, 0.4867, 0.4408], std: [0.2675, 0.2565, 0.2761] };

/** resnet50 to mobilenet_v1 on ImageNet, whose recipe is another. */
const IMAGENET = [['kd', 70.50], ['sdd_kd', 72.24], ['sdd_dkd', 73.08], ['sdd_nkd', 73.12]];
const IMAGENET_TRAINING = {
  epochs: 100, batch_size: 256,
  optimizer: { type: 'sgd', learning_rate: 0.2, momentum: 0.9, weight_decay: 1e-4 },
  schedule: { type: 'multistep', milestones: [30, 60, 90], gamma: 0.1 },
  augmentation: 'resized_crop_flip',
};
const IMAGENET_DATA = { name: 'imagenet', mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
const IMAGENET_DISTILLATION = { sdd_dkd: { temperature: 1, beta: 2, warmup_epochs: 1 }, sdd_nkd: { temperature: 1, gamma: 2, warmup_epochs: 1 } };

/** `[{label, presets: [{id, label}]}]` for a list with headings. */
export function presetGroups() {
  const published = CIFAR100.map(([teacher, student, top1]) => ({
    label: `Published, CIFAR-100: ${teacher} → ${student}`,
    presets: COLUMNS.map((method, column) => ({ id: `cifar100/${teacher}-${student}-${method}`, label: `${METHODS[method]} (${top1[column].toFixed(2)} %)` })),
  }));
  const imagenet = {
    label: 'Published, ImageNet: resnet50 → mobilenet_v1',
    presets: IMAGENET.map(([method, top1]) => ({ id: `imagenet/resnet50-mobilenet_v1-${method}`, label: `${METHODS[method]} (${top1.toFixed(2)} %)` })),
  };
  return [{ label: 'On this server', presets: OWN }, ...published, imagenet];
}

/** The checkpoint id of an example that has none yet. */
export const NO_CHECKPOINT = 'ckpt_ (upload a teacher below)';

/** A complete example. `have` is what the server listed: `{datasets, checkpoints}`. */
export function preset(id, have = {}) {
  const [, table, pair] = /^(cifar100|imagenet)\/(.*)$/.exec(id) ?? [];
  if (table === 'imagenet') return onImagenet(pair, have);
  return table ? onCifar100(pair, have) : own(id, have);
}

function own(id, { datasets = [], checkpoints = [] }) {
  const dataset = { name: datasets[0]?.name ?? 'cifar100' };
  const training = { epochs: 240, batch_size: 64, augmentation: 'crop_flip', seed: 0 };
  if (id === 'none') {
    return {
      name: 'my teacher', student: { architecture: 'resnet56' }, dataset, distillation: { method: 'none' }, training,
    };
  }
  const teacher = teacherFrom(checkpoints[0]);
  const student = { architecture: 'resnet20' };
  return {
    name: `my ${id} student`, teacher, student, dataset, distillation: distillation(id), training,
  };
}

/** What the server fills in is this recipe: only the pair, the data and the method need saying. */
function onCifar100(id, have) {
  const [architecture, student, method] = id.split('-');
  const top1 = CIFAR100.find(([teacher, other]) => teacher === architecture && other === student)[2][COLUMNS.indexOf(method)];
  return published(id, have, 100, { dataset: CIFAR100_DATA, distillation: { method }, labels: { published_top1: top1.toFixed(2) } });
}

function onImagenet(id, have) {
  const method = id.split('-').at(-1);
  const [, top1] = IMAGENET.find(([name]) => name === method);
  return published(id, have, 1000, {
    dataset: IMAGENET_DATA, distillation: { method, ...IMAGENET_DISTILLATION[method] }, training: IMAGENET_TRAINING, labels: { published_top1: top1.toFixed(2) },
  });
}

function published(id, { checkpoints = [] }, classes, rest) {
  const [architecture, student, method] = id.split('-');
  const fitting = checkpoints.find(({ fits }) => fits.some((fit) => fit.architecture === architecture && fit.num_classes === classes));
  return {
    name: `${architecture} to ${student} by ${method}`,
    teacher: { architecture, checkpoint: fitting?.id ?? NO_CHECKPOINT },
    student: { architecture: student },
    ...rest,
  };
}

function distillation(id) {
  if (id === 'kd') return { method: 'kd', temperature: 4, weights: { cross_entropy: 0.1, distillation: 0.9 } };
  return {
    method: 'sdd_kd',
    scales: [1, 2, 4],
    weights: { cross_entropy: 0.1, distillation: 0.9, consistent: 1, complementary: 2 },
    temperature: 4,
  };
}

/** `teacher` for an uploaded checkpoint. */
export function teacherFrom(checkpoint) {
  return { architecture: checkpoint?.architecture ?? checkpoint?.fits?.[0]?.architecture ?? 'resnet56', checkpoint: checkpoint?.id ?? NO_CHECKPOINT };
}

/** The specification with that teacher; plain training becomes SD-KD, which can use it. */
export function withTeacher(spec, teacher) {
  const method = spec.distillation?.method;
  const kept = method && method !== 'none' ? spec.distillation : distillation('sdd_kd');
  const { name, student, dataset, teacher: _, distillation: __, ...rest } = spec;
  return { ...(name ? { name } : {}), teacher, student, dataset, distillation: kept, ...rest };
}

/** What is not chosen yet, told before anything is sent: `[{pointer, detail}]`. */
export function missing(spec) {
  const found = [];
  const { teacher, student, dataset, distillation: { method } = {} } = spec;
  const hasTeacher = teacher?.job || (teacher?.checkpoint && teacher.checkpoint !== NO_CHECKPOINT);
  if (method !== 'none' && !hasTeacher) found.push({ pointer: teacher?.job === undefined && teacher ? '/teacher/checkpoint' : '/teacher', detail: 'choose a teacher: upload a checkpoint, or train one first with method none' });
  if (!student?.architecture) found.push({ pointer: '/student/architecture', detail: 'choose an architecture' });
  if (!dataset?.name) found.push({ pointer: '/dataset/name', detail: 'choose a data set' });
  return found;
}
