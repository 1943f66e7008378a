"""Chat with a small model, compared with SAT's own generation on the same weights.

python -m benchmarks.chat
python -m benchmarks.chat --device cuda --from_pretrained visualglm-6b --dtype float16

Three backends answer the same questions in turn, with the demos' sampling and the same number of tokens:
    ours            stream_answer, including detokenization
    SAT             filling_sequence, CachedAutoregressiveMixin and BaseStrategy, as they are after importing `model`
    SAT, scripted   the same with SAT's functions under torch.jit.script, as they are when SAT is imported alone
SAT's sequences are as short as the answer allows; in its demos they always have 2,048 tokens, which is slower. It
encodes the image for every question, as in its demos. First, the greedy tokens of all backends are checked for
equality.
"""

import argparse
import statistics
import sys
from collections.abc import Callable

import torch
from PIL import Image

from benchmarks.parts.machine import EXAMPLE_IMAGE, describe_machine, min_int
from benchmarks.parts.prompts import CASES, Answer, Case
from benchmarks.parts.sat_baseline import SatGeneration, ScriptedSatGeneration
from benchmarks.startup import measure_start, print_start
from model import DEMO, GenerationConfig, SatChatModel, load_sat
from model.command_line import ArgumentParser, run_program
from model.engine import generate
from model.images.preprocess import load_image

GREEDY = DEMO.replace(temperature=0, repetition_penalty=1.0)


class OurBackend:
    """The public stream_answer, with an empty image cache."""

    def __init__(self, model: SatChatModel) -> None:
        self.model = model

    def settings(self, case: Case, config: GenerationConfig) -> GenerationConfig:
        """Return `config` with the case's number of tokens, and the end token forbidden."""
        end = self.model.tokenizer.eos_token_id
        return config.replace(max_new_tokens=case.tokens, forbidden_ids=((end, end + 1),))

    def greedy(self, case: Case, image: Image.Image) -> list[int]:
        """Return the greedy tokens."""
        model, config = self.model, self.settings(case, GREEDY)
        _, request = model.make_request(case.conversation(image), case.question, config)
        steps = generate(model.network, request, eos_token_id=model.tokenizer.eos_token_id)
        return [step.token_id for step in steps if step.token_id is not None]

    def answer(self, case: Case, image: Image.Image, seed: int) -> Answer:
        """Answer twice; of the second answer, only the first token is measured."""
        model = SatChatModel(self.model.network, self.model.tokenizer)  # with an empty image cache
        config = self.settings(case, DEMO.replace(seed=seed))
        conversation = case.conversation(image)
        *_, last = model.stream_answer(conversation, case.question, config)
        *_, again = model.stream_answer(conversation, case.question, config.replace(max_new_tokens=1))
        assert last.usage is not None and again.usage is not None and last.usage.answer_tokens == case.tokens
        rate = (case.tokens - 1) / (last.usage.total_s - last.usage.first_token_s)
        return Answer(last.usage.prompt_tokens, last.usage.first_token_s, rate, again.usage.first_token_s)


Backend = OurBackend | SatGeneration | ScriptedSatGeneration


def check_tokens(backends: dict[str, Backend], cases: list[Case], image: Image.Image) -> None:
    """Check that the greedy tokens of all backends are equal; this also warms them up.

    Raises:
        AssertionError: they differ.
    """
    for case in cases:
        expected, *others = [backend.greedy(case, image) for backend in backends.values()]
        assert len(expected) == case.tokens, f"{len(expected)} tokens, not {case.tokens}"
        for name, tokens in zip(list(backends)[1:], others, strict=True):
            same = next((i for i, pair in enumerate(zip(expected, tokens, strict=True)) if len(set(pair)) > 1), None)
            assert same is None, f"{name} and ours differ from token {same} on: {case.question}"
    total = sum(case.tokens for case in cases)
    print(f"\nGreedy tokens of {', '.join(backends)}: equal, {total} tokens in {len(cases)} cases.\n")


def measure(
    backends: dict[str, Backend], cases: list[Case], image: Image.Image, repetitions: int
) -> dict[tuple[Case, str], list[Answer]]:
    """Run all cases on all backends in turn, `repetitions` times."""
    answers: dict[tuple[Case, str], list[Answer]] = {(case, name): [] for case in cases for name in backends}
    for seed in range(repetitions):
        for case, name in answers:
            answers[case, name].append(backends[name].answer(case, image, seed))
    return answers


