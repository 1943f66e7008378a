"""The parts of the page that its routes share: models, settings, cache of images, client files, votes."""

import dataclasses
from pathlib import Path
from typing import Any

from model import ChatModel, GenerationConfig

from ..explanations import Explainer, can_explain
from .client_files import ClientFolder
from .examples import knows_drawn_world
from .images import ImageCache
from .page_info import make_page_info
from .votes import VoteFile


class PageService:
    """Models, settings and image cache of the page. Of its visitors it keeps decoded images only.

    Args:
        model: generates the answers; called by several threads at once.
        config: the defaults of a visitor's settings.
        compared: a second model, whose answers visitors can compare.
        votes: JSON Lines file to which votes are appended.
        keep_history: whether browsers store conversations.
        explain: whether visitors can see which part of an image an answer relies on, if the models allow it.

    Raises:
        SettingError: `votes` cannot be written.
    """

    def __init__(
        self,
        model: ChatModel,
        config: GenerationConfig,
        *,
        compared: ChatModel | None = None,
        votes: Path | None = None,
        keep_history: bool = True,
        explain: bool = False,
    ) -> None:
        self.models = [model] if compared is None else [model, compared]
        self.config = dataclasses.replace(config, seed=None)  # no seed means a random one
        self.votes = None if votes is None else VoteFile(votes)
        self.client = ClientFolder()
        self.images = ImageCache(*(item.image_size for item in self.models), keep_files=votes is not None)
        self.explainer = Explainer()
        self.features = {
            "history": keep_history,
            "votes": votes is not None,
            "compare": compared is not None,
            "scenes": knows_drawn_world(model.description),
            "explain": explain and all(map(can_explain, self.models)),
        }
        self._info = make_page_info(self.models, self.config, self.features)

    def info(self, user: str | None) -> dict[str, Any]:
        """Return PageInfo for a visitor with a login, or without one."""
        return {**self._info, "user": user}
