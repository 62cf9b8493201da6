"""The actor that passes a request to stop on. A file of its own: its process loads nothing else, neither torch."""


class StopRequest:
    """An actor that passes the driver's request to stop on to the workers."""

    def __init__(self) -> None:
        self.made = False

    def make(self) -> None:
        """Ask the workers to stop at their next log window."""
        self.made = True

    def is_made(self) -> bool:
        """Return True once the driver has asked the workers to stop."""
        return self.made
