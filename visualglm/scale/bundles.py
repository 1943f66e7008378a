"""Bundles of tasks, and the actor that answers them on a node.

A bundle travels as bytes: its number and its tasks, whose `number` is their position in the bundle. All its answers
travel back together, so that a bundle which a lost node had begun is simply answered once more as a whole.
"""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from model.errors import VisualGLMError
from visualglm.batch.tasks import Result, Settings, Task

from .errors import ClusterError
from .nodes import check_facts, make_inspection
from .ray_environment import forget_thread_count

if TYPE_CHECKING:  # these need ray or torch
    import pyarrow

    from visualglm.batch.work import Answerer

EMPTY = Task("", 0, None, {})


class Expectation(NamedTuple):
    """Requirements that a node must meet.

    Attributes:
        digest: the program's `code_digest`.
        sample: path of a file that it can read; None for none.
    """

    digest: str
    sample: str | None


def pack_tasks(number: int, tasks: Sequence[Task]) -> bytes:
    """Return a bundle as bytes, without the columns of the tasks, which the nodes do not need."""
    return pickle.dumps(
        (number, [replace(task, number=position, columns={}) for position, task in enumerate(tasks)]),
    )


class BundleAnswerer:
    """The actor of a GPU: answers bundles with one loaded model, several of them at the same time.

    Args:
        settings: the model and how it answers.
        expectation: what this node has to have.

    An error of the model or the node is kept, and returned in place of answers.
    """

    def __init__(self, settings: Settings, expectation: Expectation) -> None:
        from ray.util import get_node_ip_address

        self.error = ""
        self.answerer: Answerer | None = None
        address = get_node_ip_address()
        try:
            facts = make_inspection()(expectation.sample)
            check_facts(facts, address, expectation.digest, expectation.sample)
            forget_thread_count()
            self.answerer = self._load(settings)
        except ClusterError as error:
            self.error = str(error)
        except VisualGLMError as error:
            self.error = f"Node {address}: {error}"

    def __call__(self, block: "pyarrow.Table") -> "pyarrow.Table":
        """Answer the bundles of a block, column "tasks"; return a block with the column "answers"."""
        import pyarrow

        answered = [self.answer(*pickle.loads(item.as_py())) for item in block["tasks"]]
        return pyarrow.table({"answers": pyarrow.array(answered, pyarrow.large_binary())})

    def answer(self, number: int, tasks: list[Task]) -> bytes:
        """Return a bundle's number, pairs (position, result without its task), and an error, as bytes."""
        if self.answerer is None:
            return pickle.dumps((number, [], self.error))
        answers = [(result.task.number, replace(result, task=EMPTY)) for result in self.answerer.answer(tasks)]
        return pickle.dumps((number, answers, ""))

    def _load(self, settings: Settings) -> "Answerer":
        from visualglm.batch.work import Answerer

        answerer = Answerer(settings)
        answerer.warm_up()
        return answerer


def restore_results(unanswered: dict[int, list[Task]], block: "pyarrow.Table") -> Iterator[Result]:
    """Yield the results of a block with their tasks, and remove its bundles from `unanswered`.

    Args:
        unanswered: tasks of each bundle, by the bundle's number. Answers to other bundles came before, and are ignored.

    Raises:
        ClusterError: a node could not load the model, or differs from this machine.
    """
    for item in block["answers"]:
        number, answers, error = pickle.loads(item.as_py())
        if error:
            raise ClusterError(error)
        tasks = unanswered.pop(number, [])
        for position, answer in answers if tasks else ():
            task = tasks[position]
            yield replace(answer, task=replace(task, image=None) if isinstance(task.image, bytes) else task)
