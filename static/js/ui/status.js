// What a status means for the page. The server alone decides which status follows which.

const FINAL = ['succeeded', 'failed', 'cancelled'];

/** Nothing follows by itself. */
export function isFinal(status) {
  return FINAL.includes(status);
}

/** A worker holds it, or held it and will again. */
export function isActive(status) {
  return !isFinal(status) && status !== 'queued';
}

/** What a user can ask for, as src/jobs/state.rs allows it. */
export const ACTIONS = [
  {
    verb: 'pause', label: 'Pause', from: ['queued', 'running'],
  },
  {
    verb: 'resume', label: 'Resume', from: ['paused'],
  },
  {
    verb: 'retry', label: 'Retry', from: ['failed', 'cancelled'],
  },
  {
    verb: 'cancel', label: 'Cancel', from: ['queued', 'running', 'pausing', 'paused'], danger: true,
    confirm: { title: 'Cancel this job?', detail: 'Training stops at the next step. What it has learned so far is not published; retrying goes on from its last checkpoint.', yes: 'Cancel the job', no: 'Let it run' },
  },
  {
    verb: 'delete', label: 'Delete', from: FINAL, danger: true,
    confirm: { title: 'Delete this job?', detail: 'Its student, metrics and history are deleted for good.', yes: 'Delete the job' },
  },
];
