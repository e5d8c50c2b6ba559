// Specifications to start from: with what this server has, or as published. Pure.

/** @import { Inventory } from './inventory.js' */
/** @typedef {any} Spec a specification as a user writes it */
/** @typedef {Pick<Schemas['Checkpoint'], 'id' | 'architecture' | 'fits'>} Checkpoint */

/**
 * The methods by their names in the papers.
 * @type {Record<string, string>}
 */
export const METHODS = {
  none: 'Plain training', kd: 'KD', dkd: 'DKD', nkd: 'NKD', ttm: 'TTM', wttm: 'WTTM', dist: 'DIST',
  sdd_kd: 'SD-KD', sdd_dkd: 'SD-DKD', sdd_nkd: 'SD-NKD', sdd_ttm: 'SD-TTM', sdd_wttm: 'SD-WTTM', sdd_dist: 'SD-DIST',
};

const OWN = [
  { id: 'sdd_kd', label: 'SD-KD: scale decoupled distillation' },
  { id: 'kd', label: 'KD: plain distillation' },
  { id: 'none', label: 'none: train a network on labels (makes a teacher)' },
];

/**
 * Losses published after the paper, with the settings of their authors' code.
 * @type {Record<string, { label: string, distillation: object }>}
 */
const SINCE = {
  standardised: { label: 'SD-KD with standardised logits (Sun et al. 2024)', distillation: { method: 'sdd_kd', logit_standardisation: true } },
  clustering: { label: 'SD-KD with iCD’s clustering (Xue et al. 2025)', distillation: { method: 'sdd_kd', weights: { clustering: 2 } } },
  sdd_ttm: { label: 'SD-TTM (Zheng and Yang 2024)', distillation: { method: 'sdd_ttm' } },
  sdd_wttm: { label: 'SD-WTTM (Zheng and Yang 2024)', distillation: { method: 'sdd_wttm' } },
  sdd_dist: { label: 'SD-DIST (Huang et al. 2022)', distillation: { method: 'sdd_dist' } },
};

/** The methods of the table below. */
const COLUMNS = ['kd', 'sdd_kd', 'dkd', 'sdd_dkd', 'nkd', 'sdd_nkd'];
/** The tables of the paper (Wei et al. 2024) with the published figures, as in examples/published. */
const TABLES = { families: 'CIFAR-100, two families', scales: 'CIFAR-100, ablation of the scales', imagenet: 'ImageNet' };
/**
 * Top-1 in percent on CIFAR-100: pairs of two families, then those of the ablation of the scales, which are of one.
 * @type {[teacher: string, student: string, top1: number[], table: string][]}
 */
const CIFAR100 = [
  ['resnet32x4', 'shufflenet_v1', [74.07, 76.30, 76.45, 77.30, 75.31, 76.34], TABLES.families],
  ['wrn_40_2', 'shufflenet_v1', [74.83, 76.65, 76.70, 77.21, 75.96, 76.81], TABLES.families],
  ['resnet50_cifar', 'mobilenet_v2', [67.35, 69.55, 70.35, 71.36, 69.39, 70.25], TABLES.families],
  ['vgg13', 'mobilenet_v2', [67.37, 68.79, 69.71, 70.25, 68.72, 69.50], TABLES.families],
  ['resnet32x4', 'shufflenet_v2', [74.45, 76.67, 77.07, 78.05, 76.26, 77.07], TABLES.families],
  ['resnet50_cifar', 'vgg8', [73.81, 74.89, 75.34, 75.86, 74.01, 74.62], TABLES.families],
  ['resnet32x4', 'resnet8x4', [73.33, 76.63], TABLES.scales],
];
const CIFAR100_DATA = { name: 'cifar100', mean: [0.5071, 0.4867, 0.4408], std: [0.2675, 0.2565, 0.2761] };

/**
 * The same on ImageNet, from resnet50 to mobilenet_v1. Its recipe is not the default.
 * @type {[method: string, top1: number][]}
 */
