"""How wide is a model? The type of the number by which a recipe multiplies the sizes of layers."""

from typing import Annotated, Literal

from pydantic import Field

WidthMultiplier = Annotated[int, Field(gt=0, le=64)] | Literal["auto"]
