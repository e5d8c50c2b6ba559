// Python that loads a student into plain PyTorch. static/snippets has a file per family of networks, and the loader.

import { api } from '../api/client.js';

/**
 * One program made of a network and the loader, with all imports at the top; it loads the student from `file`.
 * @param {string} network source of the network
 * @param {string} load source of the loader
 * @param {string} file
 */
export function program(network, load, file) {
  const lines = `${network}\n\n${load}`.split('\n');
  const isImport = (/** @type {string} */ line) => /^(import|from) /.test(line);
  const imports = [...new Set(lines.filter(isImport))].sort(byKind);
  const code = lines.filter((line) => !isImport(line)).join('\n').trim().replace(/\n{4,}/g, '\n\n\n');
  return `import json\n\n${imports.filter((line) => line !== 'import json').join('\n')}\n\n${code.startsWith('#') ? '' : '\n'}${code}\n\n\n${use(file)}`;
}

/**
 * `import` before `from`, each by name.
 * @param {string} one
 * @param {string} other
 */
function byKind(one, other) {
  return Number(other.startsWith('import')) - Number(one.startsWith('import')) || (one < other ? -1 : 1);
}

/** @param {string} file */
function use(file) {
  return `student, facts = load("${file}", build)
mean, std = (torch.tensor(json.loads(facts[key])).view(3, 1, 1) for key in ("mean", "std"))
side = int(facts["image_size"])
# images: [B, 3, side, side] in 0..1
images = torch.zeros(1, 3, side, side)
print(student((images - mean) / std).shape)
`;
}

/**
 * The program for a student of an architecture.
 * @param {string} architecture
 * @param {string} file
 * @param {AbortSignal} signal
 */
export async function snippet(architecture, file, signal) {
  const { data } = await api.architectures(signal);
  const family = data.find(({ name }) => name === architecture)?.family;
  if (!family) throw new Error(`There is no snippet for ${architecture}.`);
  const [network, load] = await Promise.all([`${family}.py`, 'load.py'].map((name) => snippetText(name, signal)));
  return program(network, load, file);
}

/**
 * The program for a student that came as a file: its network is the user's own.
 * @param {string} file
 */
export function ownSnippet(file) {
  return `from safetensors.torch import load_file

# model: the network that was exported, made in Python as before
model.load_state_dict(load_file("${file}"), strict=True)
`;
}

/**
 * A file of static/snippets.
 * @param {string} name
 * @param {AbortSignal} signal
 */
export async function snippetText(name, signal) {
  const answer = await fetch(`/snippets/${name}`, { signal });
  if (!answer.ok) throw new Error(`The snippet could not be loaded (${answer.status}).`);
  return answer.text();
}
