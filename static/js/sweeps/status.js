// The actions on a sweep, and the statuses that allow them. The server decides: src/db/sweeps/change.rs.

/** @typedef {{ verb: 'pause' | 'resume' | 'cancel' | 'delete', label: string, from: string[], danger?: boolean, confirm?: Question }} SweepAction */

/** @type {SweepAction[]} */
export const SWEEP_ACTIONS = [
  { verb: 'pause', label: 'Pause', from: ['running'] },
  { verb: 'resume', label: 'Resume', from: ['paused'] },
  {
    verb: 'cancel', label: 'Cancel', from: ['running', 'paused'], danger: true,
    confirm: {
      title: 'Cancel this sweep?', yes: 'Cancel the sweep', no: 'Let it run',
      detail: 'All of its jobs that have not ended are cancelled. Students that are published stay.',
    },
  },
  {
    verb: 'delete', label: 'Delete', from: ['finished', 'cancelled'], danger: true,
    confirm: {
      title: 'Delete this sweep?', yes: 'Delete the sweep',
      detail: 'This permanently deletes all of its jobs, with their students, metrics and histories.',
    },
  },
];
