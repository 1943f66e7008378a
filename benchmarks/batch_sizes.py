"""How many greedy answers change when they share a batch with others.

python -m benchmarks.batch_sizes
python -m benchmarks.batch_sizes --from_pretrained visualglm-tiny --dtype float32

Products of other numbers of rows round differently in half precision, and a token whose two most likely candidates are
almost equal may become the other one. Each answer is about another drawn scene. When an answer ends, the next one takes
its place, so that a batch stays full.
    differ-N   percentage of answers of batches of N that are not the tokens generated alone
"""

import argparse
import sys
from functools import cached_property

import numpy as np

from benchmarks.full_size import EMBEDDED_MODEL, Source, add_model_arguments
from benchmarks.parts.machine import describe_machine, min_int, name_gpu
from benchmarks.parts.table import Row, Stage, add_table_arguments, at_most, run_table
from model import CHINESE, ENGLISH, Conversation, SatChatModel, load_tokenizer
from model.answers import greedy_config
from model.command_line import ArgumentParser, run_program
from model.streaming import CompleteAnswer
from visualglm.scenes.scene import render_scene, sample_scene

COUNTS = (2, 4, 8, 16, 32, 64, 128, 256)
QUESTIONS = ((CHINESE, "描述这张图片。"), (ENGLISH, "Describe this image."))
IMAGE_SIZE = 224
SEEDS = 2**42  # of scenes that neither training nor evaluation uses
MAX_DIFFERENT = at_most(100 * 15 / 567)  # in the soak test of the first engine


class BatchSizes:
    """Generates the same greedy answers in batches of different sizes.

    Args:
        model: the model.
        count: number of answers.
        tokens: maximum number of tokens of an answer.
    """

    def __init__(self, model: SatChatModel, count: int, tokens: int) -> None:
        self.model = model
        self.config = greedy_config(model, tokens).replace(top_logprobs=0)
        self.questions = []
        for number in range(count):
            language, text = QUESTIONS[number % len(QUESTIONS)]
            scene = sample_scene(np.random.default_rng([SEEDS, number]))
            self.questions.append((Conversation(render_scene(scene, IMAGE_SIZE), [], language), text))

    @cached_property
    def alone(self) -> dict[int, tuple[int, ...]]:
        """The tokens of each answer that is generated alone."""
        return self.generate(1)

    def generate(self, max_batch_size: int) -> dict[int, tuple[int, ...]]:
        """Return the tokens of each answer by its number."""
        found = {}
        for number, answer in self.model.answer_stream(self.questions, self.config, max_batch_size):
            assert isinstance(answer, CompleteAnswer), answer
            found[number] = tuple(token.token_id for token in answer.logprobs)
        return found

    def differ(self, max_batch_size: int) -> tuple[float, str]:
        """Return the percentage of answers that differ from those alone, and their number."""
        different = sum(tokens != self.alone[number] for number, tokens in self.generate(max_batch_size).items())
        return 100 * different / len(self.alone), f"{different} of {len(self.alone)}"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_table_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--count", type=min_int(1), default=1000, help="number of answers (default %(default)s)")
    parser.add_argument("--tokens", type=min_int(1), default=64, help="tokens of an answer (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print them."""
    options = parse_arguments()
    source = Source(options)

    def make() -> BatchSizes:
        tokenizer = load_tokenizer(EMBEDDED_MODEL if source.is_random else source.name)
        return BatchSizes(SatChatModel(source.sat().network, tokenizer), options.count, options.tokens)

    rows = [
        Row(f"differ-{count}", "% of greedy answers that differ", lambda b, n=count: b.differ(n), MAX_DIFFERENT)
        for count in COUNTS
    ]
    machine = f"{describe_machine(name_gpu(source.device))}, {source.name}, {source.dtype}"
    run_table(options, machine, [Stage("batch", make, rows)])


if __name__ == "__main__":
    sys.exit(run_program(main))
