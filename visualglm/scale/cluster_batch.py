"""Answer the tasks of `visualglm batch` on a Ray cluster, with one actor a GPU, through Ray Data."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visualglm.batch.tasks import Backend, Result, Settings, Task

from .address import AUTO, CLIENT_SCHEME, connect
from .bundles import BundleAnswerer, Expectation, restore_results
from .errors import ClusterError, require_ray
from .nodes import check_nodes, choose_workers, count_slots, first_file, list_nodes
from .version import code_digest

if TYPE_CHECKING:  # these need ray
    import pyarrow

    from .feed import TaskFeed

# While one bundle ends and the next one begins, the others keep the engine's batch full.
BUNDLES_IN_FLIGHT = 3
BUNDLE_QUESTIONS = 64  # questions of a bundle without --max-batch: the default batch of a GPU
CONTINUE = "The answers so far are in the output; the same command continues."


@dataclass(frozen=True)
class ClusterOptions:
    """How a cluster is used.

    Attributes:
        address: see `visualglm.scale.address`.
        workers: maximum number of actors, None for as many as fit.
        cpus: CPUs of an actor; 0 for one GPU.
        send_images: whether files are read by the program and sent to the nodes.
    """

    address: str = AUTO
    workers: int | None = None
    cpus: int = 0
    send_images: bool = False


def cluster_backend(options: ClusterOptions) -> Backend:
    """Return the backend that answers on a cluster.

    Raises:
        ClusterError: Ray is not installed, or the address cannot be used for bulk work.
    """
    require_ray()
    if options.address.startswith(CLIENT_SCHEME):
        raise ClusterError(
            f"Bulk work runs on a node of the cluster, not through {CLIENT_SCHEME}. Start the command on a node, or "
            "send it there with `ray job submit`."
        )
    return partial(answer_on_cluster, options)


def answer_on_cluster(options: ClusterOptions, settings: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
    """Answer tasks on a Ray cluster and yield results as they arrive; closing the iterator stops the work.

    Raises:
        ClusterError: the cluster cannot be used, or lost tasks.
        VisualGLMError: the model cannot be loaded, or the stream of tasks ended with an error.
    """
    with connected(options.address):
        from ray.exceptions import RayError

        from .feed import TaskFeed

        sizes = choose_workers(options.workers, options.cpus)
        stream = iter(tasks)
        head = list(islice(stream, settings.max_batch_size or BUNDLE_QUESTIONS))
        expectation = Expectation(
            code_digest(), None if options.send_images else first_file([task.image for task in head])
        )
        check_nodes([node for node in list_nodes() if count_slots([node], options.cpus)], expectation.sample)
        feed = TaskFeed(chain(head, stream), count_rows(settings, head), options.send_images)
        try:
            yield from run_dataset(feed, make_dataset(feed, options, settings, sizes, expectation))
        except RayError as error:
            raise ClusterError(f"The Ray cluster stopped the work: {first_line(error)} {CONTINUE}") from error


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Context manager: connect to the cluster at `address`, and disconnect at the end; reuse a connection."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    # Ray Data warns about each of its actors; the messages of this program name what matters.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    connect(address, log_to_driver=False)
    import ray  # after `connect`, which prepares the environment of a local Ray

    try:
        yield
    finally:
        ray.shutdown()


def count_rows(settings: Settings, head: list[Task]) -> int:
    """Return the number of rows of a bundle, whose questions fill a batch.

    Args:
        head: the first tasks.
    """
    questions = max((len(task.questions) for task in head), default=1)
    return max(1, (settings.max_batch_size or BUNDLE_QUESTIONS) // questions)


def run_dataset(feed: "TaskFeed", blocks: "Iterable[pyarrow.Table]") -> Iterator[Result]:
    """Feed a dataset, and yield results as they arrive.

    Raises:
        ClusterError: the cluster lost tasks.
        VisualGLMError: the stream of tasks ended with an error.
    """
    feed.start()
    try:
        for block in blocks:
            yield from restore_results(feed.unanswered, block)
    finally:
        feed.stop()
    if feed.error is not None:
        raise feed.error
    if feed.unanswered:
        raise ClusterError(f"The Ray cluster lost {sum(map(len, feed.unanswered.values()))} rows. {CONTINUE}")


def make_dataset(
    feed: "TaskFeed", options: ClusterOptions, settings: Settings, sizes: tuple[int, int], expectation: Expectation
) -> "Iterable[pyarrow.Table]":
    """Return an iterable over the blocks of answered bundles, which runs the dataset.

    Args:
        sizes: number of actors to start with, and maximum number.
    """
    import ray.data

    from .feed import FeedSource

    set_up(ray.data.DataContext.get_current())
    pool = ray.data.ActorPoolStrategy(
        min_size=1,
        initial_size=sizes[0],
        max_size=sizes[1],
        max_concurrent_calls_per_actor=BUNDLES_IN_FLIGHT,
        enable_true_multi_threading=True,
    )
    answered = ray.data.read_datasource(FeedSource(feed.queue), num_cpus=0, override_num_blocks=1).map_batches(
        BundleAnswerer,
        fn_constructor_args=(make_portable(settings, "cpu" if options.cpus else "cuda"), expectation),
        batch_size=None,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=options.cpus or 1,
        num_gpus=0 if options.cpus else 1,
    )
    blocks: Iterable[pyarrow.Table] = answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    return blocks


def set_up(context: Any) -> None:
    """Configure Ray Data to keep one bundle per block, and to print no progress."""
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def make_portable(settings: Settings, device: str) -> Settings:
    """Return the settings with absolute paths of models in directories, and with the device of the nodes."""
    loading = {**settings.loading, "device": device}
    if loading.get("base"):
        loading["base"] = absolute(loading["base"])
    return replace(settings, model=absolute(settings.model), loading=loading)


def absolute(model: str) -> str:
    """Return the absolute path of a model's directory; other names without change."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def first_line(error: Exception) -> str:
    """Return the first line of an error's message that is not empty."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
