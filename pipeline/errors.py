"""The one exception that is meant for a person, and how a command ends with it."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

DECIDES_NOTHING = "says what went wrong"
_NEXT = "\nerror: "


class UserError(Exception):
    """Something the user can fix: the message names the file, the key and the remedy.

    Commands print it without a traceback and exit with 1. Several problems are one line each.
    """

    @property
    def problems(self) -> list[str]:
        """The lines, without the word that begins each of them."""
        return str(self).split(_NEXT)


def nearest(wrong: str, known: Iterable[str], most: int | None = None) -> str:
    """Suggest the closest known name ("Did you mean 'lr'?"), or list all if none is close.

    Args:
        wrong: what is not known.
        known: what is.
        most: names to list, after the suggestion too, where there may be very many; None: all, if none is close.

    Returns:
        A sentence or two.
    """
    names = sorted(known)
    close = get_close_matches(wrong, names, n=1)
    more = f" and {len(names) - most} more" if most is not None and len(names) > most else ""
    listed = f"Known: {', '.join(names[:most])}{more}."
    suggested = f"Did you mean '{close[0]}'?" if close else ""
    return f"{suggested} {listed}".strip() if most is not None or not close else suggested


def refuse(problems: Iterable[str]) -> None:
    """Raise UserError with all the problems, one line each, if there are any.

    Args:
        problems: what is wrong, each with file, key and remedy.

    Raises:
        UserError: there is a problem.
    """
    if lines := list(dict.fromkeys(problems)):
        raise UserError(_NEXT.join(lines))


@contextmanager
def gathering(problems: list[str]) -> Iterator[None]:
    """Add a UserError of the block to the problems instead of raising it."""
    try:
        yield
    except UserError as error:
        problems += error.problems


def run(command: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call a command; end the process with a person's message instead of a traceback.

    ``--verbose`` and ``--quiet`` on the command line, or GENLOOM_LOG (debug, info, warning, error) in the environment
    of `dvc repro`, say how much is shown. A full or failing disk is an OSError from anywhere below, so it is caught
    here once.
    """
    from pipeline.console import set_up_logging

    sys.argv[1:] = set_up_logging(sys.argv[1:])
    try:
        command(*args, **kwargs)
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno is None or (error.filename is None and error.errno != 28):
            raise
        where = f"{error.filename}: " if error.filename else ""
        remedy = " Free some space and run the command again." if error.errno == 28 else ""
        sys.exit(f"error: {where}{error.strerror}.{remedy}")
    except KeyboardInterrupt:
        sys.exit(130)
