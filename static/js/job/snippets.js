// Python that loads a student into plain PyTorch: the network of its family, how a file is loaded, and what to do with it.

import { api } from '../api/client.js';

/** One program of both files, which begins with what they import, and then takes the student from `file`. */
export function program(network, load, file) {
  const lines = `${network}\n\n${load}`.split('\n');
  const isImport = (line) => /^(import|from) /.test(line);
  const imports = [...new Set(lines.filter(isImport))].sort(byKind);
  const code = lines.filter((line) => !isImport(line)).join('\n').trim().replace(/\n{4,}/g, '\n\n\n');
  return `import json\n\n${imports.filter((line) => line !== 'import json').join('\n')}\n\n${code.startsWith('#') ? '' : '\n'}${code}\n\n\n${use(file)}`;
}

/** `import` before `from`, each by name. */
function byKind(one, other) {
  return other.startsWith('import') - one.startsWith('import') || (one < other ? -1 : 1);
}

function use(file) {
  return `student, facts = load("${file}", build)
mean, std = (torch.tensor(json.loads(facts[key])).view(3, 1, 1) for key in ("mean", "std"))
side = int(facts["image_size"])
# images: [B, 3, side, side] in 0..1
images = torch.zeros(1, 3, side, side)
print(student((images - mean) / std).shape)
`;
}

/** The whole program for a student of that architecture. */
export async function snippet(architecture, file, signal) {
  const { data } = await api.architectures(signal);
  const { family } = data.find(({ name }) => name === architecture);
  const [network, load] = await Promise.all([`${family}.py`, 'load.py'].map((name) => text(name, signal)));
  return program(network, load, file);
}

async function text(name, signal) {
  const answer = await fetch(`/snippets/${name}`, { signal });
  if (!answer.ok) throw new Error(`The snippet cannot be had (${answer.status}).`);
  return answer.text();
}
