"""Trains with Spark's web pages on, reads all of them meanwhile, and looks for keys.

Usage: pages.py FOLDER. Prints one JSON line: how many keys there were, which pages were
read, and which of them (or of the configuration, the log files and the arguments of all
processes) hold a key.
"""

import json
import logging
import os
import re
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

from zmqdist import ZmqDist
from zmqdist.net.security import KeyPair

PAGES = ("jobs", "stages", "storage", "environment", "executors", "SQL")
SOURCES = ("jobs", "stages", "environment", "allexecutors", "storage/rdd", "logs")


def gradient(model, items):
    until = time.monotonic() + 60
    while not Path(folder, "seen").exists() and time.monotonic() < until:
        threading.Event().wait(0.05)
    return {"n": 1}


def descent(model, update):
    model["n"] += update["n"]


def read(address):
    try:
        with urllib.request.urlopen(address, timeout=20) as page:  # noqa: S310 - loopback
            return page.read().decode(errors="replace")
    except OSError as error:
        return f"{error}"


def pages(sc):
    """Return all pages of this application, and what they link to, by their address."""
    base = sc.uiWebUrl
    first = [f"{base}/{name}/" for name in PAGES]
    first += [f"{base}/api/v1/applications/{sc.applicationId}/{name}" for name in SOURCES]
    found = {address: read(address) for address in first}
    links = {link for text in found.values() for link in re.findall(r'href="(/[^"]+)"', text)}
    wanted = [link.replace("&amp;", "&") for link in sorted(links) if "static" not in link]
    return found | {link: read(base + link) for link in wanted if "kill" not in link}


def arguments():
    """Return the arguments and the environment of all processes."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                found[str(entry / name)] = (entry / name).read_bytes().decode(errors="replace")
            except OSError:
                continue
    return found


def main():
    log = Path(folder, "log")
    logging.basicConfig(filename=log, level=logging.DEBUG)
    made, generate = [], KeyPair.generate

    def noted():
        made.append(generate())
        return made[-1]

    KeyPair.generate = staticmethod(noted)
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.port", "0")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.eventLog.enabled", "true")
        .config("spark.eventLog.dir", Path(folder, "events").as_uri())
        .getOrCreate()
    )
    sc = spark.sparkContext
    sc.setLogLevel("DEBUG")
    seen = {}

    def look():
        until = time.monotonic() + 60
        while not sc.statusTracker().getActiveStageIds() and time.monotonic() < until:
            threading.Event().wait(0.05)
        try:
            seen.update(pages(sc))
            seen.update(arguments())
        finally:
            Path(folder, "seen").touch()

    thread = threading.Thread(target=look)
    thread.start()
    with ZmqDist({"n": np.zeros(1)}) as dd:
        result = dd.train(sc.parallelize(range(20), 4), gradient, descent, batch_size=5)
    thread.join()
    seen["configuration"] = str(sc.getConf().getAll())
    seen["dd"] = repr(vars(dd)) + repr(result)
    spark.stop()
    seen["log"] = log.read_text()
    for path in Path(folder, "events").rglob("*"):
        if path.is_file():
            seen[str(path)] = path.read_bytes().decode(errors="replace")
    keys = [key for pair in made for key in (pair.public, pair.secret)]
    answer = {
        "applied": result.applied,
        "keys": len(keys),
        "pages": [name for name in seen if "://" in name],
        "titles": [name for name, text in seen.items() if "zmqdist epoch 1 of 1" in text],
        "sizes": {name: len(text) for name, text in seen.items() if not name.startswith("/proc")},
        "shown": sorted({name for name, text in seen.items() for key in keys if key in text}),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    folder = sys.argv[1]
    os.mkdir(Path(folder, "events"))
    main()
