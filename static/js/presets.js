// Specifications to start from, with what this server has filled in. Pure.

export const PRESETS = [
  { id: 'sdd_kd', label: 'SD-KD: scale decoupled distillation' },
  { id: 'kd', label: 'KD: plain distillation' },
  { id: 'none', label: 'none: train a network on labels (makes a teacher)' },
];

/** The checkpoint id of an example that has none yet. */
export const NO_CHECKPOINT = 'ckpt_ (upload a teacher below)';

/** A complete example. `have` is what the server listed: `{datasets, checkpoints}`. */
export function preset(id, { datasets = [], checkpoints = [] } = {}) {
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
