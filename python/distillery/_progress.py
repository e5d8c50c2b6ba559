"""Progress bars of jobs and of files."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from ._status import ENDED


class JobBar:
    """A bar of a job's steps, on a terminal or in a notebook."""

    def __init__(self, shown: bool) -> None:
        self._bar = _bar(shown, unit="step", total=0)

    def show(self, job: dict[str, Any]) -> None:
        """Shows the job as it is now."""
        bar, progress = self._bar, job.get("progress")
        label = job["status"]
        if progress:
            if bar.total != progress["steps"]:
                bar.reset(total=progress["steps"])
            bar.n = progress["step"]
            label += f", epoch {progress['epoch']} of {progress['epochs']}"
            bar.set_postfix_str(f"{progress['images_per_second']:.0f} images/s", refresh=False)
        bar.set_description_str(label, refresh=False)
        bar.refresh()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


class SweepBar:
    """A bar of the jobs of a sweep that have ended, on a terminal or in a notebook."""

    def __init__(self, shown: bool) -> None:
        self._bar = _bar(shown, unit="job", total=0)

    def show(self, sweep: dict[str, Any]) -> None:
        """Shows the sweep as it is now."""
        bar, jobs = self._bar, sweep["jobs"]
        if bar.total != sum(jobs.values()):
            bar.reset(total=sum(jobs.values()))
        bar.n = sum(jobs.get(status, 0) for status in ENDED)
        epochs = sweep.get("next_rung")
        rung = f", compared after {epochs} {'epoch' if epochs == 1 else 'epochs'}" if epochs else ""
        bar.set_description_str(sweep["status"] + rung, refresh=False)
        bar.set_postfix_str(f"{jobs.get('running', 0)} running", refresh=False)
        bar.refresh()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


def file_bar(shown: bool, size: int, label: str):
    """A bar of bytes."""
    return _bar(shown, unit="B", unit_scale=True, unit_divisor=1024, total=size, desc=label, leave=False)


def _bar(shown: bool, **options):
    with warnings.catch_warnings():
        # Of a notebook without widgets, where the bar is text.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    is_seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(disable=not (shown and is_seen), **options)
