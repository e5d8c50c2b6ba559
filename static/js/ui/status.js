// What a job's status allows. The server decides which status follows which: src/db/jobs/status.rs, with which a test
// compares these lists.

/** @typedef {{ verb: Verb, label: string, from: string[], danger?: boolean, confirm?: Question }} Action */

const FINAL = ['succeeded', 'failed', 'cancelled'];

/**
 * Whether the job stays as it is unless a user acts.
 * @param {string} status
 */
export function isFinal(status) {
  return FINAL.includes(status);
}

/**
 * What a user can ask for, and in which statuses.
 * @type {Action[]}
 */
export const ACTIONS = [
  { verb: 'pause', label: 'Pause', from: ['queued', 'running'] },
  { verb: 'resume', label: 'Resume', from: ['paused'] },
  { verb: 'retry', label: 'Retry', from: ['failed', 'cancelled'] },
  {
    verb: 'cancel', label: 'Cancel', from: ['queued', 'running', 'pausing', 'paused'], danger: true,
    confirm: {
      title: 'Cancel this job?', yes: 'Cancel the job', no: 'Let it run',
      detail: 'Training stops after the current step, and no student is published. A retry continues from the last checkpoint.',
    },
  },
  {
    verb: 'delete', label: 'Delete', from: FINAL, danger: true,
    confirm: { title: 'Delete this job?', detail: 'This permanently deletes its student, metrics and history.', yes: 'Delete the job' },
  },
];

/**
 * What becomes of the jobs that a deleted job's student teaches; nothing if there are none.
 * @param {Pick<Schemas['JobSummary'], 'students' | 'unfinished_students' | 'student_names'>} summary
 */
export function taughtText({ students, unfinished_students: unfinished, student_names: names }) {
  if (students === 0) return '';
  const left = students - names.length;
  const all = `${names.join(', ')}${left > 0 ? ` and ${left} more` : ''}`;
  const said = ` Its student is the teacher of ${students === 1 ? '1 job' : `${students} jobs`}: ${all}.`;
  if (unfinished > 0) return `${said} ${unfinished === 1 ? '1 of them is' : `${unfinished} of them are`} not finished, so the server will refuse: cancel them or wait.`;
  return `${said} They keep their results, but a retry or a clone of them will not find its teacher.`;
}
