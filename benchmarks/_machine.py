"""What machine a benchmark ran on, and how busy that was."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("zmqdist", "numpy", "pyzmq", "blosc", "pyspark", "gensim", "scipy", "scikit-learn")


def machine():
    """Return processor, cores, memory and versions."""
    import zmq

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
        "commit": _commit(),
    }


def memory():
    """Return this process's own figures, in bytes: VmRSS, VmHWM (its peak), RssAnon ...

    The peak that getrusage says is that of whoever started it, if that was larger.
    """
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[-1] == "kB"}


def load():
    """Return the load average of the last minute: 0 on a quiet machine."""
    return round(os.getloadavg()[0], 2)


def _processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit():
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip()
