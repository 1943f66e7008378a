"""Schemas of explanations: the parameter of a request, and the field of a response."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

Explain = Annotated[
    bool | Literal["tokens"] | None,
    Field(
        description='explain the answer: which part of the image decides it; "tokens" adds a map for each token; needs '
        "an image, and a server that allows it"
    ),
]
Map = Annotated[
    list[list[float]], Field(description="a number from 0 to 1 for each patch, by rows; all 0 if no part decides")
]


class TokenExplanation(BaseModel):
    """A token of an explained answer."""

    token: str
    bytes: list[int]
    reliance: float = Field(description="how much less likely the token is without the image's content, in nats")
    map: Map | None = None


class ExplanationInfo(BaseModel):
    """The part of the image that an answer relies on."""

    map: Map
    peak: list[float] | None = Field(description="x and y of the highest patch, as fractions of width and height")
    reliance: float = Field(description="the sum of the tokens' reliance")
    tokens: list[TokenExplanation]
