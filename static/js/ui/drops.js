// Files that are dropped on a page.

/**
 * Lets the user drop files anywhere on `area`.
 * @param {HTMLElement} area
 * @param {{ take: (files: FileList, entries: FileSystemEntry[]) => void }} upload `entries` has folders, too
 * @param {AbortSignal} signal
 */
export function acceptDrops(area, upload, signal) {
  const filesOf = (/** @type {DragEvent} */ { dataTransfer }) => (dataTransfer?.types.includes('Files') ? dataTransfer : null);
  const highlight = (/** @type {boolean} */ isOver) => area.classList.toggle('takes-drop', isOver);
  area.addEventListener('dragover', (event) => {
    const transfer = filesOf(event);
    if (!transfer) return;
    event.preventDefault();
    transfer.dropEffect = 'copy';
    highlight(true);
  }, { signal });
  area.addEventListener('dragleave', ({ relatedTarget }) => {
    if (!(relatedTarget instanceof Node && area.contains(relatedTarget))) highlight(false);
  }, { signal });
  area.addEventListener('drop', (event) => {
    const transfer = filesOf(event);
    if (!transfer) return;
    event.preventDefault();
    highlight(false);
    // Gone once this listener returns.
    const entries = [...transfer.items].flatMap((item) => item.webkitGetAsEntry() ?? []);
    if (transfer.files.length) upload.take(transfer.files, entries);
  }, { signal });
  signal.addEventListener('abort', () => highlight(false));
}
