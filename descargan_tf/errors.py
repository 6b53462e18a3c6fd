"""The one exception that a user caused and can mend."""


class UserError(Exception):
    """Bad input: says what was found, what was expected and what to do.

    `main.py` prints it as one line and exits with status 2; everything else is a defect and keeps its traceback.
    """
