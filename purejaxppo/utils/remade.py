"""Objects that are pickled as the call that makes them, since they consist of local functions."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class Remade:
    """Base of agents. A copy by `dataclasses.replace` has no recipe, and cannot be pickled where its parts cannot."""

    recipe: Callable[[], Any] | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def made_by(self, recipe: Callable[[], Any]) -> Self:
        """The object, which is from now on pickled as the recipe: a function at the top of a module, or a partial."""
        object.__setattr__(self, "recipe", recipe)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.recipe is None else (self.recipe, ())
