"""The one kind of error that a user sees: a sentence that says what, where and what to do next."""


class SpearError(Exception):
    """What went wrong, where, and what to do next, in one line; the command line prints it and exits with 1."""


class Terminated(BaseException):
    """A signal ends the command. Nothing that goes on after a clip's error may catch it."""


class UnwritableFigures(SpearError):
    """Figures cannot be written, which is no fault of the clip: the command ends."""


class UnusableClip(SpearError):
    """One clip cannot be used; a stage over many clips lists the reason in clips/skipped.jsonl and goes on."""
