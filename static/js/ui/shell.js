// The elements of index.html around every page.

/**
 * An element of index.html.
 * @param {'main' | 'announcer' | 'sign-out' | 'connection' | 'connection-text' | 'lost' | 'skip'} id
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no element #${id}`);
  return element;
}
