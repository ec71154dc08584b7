"""``import tracelet_shim.auto``: what the .pth file does, where none is read.

Under ``python -S``, in embedded interpreters and in zip applications `site` does not run, or not over our directory.
One import, anywhere before the first `SummaryWriter`, has the same effect: with ``TRACELET_BACKEND`` set, the trackers
named are connected; without it, nothing happens. Both together do it once.
"""

from tracelet_shim import _bootstrap

_bootstrap.start()
