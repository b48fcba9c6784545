"""What is known by name, such as attacks and defences."""

from difflib import get_close_matches
from typing import TypeVar

from genaf_hf.errors import UserError

Known = TypeVar("Known")


class Registry(dict[str, Known]):
    """Values by name; an unknown name is refused with the known ones listed.

    Args:
        noun: what each of them is, such as `"attack"`.
    """

    def __init__(self, noun: str):
        super().__init__()
        self.noun = noun

    def __missing__(self, name: str) -> Known:
        near = get_close_matches(str(name), self, 1)
        meant = f' (did you mean "{near[0]}"?)' if near else ""
        raise UserError(f'There is no {self.noun} "{name}"{meant}; there are {", ".join(self)}.')

    def add(self, name: str, known: Known) -> None:
        """Adds one; the `UserError` for a name that is taken names it."""
        if name in self:
            raise UserError(f'The {self.noun} "{name}" is known already: give yours another name.')
        self[name] = known
