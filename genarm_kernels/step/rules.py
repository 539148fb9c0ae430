"""What a step decides about its rows, written once for torch and for Triton: operators, and the `where` of either.

Constants are arguments, since those of a kernel are Triton's.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def"

import triton
import triton.language as tl

# How a row has ended. Going on is 0, as a status without fault is.
GOING_ON, EOS, STOP, ERROR = range(4)
# Ids that no model has: before the first token, whatever there is in a stop sequence, and filling that matches nothing.
NO_TOKEN, ANY_TOKEN, NEVER = -1, -2, -3
# How many of a text's last tokens are looked for earlier in it, to draft what followed them.
LEAST_MATCH, MOST_MATCH = 2, 4


def is_over(reasons, status):
    """Whether a row gets no token: it has ended, or there is a fault in its draw."""
    return (reasons | status) != 0


def fault(status, reasons):
    """A draw's status where what an ended row goes on with is no fault."""
    return status * (reasons == 0)


def fits(token, wanted, any_token):
    """Whether a token is what its place of a stop sequence asks for."""
    return (token == wanted) | (wanted == any_token)


def reason(before, over, is_eos, is_stop, where, going_on, eos, stop, error):
    """How a row has ended: once it has, for good; by a fault, else by EOS, else by a stop sequence, else not at all."""
    found = where(over, error, where(is_eos, eos, where(is_stop, stop, going_on)))
    return where(before == 0, found, before)


@triton.jit
def where(condition, x, y):
    """That of kernels: a function of the language is no argument of another there."""
    return tl.where(condition, x, y)
