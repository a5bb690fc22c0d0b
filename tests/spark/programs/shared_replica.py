"""Three Python workers of one executor share a replica; each of them is killed once."""

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

from zmqdist import ZmqDist

STEPS, WORKERS, SIZE = 12, 3, 300_000


def main(folder):
    tempfile.tempdir = folder
    spark = (
        SparkSession.builder.master(f"local-cluster[1,{WORKERS},1024]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.executor.memory", "1024m")
        .config("spark.executorEnv.TMPDIR", folder)
        .getOrCreate()
    )
    context = spark.sparkContext
    context.setLogLevel("OFF")
    rdd = context.parallelize(range(WORKERS * STEPS), WORKERS)

    def gradient(model, items):
        number = 0
        for number, item in enumerate(items):
            here = Path(folder, "here", str(os.getpid()))
            here.parent.mkdir(exist_ok=True)
            here.touch()
            while number == 0 and len(list(here.parent.iterdir())) < WORKERS:
                threading.Event().wait(0.01)
            assert (model["w"] == model["w"][0]).all(), "rows of two versions"
            posts = Path(tempfile.gettempdir(), f"zmqdist-{os.getuid()}").iterdir()
            here.write_text(" ".join({post.name.partition(".")[0] for post in posts}))
            if number == 4:
                with contextlib.suppress(FileExistsError):
                    Path(folder, f"killed-{item // STEPS}").touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            yield {"w": np.ones(SIZE), "n": 1}

    with ZmqDist({"w": np.zeros(SIZE), "n": 0}) as dd:
        result = dd.train(rdd, gradient)
        answer = {
            "n": dd.model["n"],
            "whole": bool((dd.model["w"] == dd.model["n"]).all()),
            "applied": result.applied,
            "sessions": result.sessions,
        }
    spark.stop()
    notes = [path.read_text().split() for path in Path(folder, "here").iterdir()]
    posts = list(Path(folder, f"zmqdist-{os.getuid()}").iterdir())
    answer["segments"] = sorted({name for names in notes for name in names})
    answer["processes"] = len(notes)
    answer["left"] = sum(post.exists() for post in posts)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
