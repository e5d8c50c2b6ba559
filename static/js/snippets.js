// Python that loads a student into plain PyTorch, for the architecture at hand.

const TORCHVISION = new Set(['resnet18', 'resnet34', 'resnet50', 'resnet101']);
const CIFAR_RESNET = /^resnet\d+(x4)?$/;

/** The file with the code of an architecture. */
export function snippetOf(architecture) {
  if (TORCHVISION.has(architecture)) return 'torchvision.py';
  return CIFAR_RESNET.test(architecture) ? 'cifar_resnet.py' : 'own_network.py';
}

/** What to add to the code to load the file of that name. */
export function useOf(architecture, file) {
  const network = snippetOf(architecture) === 'own_network.py' ? ', network' : '';
  const comment = network ? `# network: your ${architecture}, as in the published code of SDD\n` : '';
  return `${comment}student, facts = load("${file}"${network})
mean, std = (torch.tensor(json.loads(facts[key])).view(3, 1, 1) for key in ("mean", "std"))
side = int(facts["image_size"])
# images: [B, 3, side, side] in 0..1
images = torch.zeros(1, 3, side, side)
print(student((images - mean) / std).shape)
`;
}

/** The whole program. */
export async function snippet(architecture, file, signal) {
  const answer = await fetch(`/snippets/${snippetOf(architecture)}`, { signal });
  if (!answer.ok) throw new Error(`The snippet cannot be had (${answer.status}).`);
  return `${await answer.text()}\n\n${useOf(architecture, file)}`;
}
