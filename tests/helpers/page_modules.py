"""Functions of the page's modules, called in the browser."""

from typing import Any

from tests.helpers.browser import Person

CALL_MODULE = """async ([path, source, value]) => {
    const module = await import(new URL(path, document.querySelector("script[src$='main.js']").src));
    return (0, eval)(source)(module, value);
}"""
CALL_APP = "async ([source, value]) => (0, eval)(source)(await window.visualglm.app, value)"


def call_module(person: Person, path: str, source: str, value: Any = None) -> Any:
    """Import a module of the page, and return the result of `source`, a JavaScript function of (module, value)."""
    return person.page.evaluate(CALL_MODULE, [path, source, value])


def call_app(person: Person, source: str, value: Any = None) -> Any:
    """Return the result of `source`, a JavaScript function of (app, value)."""
    return person.page.evaluate(CALL_APP, [source, value])
