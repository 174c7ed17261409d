"""How wide is a model? A number by which a recipe multiplies the sizes of its layers."""

from typing import Annotated, Literal

from pydantic import Field

WidthMultiplier = Annotated[int, Field(gt=0, le=64)] | Literal["auto"]
