"""Answer the images of a folder with `visualglm batch`, compared with chat_batch on the same model in the same process.

python -m benchmarks.bulk --device cpu
python -m benchmarks.bulk --images 10000 --max-batch 128 --repetitions 1     full size, random weights

    chat_batch   the images are loaded before: only answering is measured
    batch        the program without loading the model: it lists and reads the files, answers, and writes the output

All answers have the same number of tokens. The two take turns; the table shows the medians. Images are JPEGs of 640 x
480 pixels with noise.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from benchmarks.full_size import Source, add_model_arguments
from benchmarks.parts.machine import describe_machine, min_int, name_gpu
from benchmarks.parts.photos import draw_photos
from model import DEMO, SatChatModel, chat_batch
from model.command_line import ArgumentParser, run_program
from model.images.preprocess import load_image
from visualglm.batch.rows import Input
from visualglm.batch.run import Run
from visualglm.batch.tasks import Result, Settings, Task
from visualglm.batch.work import Answerer

QUESTION = "Describe the image."
TARGET = 0.95  # of chat_batch's tokens/s


def measure_chat_batch(model: SatChatModel, images: list[Image.Image], tokens: int, max_batch: int) -> float:
    """Return tokens/s of chat_batch."""
    end = model.tokenizer.eos_token_id
    settings = {"temperature": 0, "max_new_tokens": tokens, "repetition_penalty": DEMO.repetition_penalty}
    started = time.perf_counter()
    answers = chat_batch(
        images,
        model.network,
        model.tokenizer,
        QUESTION,
        english=True,
        invalid_slices=[end],
        max_batch_size=max_batch,
        **settings,
    )
    seconds = time.perf_counter() - started
    assert all(isinstance(answer, tuple) for answer in answers)
    return len(images) * tokens / seconds


def measure_batch(model: SatChatModel, folder: Path, output: Path, tokens: int, max_batch: int) -> float:
    """Return tokens/s of the program, without the time to load the model."""
    end = model.tokenizer.eos_token_id
    fresh = SatChatModel(model.network, model.tokenizer)  # with an empty image cache
    sampling = {
        "temperature": 0,
        "max_new_tokens": tokens,
        "repetition_penalty": DEMO.repetition_penalty,
        "forbidden_ids": ((end, end + 1),),
    }
    settings = Settings("visualglm-tiny", sampling=sampling, max_batch_size=max_batch)
    answerer = Answerer(settings, model=fresh)

    def answer(_: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
        yield from answerer.answer(tasks)

    started = time.perf_counter()
    run = Run(settings, Input(folder, [QUESTION]), output)
    run.finish(answer)
    seconds = time.perf_counter() - started
    assert run.progress.answers == run.rows.count
    return run.rows.count * tokens / seconds


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add = parser.add_argument
    add("--quant", type=int, choices=(8, 4), help="quantize the weights to this many bits")
    add("--images", type=min_int(1), default=200, help="number of images (default %(default)s)")
    add("--tokens", type=min_int(2), default=32, help="tokens per answer (default %(default)s)")
    add("--max-batch", type=min_int(1), default=16, help="answers at a time (default %(default)s)")
    add("--repetitions", type=min_int(1), default=3, help="repetitions of each (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure both in turn; print a table."""
    options = parse_arguments()
    source = Source(options)
    model = source.sat(options.quant)
    model = SatChatModel(model.network, model.tokenizer.tokenizer)  # the tokenizer of real text
    model.warm_up()
    machine = describe_machine(name_gpu(source.device))
    print(f"{machine}, {source.name}, {options.images} images, {options.tokens} tokens each\n")
    rates: dict[str, list[float]] = {"chat_batch": [], "batch": []}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        with ThreadPoolExecutor() as pool:
            loaded = list(pool.map(load_image, draw_photos(images, options.images)))
        measure_chat_batch(model, loaded[: 2 * options.max_batch], options.tokens, options.max_batch)  # warm-up
        for number in range(options.repetitions):
            rates["chat_batch"].append(measure_chat_batch(model, loaded, options.tokens, options.max_batch))
            output = Path(folder, f"{number}.jsonl")
            rates["batch"].append(measure_batch(model, images, output, options.tokens, options.max_batch))
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    print("| program | tokens/s | images/s | ratio to chat_batch |\n|---|---|---|---|")
    for name, rate in medians.items():
        print(f"| {name} | {rate:.0f} | {rate / options.tokens:.1f} | {rate / medians['chat_batch']:.2f} |")
    print(f"\nTarget: at least {TARGET} of chat_batch's tokens/s.")


if __name__ == "__main__":
    sys.exit(run_program(main))
