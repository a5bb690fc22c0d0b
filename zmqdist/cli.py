"""The command line: `zmqdist-master` and `zmqdist-master keygen`."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zmqdist import __version__
from zmqdist.checkpoint.files import replacing
from zmqdist.errors import ConfigError, ZmqdistError
from zmqdist.master import Master
from zmqdist.merge import parse_merge
from zmqdist.named import load_function
from zmqdist.net.address import choose_hosts
from zmqdist.net.security import default_key_file, read_master_keys, write_key_files
from zmqdist.options import MasterOptions
from zmqdist.staleness.forms import POLICY_FORMS, as_policy

log = logging.getLogger("zmqdist")

DESCRIPTION = """\
Hold a model and apply the updates that drivers' Spark jobs send to it.

The model comes from a function without arguments, the step from a function
(model, update) that changes the model in place; both are named pkg.mod:function
and found as Python finds modules from here. A driver then trains against it:

    with ZmqDist(model, master="tcp://HOST:5000", keys="FILE.client") as dd:
        dd.train(rdd, gradient)
"""

EPILOG = """\
examples:
  zmqdist-master --model job:make_model --descent job:descent
  zmqdist-master --model job:make_model --staleness bounded:8:requeue --save model.npz
  zmqdist-master keygen ~/.zmqdist/keys      make the keys anew, once

Without --keys the key file is $ZMQDIST_KEYS or ~/.zmqdist/keys; it is made if it
is missing. Give drivers on other machines the file that ends in .client.
SIGTERM and Ctrl-C end the master cleanly, with the model written where --save says.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of `zmqdist-master`."""
    made = argparse.ArgumentParser(
        prog="zmqdist-master",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--version", action="version", version=f"zmqdist {__version__}")
    add("--model", required=True, metavar="pkg.mod:factory", help="makes the model")
    add(
        "--descent",
        metavar="pkg.mod:function",
        help="applies an update (default: add arrays to the parameters of their name)",
    )
    add("--host", metavar="ADDRESS", help="address that workers reach (default: 127.0.0.1)")
    add("--port", type=int, default=5000, help="port for updates (default: %(default)s)")
    add("--publish-port", type=int, default=5001, help="port for versions (default: %(default)s)")
    add(
        "--staleness",
        metavar="POLICY",
        help=f"{POLICY_FORMS}; several joined by + (default: bounded:64:requeue)",
    )
    add(
        "--merge",
        metavar="RULE",
        help="mean, touched-mean, sum, trust[:CAP], adasum: how softsync's updates become one; "
        "trust also without a buffer (default: mean with softsync)",
    )
    add("--keys", type=Path, metavar="FILE", help="key file made by keygen")
    add(
        "--security",
        choices=("curve", "none"),
        default="curve",
        help="none talks plain TCP to anybody (default: %(default)s)",
    )
    add("--publish-bytes-per-s", type=float, metavar="BYTES", help="cap on what versions take")
    add("--max-norm", type=float, metavar="NORM", help="scale larger updates down to this norm")
    add("--lease", type=float, default=30.0, metavar="SECONDS", help="silence that means death")
    add("--record", type=Path, metavar="FILE", help="append a row for each update to this file")
    add(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="write checkpoints into this directory, and keep the last three",
    )
    add(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="between two checkpoints (default: %(default)s)",
    )
    add(
        "--resume",
        nargs="?",
        const="always",
        choices=("always", "auto"),
        help="go on from the newest checkpoint; with auto, if there is one",
    )
    add(
        "--save",
        type=Path,
        metavar="FILE",
        help="write the model here at the end: a numpy archive of its arrays, or by the model's "
        "own save() if it has one and FILE does not end in .npz",
    )
    add(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="(default: %(default)s)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `zmqdist-master`; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if list(arguments[:1]) == ["keygen"]:
            return _keygen(arguments[1:])
        return _serve(parser().parse_args(arguments))
    except ZmqdistError as error:
        sys.stderr.write(f"zmqdist-master: {error}\n")
        return 2


def _keygen(arguments: Sequence[str]) -> int:
    made = argparse.ArgumentParser(
        prog="zmqdist-master keygen",
        description="Make new CURVE keys: FILE for the master, FILE.client for drivers "
        "elsewhere. Both are readable by you alone; copy the second over a safe channel.",
    )
    made.add_argument("file", type=Path, nargs="?", default=default_key_file(), metavar="FILE")
    path = made.parse_args(arguments).file
    client = write_key_files(path)
    sys.stdout.write(f"master: {path}\ndrivers: {client}\n")
    return 0


def _serve(options: argparse.Namespace) -> int:
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    _raise_file_limit()
    sys.path.insert(0, os.getcwd())
    factory = load_function(options.model, "--model")
    descent = load_function(options.descent, "--descent") if options.descent else None
    policy = as_policy(options.staleness or None)
    merge = parse_merge(options.merge) if options.merge else None
    keys = None
    if options.security == "curve":
        path = options.keys or default_key_file()
        if options.keys is None and not path.exists():
            write_key_files(path)
            log.info("made new keys in %s", path)
        keys = read_master_keys(path)
    bind_host, advertised = choose_hosts(options.host, None)
    if options.save is not None and not os.access(options.save.absolute().parent, os.W_OK):
        raise ConfigError(f"--save {options.save}: its folder is not there or cannot be written")
    master_options = MasterOptions(
        bind_host=bind_host,
        advertise_host=advertised,
        port=options.port,
        publish_port=options.publish_port,
        keys=keys,
        policy=policy,
        merge=merge,
        lease_s=options.lease,
        max_norm=options.max_norm,
        publish_bytes_per_s=options.publish_bytes_per_s,
        record=options.record,
        checkpoint=options.checkpoint,
        checkpoint_every_s=options.checkpoint_every,
        resume="auto" if options.resume == "auto" else bool(options.resume),
    )
    master_options.check_descent(descent)
    master = Master(factory(), master_options)
    master.use(descent)

    def on_signal(number: int, frame: object) -> None:
        log.info("%s: ending", signal.Signals(number).name)
        master.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    rules = f"{policy!r}, merge {merge!r}" if merge else repr(policy)
    log.info("listening on %s, run %s, %s", master.address, master.state.run, rules)
    try:
        master.run()
    finally:
        totals = master.state.totals
        log.info("version %d, %d examples", master.state.version, totals.examples)
        if options.save is not None:
            _save(master, options.save)
            log.info("wrote the model to %s", options.save)
    return 0


def _raise_file_limit() -> None:
    """Allow as many open files as may be: each worker has two connections, strangers others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _save(master: Master, path: Path) -> None:
    """Write the model so that a crash in between leaves the old file whole."""
    master.parameters.loaded()
    save = getattr(master.model, "save", None)
    if path.suffix != ".npz" and callable(save):
        save(str(path))
        return
    values: dict[str, Any] = {**master.parameters.arrays(), **master.parameters.scalars()}
    with replacing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, value in values.items():  # np.savez takes "file" for an argument of its own
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(value))


if __name__ == "__main__":
    sys.exit(main())
