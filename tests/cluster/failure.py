"""What goes wrong with a test cluster, in words for the person who asked for it."""


class Failed(Exception):
    """A cluster or a tool could not be had; the message says why and what would help."""
