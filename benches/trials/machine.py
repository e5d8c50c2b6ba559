"""The machine that trains, as far as a table of times needs it."""

import os
import pathlib

# The first of these whose flag the processor has decides which kernels are used.
CLASSES = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 with bfloat16"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))


def describe(cpuinfo=None):
    """Model, cores and the best vector instructions of this machine's processor."""
    if cpuinfo is None:
        path = pathlib.Path("/proc/cpuinfo")
        cpuinfo = path.read_text() if path.exists() else ""
    facts = {}
    for line in cpuinfo.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            facts.setdefault(key.strip(), value.strip())
    flags = facts.get("flags", "").split()
    model = facts.get("model name") or "unknown"
    if "cpu family" in facts:
        model += f" (family {facts['cpu family']}, model {facts.get('model', '?')})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cores": cores, "flags": next((name for flag, name in CLASSES if flag in flags), "other")}
