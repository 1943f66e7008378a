"""Talk with VisualGLM about a picture, on a web page.

python web_demo.py --from_pretrained visualglm-tiny
python web_demo.py --server_name 0.0.0.0 --server_port 8080 --auth me:secret
"""

import argparse
import ipaddress
import os
import socket
import sys
from collections.abc import Callable

from model import DEMO, ChatModel, GenerationConfig, SettingError, VisualGLMError, load_sat
from model.chat_model import demo_config
from model.command_line import ArgumentParser
from terminal.arguments import FAILED, MISUSED, add_model_arguments, load_model
from web.launch import serving, wait_for_the_end

PORT = 7860
AUTH_VARIABLE = "VISUALGLM_AUTH"


def parse_arguments(port: int) -> tuple[argparse.Namespace, GenerationConfig]:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add = parser.add_argument
    variables = os.environ
    address, number = variables.get("GRADIO_SERVER_NAME", "127.0.0.1"), variables.get("GRADIO_SERVER_PORT", str(port))
    add("--server_name", default=address, metavar="ADDRESS", help="0.0.0.0 for all (default %(default)s)")
    add("--server_port", type=parse_port, default=number, metavar="PORT", help="where it listens (default %(default)s)")
    add("--share", action="store_true", help="also give the page a public address, through Gradio's servers")
    add(
        "--auth",
        metavar="NAME:PASSWORD",
        action="append",
        type=parse_login,
        help=f"who may enter; may be given several times, or in {AUTH_VARIABLE} with commas in between",
    )
    DEMO.add_arguments(parser)
    options = parser.parse_args()
    try:
        from_variable = [parse_login(text) for text in filter(None, variables.get(AUTH_VARIABLE, "").split(","))]
        options.auth = [*(options.auth or []), *from_variable]
        return options, DEMO.from_arguments(options)
    except (SettingError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))


def parse_login(text: str) -> tuple[str, str]:
    """Read a name and a password with a colon in between."""
    name, _, password = text.partition(":")
    if not name or not password:
        raise argparse.ArgumentTypeError("A login is a name, a colon and a password, like me:secret.")
    return name, password


def parse_port(text: str) -> int:
    """Read the number of a port."""
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"A port is a number from 1 to {2**16 - 1}.")
    return int(text)


def check_address(address: str, port: int) -> None:
    """See whether a server can be there, before a model is loaded for it.

    Raises:
        SettingError: the port is taken, or the address not this machine's.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingError(f"There can be no page at {address}, port {port}: {reason}. Choose another.") from error


def is_private(address: str) -> bool:
    """Whether only this machine can reach a server at `address`."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name
        return False


def without_proxies_for(address: str) -> None:
    """Let Gradio, which looks for its own page when it starts, ask no proxy for it."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost", "127.0.0.1", address]))


def serve(model: ChatModel, config: GenerationConfig, options: argparse.Namespace) -> None:
    """Show the page until Ctrl-C."""
    if not options.auth and (options.share or not is_private(options.server_name)):
        print(
            "Warning: everybody who can reach this address can use the page. --auth asks for a login.", file=sys.stderr
        )
    without_proxies_for(options.server_name)
    where = (options.server_name, options.server_port)
    with serving(model, config, *where, auth=options.auth, share=options.share) as urls:
        print(f"VisualGLM is at {' and '.join(urls)} (Ctrl-C ends it)", flush=True)
        wait_for_the_end()


def main(load: Callable[..., ChatModel] = load_sat, port: int = PORT) -> None:
    """Run the program on a model that `load` loads."""
    options, _ = parse_arguments(port)  # the model's own settings are known only when it is loaded
    try:
        check_address(options.server_name, options.server_port)
        model = load_model(options, load)
        model.warm_up()
        serve(model, demo_config(model).from_arguments(options), options)
    except VisualGLMError as error:
        print(error, file=sys.stderr)
        sys.exit(MISUSED if isinstance(error, SettingError) else FAILED)


if __name__ == "__main__":
    main()