const IMAGENET = [['kd', 70.50], ['sdd_kd', 72.24], ['sdd_dkd', 73.08], ['sdd_nkd', 73.12]];
const IMAGENET_TRAINING = {
  epochs: 100, batch_size: 256,
  optimizer: { type: 'sgd', learning_rate: 0.2, momentum: 0.9, weight_decay: 1e-4 },
  schedule: { type: 'multistep', milestones: [30, 60, 90], gamma: 0.1 },
  augmentation: 'resized_crop_flip',
};
const IMAGENET_DATA = { name: 'imagenet', mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
/** @type {Record<string, object>} */
const IMAGENET_DISTILLATION = { sdd_dkd: { temperature: 1, beta: 2, warmup_epochs: 1 }, sdd_nkd: { temperature: 1, gamma: 2, warmup_epochs: 1 } };

/** The presets in groups with headings. */
export function presetGroups() {
  const published = CIFAR100.map(([teacher, student, top1, table]) => ({
    label: `Published, ${table}: ${teacher} → ${student}`,
    presets: top1.map((percent, column) => ({ id: `cifar100/${teacher}-${student}-${COLUMNS[column]}`, label: `${METHODS[COLUMNS[column]]} (${percent.toFixed(2)} %)` })),
  }));
  const imagenet = {
    label: `Published, ${TABLES.imagenet}: resnet50 → mobilenet_v1`,
    presets: IMAGENET.map(([method, top1]) => ({ id: `imagenet/resnet50-mobilenet_v1-${method}`, label: `${METHODS[method]} (${top1.toFixed(2)} %)` })),
  };
  const since = { label: 'On this server, beyond the paper', presets: Object.entries(SINCE).map(([id, { label }]) => ({ id, label })) };
  return [{ label: 'On this server', presets: OWN }, since, ...published, imagenet];
}

/** Stands for a checkpoint id that must still be chosen. It is no valid id. */
export const NO_CHECKPOINT = 'ckpt_ (upload a teacher below)';

/**
 * A complete specification.
 * @param {string} id of a preset
 * @param {Partial<Pick<Inventory, 'datasets' | 'checkpoints'>>} [have]
 * @returns {Spec}
 */
export function preset(id, have = {}) {
  const [, table, pair] = /^(cifar100|imagenet)\/(.*)$/.exec(id) ?? [];
  if (table === 'imagenet') return onImagenet(pair, have);
  return table ? onCifar100(pair, have) : own(id, have);
}

/**
 * @param {string} id
 * @param {Partial<Pick<Inventory, 'datasets'>>} have
 */
function own(id, { datasets = [] }) {
  // What there is one of needs no choice; otherwise the user chooses.
  const dataset = { name: datasets.length === 1 ? datasets[0].name : '' };
  const training = { epochs: 240, batch_size: 64, augmentation: 'crop_flip', seed: 0 };
  if (id === 'none') {
    return {
      name: 'my teacher', student: { architecture: 'resnet56' }, dataset, distillation: { method: 'none' }, training,
    };
  }
  const teacher = { checkpoint: NO_CHECKPOINT };
  const student = { architecture: 'resnet20' };
  return {
    name: `my ${id} student`, teacher, student, dataset, distillation: distillation(id), training,
  };
}

/**
 * Its recipe is the default: only the networks, the data set and the method are given.
 * @param {string} id
 * @param {Partial<Pick<Inventory, 'checkpoints'>>} have
 */
function onCifar100(id, have) {
  const [architecture, student, method] = id.split('-');
  const [, , top1, table] = CIFAR100.find(([teacher, other]) => teacher === architecture && other === student) ?? [];
  const labels = { published_table: table, published_top1: top1?.[COLUMNS.indexOf(method)].toFixed(2) };
  return published(id, have, 100, { dataset: CIFAR100_DATA, distillation: { method }, labels });
}

/**
 * @param {string} id
 * @param {Partial<Pick<Inventory, 'checkpoints'>>} have
 */
function onImagenet(id, have) {
  const method = id.split('-').at(-1) ?? '';
  const top1 = new Map(IMAGENET).get(method);
  return published(id, have, 1000, {
    dataset: IMAGENET_DATA, distillation: { method, ...IMAGENET_DISTILLATION[method] }, training: IMAGENET_TRAINING,
    labels: { published_table: TABLES.imagenet, published_top1: top1?.toFixed(2) },
  });
}

/**
 * @param {string} id
 * @param {Partial<Pick<Inventory, 'checkpoints'>>} have
 * @param {number} classes that the teacher must have
 * @param {object} rest
 */
function published(id, { checkpoints = [] }, classes, rest) {
  const [architecture, student, method] = id.split('-');
  const [fitting, ...others] = checkpoints.filter(({ fits }) => fits.some((fit) => fit.architecture === architecture && fit.num_classes === classes));
  return {
    name: `${architecture} to ${student} by ${method}`,
    teacher: { architecture, checkpoint: fitting && others.length === 0 ? fitting.id : NO_CHECKPOINT },
    student: { architecture: student },
    ...rest,
  };
}

/** @param {string} id */
function distillation(id) {
  if (SINCE[id]) return SINCE[id].distillation;
  if (id === 'kd') return { method: 'kd', temperature: 4, weights: { cross_entropy: 0.1, distillation: 0.9 } };
  // The scales follow the pair.
  return {
    method: 'sdd_kd',
    weights: { cross_entropy: 0.1, distillation: 0.9, consistent: 1, complementary: 2 },
    temperature: 4,
  };
}

/**
 * The `teacher` field for an uploaded checkpoint.
 * @param {Checkpoint} checkpoint
 */
export function teacherFrom({ id, architecture, fits }) {
  const known = architecture ?? fits[0]?.architecture;
  return { ...(known ? { architecture: known } : {}), checkpoint: id };
}

/**
 * The `student` field for what was chosen: an architecture by its name, or an uploaded network by its id. First weights
 * of another architecture stay, for the server to judge, and so does what becomes of their classifier.
 * @param {{ architecture?: string, checkpoint?: string, head?: string } | undefined} student
 * @param {string | undefined} chosen
 * @param {(id: string | undefined) => boolean} isNetwork whether a checkpoint is an uploaded network
 */
export function studentFrom(student, chosen, isNetwork) {
  const { architecture: _, checkpoint, head, ...rest } = student ?? {};
  const classifier = head === undefined ? {} : { head };
  if (isNetwork(chosen)) return { checkpoint: chosen, ...classifier };
  const kept = checkpoint !== undefined && !isNetwork(checkpoint) ? { checkpoint, ...classifier } : {};
  return { ...(chosen ? { architecture: chosen } : {}), ...kept, ...rest };
}

/**
 * The specification with another teacher. Plain training becomes SD-KD, which needs one.
 * @param {Spec} spec
 * @param {object} teacher
 */
export function withTeacher(spec, teacher) {
  const method = spec.distillation?.method;
  const kept = method && method !== 'none' ? spec.distillation : distillation('sdd_kd');
  const { name, student, dataset, teacher: _, distillation: __, ...rest } = spec;
  return { ...(name ? { name } : {}), teacher, student, dataset, distillation: kept, ...rest };
}

/**
 * The choices that a user must still make.
 * @param {Spec} spec
 */
export function missing(spec) {
  /** @type {Fault[]} */
  const found = [];
  const { teacher, student, dataset, distillation: { method } = {} } = spec;
  const hasTeacher = teacher?.job || (teacher?.checkpoint && teacher.checkpoint !== NO_CHECKPOINT);
  if (method !== 'none' && !hasTeacher) {
    const pointer = teacher && teacher.job === undefined ? '/teacher/checkpoint' : '/teacher';
    found.push({ pointer, detail: 'choose a teacher: an uploaded checkpoint, or the student of a job; the method none trains one' });
  }
  if (!student?.architecture && !student?.checkpoint) found.push({ pointer: '/student/architecture', detail: 'choose an architecture, or an uploaded network' });
  if (!dataset?.name) found.push({ pointer: '/dataset/name', detail: 'choose a data set' });
  return found;
}
