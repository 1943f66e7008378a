"""Fixtures of the browser tests."""

from tests.helpers.browser import chromium, enter, page_arguments, page_url, person

__all__ = ["chromium", "enter", "page_arguments", "page_url", "person"]