def median_of(answers: list[Answer], value: Callable[[Answer], float]) -> float:
    """Return the median of one number over several answers."""
    return statistics.median(value(answer) for answer in answers)


def print_answers(answers: dict[tuple[Case, str], list[Answer]]) -> None:
    """Print the medians of each backend, and our ratio to them."""
    print(
        "| prompt + answer, tokens | backend | tokens/s | speedup of ours | first token, ms | relative time of ours |"
    )
    print("|---|---|---|---|---|---|")
    for (case, name), measured in answers.items():
        own = answers[case, "ours"]
        rate, own_rate = (median_of(group, lambda a: a.tokens_per_s) for group in (measured, own))
        first, own_first = (median_of(group, lambda a: a.first_token_s) for group in (measured, own))
        again, own_again = (median_of(group, lambda a: a.again_s) for group in (measured, own))
        size = f"{measured[0].prompt_tokens} + {case.tokens}"
        numbers = f"{rate:.0f} | {own_rate / rate:.2f} | {first * 1e3:.1f}"
        if name == "ours":
            print(f"| {size} | {name} | {numbers}; repeated {again * 1e3:.1f} | |")
        else:
            print(f"| {size} | {name} | {numbers} | {own_first / first:.2f}; repeated {own_again / again:.2f} |")


def print_summary(answers: dict[tuple[Case, str], list[Answer]]) -> None:
    """Print the smallest and largest speedup over the faster SAT backend of each case, in tokens/s."""
    rates = {key: median_of(measured, lambda answer: answer.tokens_per_s) for key, measured in answers.items()}
    cases = dict.fromkeys(case for case, _ in rates)
    ratios = [
        rates[case, "ours"] / max(rate for (other, name), rate in rates.items() if other == case and name != "ours")
        for case in cases
    ]
    print(
        "\nTokens/s of ours, divided by the faster SAT row of each case: "
        f"{min(ratios):.2f} to {max(ratios):.2f}; target at least 2."
    )


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from_pretrained", default="visualglm-tiny", metavar="NAME_OR_DIR")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="dtype of the weights (default: chosen for the device and the size)")
    parser.add_argument(
        "--repetitions", type=min_int(1), default=7, help="repetitions of every answer (default %(default)s)"
    )
    parser.add_argument("--starts", type=min_int(1), default=5, help="number of fresh processes (default %(default)s)")
    parser.add_argument("--cases", type=min_int(1), default=len(CASES), help="number of questions")
    parser.add_argument("--tokens", type=min_int(2), help="tokens per answer, instead of the numbers of the cases")
    return parser.parse_args()


def choose_cases(options: argparse.Namespace) -> list[Case]:
    """Return the cases selected by the options."""
    cases = CASES[: options.cases]
    return [Case(c.question, options.tokens or c.tokens, c.turns, c.language) for c in cases]


def load_backends(options: argparse.Namespace) -> dict[str, Backend]:
    """Load the weights once for us and once for SAT."""
    ours, theirs = (load_sat(options.from_pretrained, device=options.device, dtype=options.dtype) for _ in range(2))
    plain = SatGeneration(theirs)
    return {"ours": OurBackend(ours), "SAT": plain, "SAT, scripted": ScriptedSatGeneration(plain)}


def main() -> None:
    """Measure fresh processes, then the three backends; print two tables."""
    options = parse_arguments()
    gpu = torch.cuda.get_device_name() if options.device.startswith("cuda") else "no GPU"
    backends, cases, image = load_backends(options), choose_cases(options), load_image(str(EXAMPLE_IMAGE))
    print(f"{describe_machine(gpu)}, {options.from_pretrained}, threads: {torch.get_num_threads()}\n")
    arguments = ["--from_pretrained", options.from_pretrained, "--device", options.device, "--seed", "1"]
    arguments += ["--dtype", options.dtype] if options.dtype else []
    print_start([measure_start(arguments) for _ in range(options.starts)])
    check_tokens(backends, cases, image)
    answers = measure(backends, cases, image, options.repetitions)
    print_answers(answers)
    print_summary(answers)


if __name__ == "__main__":
    sys.exit(run_program(main))
