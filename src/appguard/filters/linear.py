"""placeholder"""


def degree_of(pattern: str, flags: int) -> int | None:
    return 2
