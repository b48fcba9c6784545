"""What a user did that cannot be worked with, and what errors of other packages say of it."""


class UserError(ValueError):
    """What its reader can mend: one sentence that names the value, what was expected and how to mend it.

    Command lines print the sentence alone; every other exception is a fault of ours and keeps its traceback.

    Args:
        sentence: also within a traceback, as a worker of a `DataLoader` hands on what it raised.
    """

    def __init__(self, sentence: str):
        super().__init__(sentence.rpartition(f"{__name__}.UserError: ")[2].strip())


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop; its kind where it says nothing.

    A line that ends with a colon announces the next one, which is added.
    """
    first, *rest = [line for line in str(error).splitlines() if line.strip()] or [""]
    said = f"{first} {rest[0].strip()}" if first.rstrip().endswith(":") and rest else first
    return said.strip().rstrip(".") or type(error).__name__
