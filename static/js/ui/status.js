// What a job's status allows. The server alone decides which status follows which.

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
 * What a user can ask for, and in which statuses (see src/db/jobs/status.rs).
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
