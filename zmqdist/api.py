"""`ZmqDist`: start a master, train, get the model."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from zmqdist.core.staleness import Policy
from zmqdist.engines import engine_for, spark_driver_host
from zmqdist.engines.reach import check_reach, whereabouts
from zmqdist.errors import ConfigError
from zmqdist.master import Master
from zmqdist.merge import Merge
from zmqdist.models.base import parameters_of
from zmqdist.models.tiers import Tiers
from zmqdist.net.address import choose_hosts, endpoint, parse_address
from zmqdist.net.security import (
    ClientKeys,
    KeyPair,
    MasterKeys,
    default_key_file,
    read_client_keys,
)
from zmqdist.options import (
    Callback,
    Descent,
    Evaluate,
    MasterOptions,
    StopWhen,
    TrainOptions,
    check_kinds,
    check_place,
)
from zmqdist.result import TrainResult
from zmqdist.staleness.forms import as_policy
from zmqdist.task import Gradient
from zmqdist.training import Training
from zmqdist.wire.lossy import parse_codec


class ZmqDist:
    """Train a model on partitioned data, asynchronously; a context manager.

    Parameters
    ----------
    model : object
        A dict or list of arrays and numbers, an array, any object with such
        attributes, or a gensim model. Changed in place; also `ZmqDist.model`.
    staleness : Policy, str or list of these, optional
        From `zmqdist.staleness`: which updates are applied, and how much they count.
        Several in a list work together; a str is a policy in the words of
        `zmqdist-master`, such as ``"auto"``. The default applies each update as it was
        computed unless it is more than 64 versions old, and has those computed again.
    merge : Merge, optional
        From `zmqdist.merge`. With `SoftSync`: how the updates of a flush become one,
        default `Mean`. Otherwise only `RowTrustRegion(cap)`, which then weighs each update
        as it arrives, row by row, against what other workers did meanwhile
        (`zmqdist.damping`). Default: updates are applied as they are.
    codec : str, default="auto"
        How arrays are compressed: ``"auto"`` chooses for each array, and copies updates where
        that is faster on the link (`zmqdist.core.link`); or ``"raw"``, ``"lz4"``,
        ``"zstd"``, all loss-free. ``"float16"`` and ``"bitround:K"`` (K bits of
        mantissa) round what workers send, and send what was cut off with the next update
        (`zmqdist.models.feedback`); versions go out as with ``"auto"``.
    host : str, optional
        Address that the workers use to reach this process. Default:
        ``$ZMQDIST_HOST``, else ``spark.driver.host``, else 127.0.0.1.
    port, publish_port : int, default=0
        Ports for updates and for versions; 0 takes free ones. Open both in a firewall.
    security : {"curve", "none"}, default="curve"
        Encrypt and authenticate with keys made for this run, or talk plain TCP.
    master : str, optional
        ``tcp://host:port`` of a running `zmqdist-master`, used instead of starting a
        master here. Its model, its staleness policy and its ports count.
    keys : path, optional
        The key file for `master`. Default: ``$ZMQDIST_KEYS`` or ``~/.zmqdist/keys``.
    publish_every : int, optional
        Publish each so many versions. Default: as often as costs allow.
    publish_interval_s : float, optional
        Publish at most once in so many seconds.
    publish_bytes_per_s : float, optional
        Send versions to all workers at no more than so many bytes per second on average.
    max_in_flight : int, default=2
        Updates that one worker may have under way, the one it computes included. 1
        computes each update on the newest model, 2 computes while the one before
        travels.
    replica : {"auto", "shared", "private"}, default="auto"
        Whether the workers of a host share one copy of the published model, which one of
        them receives for all. ``"auto"``: if the model has 256 KiB or more. A gradient
        that trains in place (``tiers=``) always has its own.
    max_norm : float, optional
        Largest L2 norm of an update, over all its floats. One with a larger norm is scaled
        down to it before it is applied, and counted as `TrainResult.clipped`.
    checkpoint : path, optional
        Directory for checkpoints, of this program alone: model, optimizer, ledger and all
        else that a run needs to go on. The last three are kept. ``train()`` returns when
        what it learned is in one.
    checkpoint_every_s : float, default=60
        Seconds between two checkpoints.
    resume : bool or "auto", default=False
        Go on from the newest checkpoint: the same program is run again, and each
        ``train()`` does what is missing of it. After a program that came to its end, a new
        one begins with the model that it left. ``"auto"`` does so if there is a
        checkpoint. With `master`: go on with the program that was interrupted there.
    lease_s : float, default=30
        Silence after which a worker or a master counts as dead, in seconds. Must be
        longer than the longest call of ``descent``.
    record : path, optional
        Append a row for each update to this file: who computed it on which version, what
        became of it, how long that took (`zmqdist.record`). `zmqdist.read_record` reads it.
    progress : bool or str, optional
        Show a live line on stderr (needs tqdm); a string names the unit of examples,
        as ``"words"``. Default: if stderr is a terminal.

    Raises
    ------
    ConfigError
        An option is wrong.
    ModelError
        The model has nothing to learn.
    AddressInUse
        A port is taken (on entering the context).

    Examples
    --------
    >>> def gradient(model, rows):
    ...     return {"w": -0.1 * (model["w"] - sum(rows) / 3)}
    >>> with ZmqDist({"w": np.zeros(4)}) as dd:
    ...     result = dd.train([[1.0, 2.0, 3.0]], gradient)
    """

    def __init__(
        self,
        model: Any,
        *,
        staleness: Policy | str | Sequence[Policy | str] | None = None,
        merge: Merge | None = None,
        codec: str = "auto",
        host: str | None = None,
        port: int = 0,
        publish_port: int = 0,
        security: str = "curve",
        master: str | None = None,
        keys: str | Path | None = None,
        publish_every: int | None = None,
        publish_interval_s: float | None = None,
        publish_bytes_per_s: float | None = None,
        max_in_flight: int = 2,
        replica: str = "auto",
        checkpoint: str | Path | None = None,
        checkpoint_every_s: float = 60.0,
        resume: bool | str = False,
        lease_s: float = 30.0,
        max_norm: float | None = None,
        record: str | Path | None = None,
        progress: bool | str | None = None,
    ) -> None:
        check_kinds(locals())
        self._options = MasterOptions(
            port=port,
            publish_port=publish_port,
            policy=as_policy(staleness),
            merge=merge,
            codec=parse_codec(codec)[0],
            lease_s=lease_s,
            max_norm=max_norm,
            publish_every=publish_every,
            publish_interval_s=publish_interval_s,
            publish_bytes_per_s=publish_bytes_per_s,
            checkpoint=checkpoint,
            checkpoint_every_s=checkpoint_every_s,
            resume=resume if master is None else False,
            record=record,
        )
        check_place(master, keys, self._options)
        self._parameters = parameters_of(model)
        self._model = model
        self._host = host
        self._security = security
        self._remote = master
        self._key_file = keys
        self._codec = codec
        self._max_in_flight = max_in_flight
        self._replica = replica
        self._progress = progress
        self._resume = bool(resume)
        self._program, self._trains = secrets.token_hex(8), 0
        self._last_training: Training | None = None
        self._master: Master | None = None
        self._address = ""
        self._client_keys: ClientKeys | None = None
        self._training = threading.Lock()
        self._last = TrainResult()

    # ---- life ----------------------------------------------------------------------------

    def __enter__(self) -> ZmqDist:
        if self._remote is not None:
            if self._security == "curve":
                self._client_keys = read_client_keys(Path(self._key_file or default_key_file()))
            self._address = endpoint(*parse_address(self._remote))
            return self
        keys = None
        if self._security == "curve":
            server, driver = KeyPair.generate(), KeyPair.generate()
            keys = MasterKeys(server, driver.public)
            self._client_keys = ClientKeys(driver, server.public)
        bind_host, advertised = choose_hosts(self._host, spark_driver_host())
        self._master = Master(
            self._model,
            replace(self._options, bind_host=bind_host, advertise_host=advertised, keys=keys),
        )
        self._address = self._master.address
        self._master.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._last_training is not None and self._address:
            self._last_training.leave()
        self.stop()

    def stop(self) -> None:
        """Stop the master that was started here; the model stays. May be called again."""
        master, self._master = self._master, None
        self._address = ""
        if master is not None:
            master.stop()
            self._parameters.loaded()

    # ---- look ----------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The model: the very object that was given."""
        return self._model

    @property
    def version(self) -> int:
        """Number of updates applied since the master began."""
        return self._master.state.version if self._master is not None else self._last.version

    @property
    def address(self) -> str:
        """Where workers connect, ``tcp://host:port``; empty while stopped."""
        return self._address

    def stats(self) -> dict[str, Any]:
        """Return the last `train()`'s figures so far, as `TrainResult` names them."""
        return {**vars(self._last), "staleness_mean": self._last.staleness_mean}

    # ---- train ---------------------------------------------------------------------------

    def train(
        self,
        data: Any,
        gradient: Gradient,
        descent: Descent | None = None,
        *,
        epochs: int = 1,
        batch_size: int | None = None,
        tiers: Tiers | None = None,
        evaluate: Evaluate | None = None,
        evaluate_every_s: float | None = None,
        stop_when: StopWhen | None = None,
        callbacks: Sequence[Callback] = (),
        max_updates: int | None = None,
        timeout_s: float | None = None,
        workers: int | None = None,
    ) -> TrainResult:
        """Run `gradient` over all partitions and `descent` on what comes back.

        Returns when each step of each partition is settled exactly once. May be called
        several times; the model goes on from where it is.

        Parameters
        ----------
        data : RDD or list of iterables
            The partitions. A list runs in local processes, without Spark.
        gradient : callable (model, data) -> update
            Runs where the data is. `data` is an iterator over the partition, or a list
            of `batch_size` items. Returns one update, or yields several: the model is
            fresh after each yield. Updates are dicts, lists or tuples of arrays,
            `RowSparse`, scipy.sparse matrices and numbers; empty ones are skipped.
        descent : callable (model, update), optional
            Runs on the master and changes the model in place. Default: adds each array
            to the parameter of the same name.
        epochs : int, default=1
            Passes over the data.
        batch_size : int, optional
            Items per update. A task that is tried again then skips what is settled
            without computing it.
        tiers : Tiers, optional
            For a gradient that trains `model` in place and yields after each chunk: how
            often which rows are exchanged. Nothing is refreshed at a yield then; what
            others learned is added underneath the worker's own progress. The yielded
            value may be an `Update` with extra entries, examples and metrics, or None.
        evaluate : callable (model) -> number or dict of numbers, optional
            Judges a copy of a published version, in a thread of this process, while
            updates go on: at the beginning, from time to time, and the final model.
            What it returns goes into `TrainResult.history`, a plain number as
            ``"score"``. If it raises at first, the run ends; later it is logged.
        evaluate_every_s : float, optional
            From one evaluation to the next, in seconds; no two run at once. Default: so
            often that they take a tenth of the time.
        stop_when : callable (entry) -> bool, optional
            Called with the entry of the history that an evaluation made; if true, the
            run ends: ``lambda now: now["analogy"] > 0.3``.
        callbacks : sequence of callable (stats: dict)
            Called about each second with what `stats` returns.
        max_updates : int, optional
            Stop after about so many applied updates; those under way may still count.
        timeout_s : float, optional
            Give up after so many seconds.
        workers : int, optional
            Local processes, for a list. Default: one per core.

        Returns
        -------
        TrainResult

        Raises
        ------
        GradientError, DescentError
            The user's function raised; the error names partition and step.
        UpdateError
            An update cannot be sent or does not fit; the model is as before it.
        EvaluationError
            `evaluate` or `stop_when` raised at first; the model holds what it learned.
        MasterUnreachable, MasterLost, TrainTimeout, TrainError
            See these.
        ConfigError
            An option or the data cannot work.
        """
        if not self._address:
            raise ConfigError("the master is not running; use `with ZmqDist(model) as dd:`")
        if self._remote is not None and descent is not None:
            raise ConfigError(
                "descent runs on the master: start zmqdist-master with --descent pkg.mod:function "
                "and leave it out of train()"
            )
        options = TrainOptions(
            gradient=gradient,
            epochs=epochs,
            batch_size=batch_size,
            tiers=tiers if tiers is not None else getattr(gradient, "tiers", None),
            evaluate=evaluate,
            evaluate_every_s=evaluate_every_s,
            stop_when=stop_when,
            callbacks=callbacks,
            max_updates=max_updates,
            timeout_s=timeout_s,
            max_in_flight=self._max_in_flight,
            replica=self._replica,
            codec=self._codec,
            progress=self._progress,
            where=whereabouts(self._remote, self._host),
            program=self._program,
            train=self._trains,
            resume=self._resume,
        )
        if self._remote is None:
            self._options.check_descent(descent)
        if not self._training.acquire(blocking=False):
            raise ConfigError("train() is running already on this ZmqDist; use one for each")
        try:
            engine = engine_for(data, workers)
            try:
                if self._master is not None:
                    check_reach(self._address, self._host, local=isinstance(data, Sequence))
                    self._master.use(descent, self._trains)
                training = Training(
                    self._parameters,
                    engine,
                    options,
                    address=self._address,
                    keys=self._client_keys,
                    master=self._master,
                )
                self._last, self._last_training = training.result, training
                try:
                    return training.run()
                finally:
                    if training.plan is not None and training.plan.run:
                        self._program, self._trains = training.plan.program, self._trains + 1
            finally:
                engine.close()
        finally:
            self._training.release()
